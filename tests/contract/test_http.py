"""The server without a client library: raw bodies, health, metrics, documentation."""

from __future__ import annotations

import json

import httpx
import psutil
import pytest

from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME, GatewayServer, RunningServer


def post(server: RunningServer, content: bytes, kind: str = "application/json") -> httpx.Response:
    headers = {"content-type": kind}
    return httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers, timeout=60)


def test_health_and_ready(server: RunningServer) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/ready").status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b"{}", "text/plain"),
        (b'{"messages": 3}', "application/json"),
        (b'{"messages": [], "model": ["x"]}', "application/json"),
        (b'{"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}', "application/json"),
        (b"[" * 50_000, "application/json"),
        (b"\xff\xfe", "application/json"),
    ],
    ids=repr,
)
def test_malformed_bodies_are_400_in_openais_shape(server: RunningServer, content: bytes, kind: str) -> None:
    response = post(server, content, kind)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert {"message", "type", "param", "code"} <= set(response.json()["error"])


def test_wire_form_of_a_stream(server: RunningServer) -> None:
    body = {"model": NAME, "messages": image_question(), "stream": True, "max_tokens": 60, **small_fan_out()}
    response = post(server, json.dumps(body).encode())
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in response.headers
    frames = response.text.split("\n\n")
    assert frames[-1] == ""
    assert frames[-2] == "data: [DONE]"
    assert all(frame.startswith(("data: {", ": ")) for frame in frames[:-2])


def test_our_metrics_are_beside_vllms(server: RunningServer) -> None:
    body = {"model": NAME, "messages": image_question(), "max_tokens": 60, **small_fan_out()}
    before = server.gauge("mirl_requests_total")
    assert post(server, json.dumps(body).encode()).status_code == 200
    assert server.gauge("mirl_requests_total") == before + 1
    assert server.gauge("mirl_descriptions_total") >= 3
    assert server.gauge("mirl_tokens_total") > 0
    assert server.gauge("mirl_requests_in_flight") == 0
    assert server.gauge("vllm:generation_tokens_total") > 0


def test_documentation_shows_the_knobs(server: RunningServer) -> None:
    # A gateway has no page for its document, and leads to it.
    assert httpx.get(f"{server.url}/docs", follow_redirects=True).status_code == 200
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    paths = document["paths"]
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["mirl"] == {"$ref": "#/components/schemas/MIRLOptions"}
    assert "mi_weight" in document["components"]["schemas"]["MIRLOptions"]["properties"]
    # A gateway documents its own routes, not those of its engines.
    assert isinstance(server, GatewayServer) or "/v1/completions" in paths


def test_nothing_private_is_logged(server: RunningServer) -> None:
    secret = "a-very-private-question"
    body = {"model": NAME, "messages": image_question(secret), "max_tokens": 20, **small_fan_out()}
    headers = {"authorization": "Bearer sk-private-key"}
    url = f"{server.url}/v1/chat/completions"
    assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    assert httpx.post(url, json={**body, "frob": 1}, headers=headers, timeout=60).status_code == 400
    log = server.log.read_text(errors="replace")
    assert secret not in log
    assert "sk-private-key" not in log
    assert "base64," not in log


@pytest.mark.parametrize("model", [NAME, f"{NAME}:direct"])
def test_no_image_is_fetched_unless_a_host_is_allowed(server: RunningServer, model: str) -> None:
    # This very server would answer.
    part = {"type": "image_url", "image_url": {"url": f"{server.url}/docs"}}
    body = {"model": model, "messages": [{"role": "user", "content": [part]}]}
    response = post(server, json.dumps(body).encode())
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_image", "messages[0].content[0]")
    assert "--allow-image-host" in error["message"]


def test_the_server_listens_on_loopback_only(server: RunningServer) -> None:
    port = httpx.URL(server.url).port
    sockets = psutil.Process(server.process.pid).net_connections("tcp")
    hosts = {
        connection.laddr.ip
        for connection in sockets
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert hosts == {"127.0.0.1"}


def test_scores_agree_with_the_pipelines(server: RunningServer) -> None:
    fields = {
        "model": NAME,
        "messages": image_question(),
        "seed": 1,
        "temperature": 0,
        "max_tokens": 60,
        **small_fan_out(),
    }
    description = post(server, json.dumps(fields).encode()).json()["mirl"]["descriptions"][0]
    if description["mi"] is None:
        pytest.skip("these weights gave no usable description")
    body = {
        "model": NAME,
        "messages": image_question(),
        "descriptions": [description["text"], "completely something else"],
    }
    scored = httpx.post(f"{server.url}/v1/mirl/score", json=body, timeout=60)
    assert scored.status_code == 200, scored.text
    first, other = scored.json()["data"]
    # The text may be tokenized otherwise than it was sampled; in bfloat16 the same tokens differ a little.
    if first["tokens"] == description["tokens"] - 1:
        assert first["mi_per_token"] == pytest.approx(description["mi_per_token"], abs=0.15)
    assert first["logprob"] > other["logprob"]
