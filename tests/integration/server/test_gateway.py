"""A real gateway process before a real `mirl-serve` with the token routes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mirl_client import evidence
from tests.helpers.image_requests import image_part, image_question, small_fan_out
from tests.helpers.ports import reserved_port
from tests.helpers.servers import (
    MIRL_SERVE,
    NAME,
    VLLM_SERVE,
    GatewayServer,
    RunningServer,
    running,
    running_gateway,
)
from tests.helpers.waiting import wait_until

GATED = {"model": NAME, "messages": image_question(), "seed": 1, "temperature": 0.0, **small_fan_out()}
TEXT = [{"role": "user", "content": "hello"}]
MOST_MEMORY = 200 * 2**20
"""Bytes. It was 125 million when this was written."""
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {
            "type": "object",
            # Bounded: this model knows no JSON, and would write one number to the end of its tokens.
            "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["sum"],
            "additionalProperties": False,
        },
    },
}


def ask(server: RunningServer, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_gated_question(gateway: GatewayServer) -> None:
    before = gateway.gauge("mirl_requests_total")
    answer = ask(gateway, GATED)
    assert answer["model"] == NAME
    assert answer["choices"][0]["message"]["content"]
    assert len(answer["mirl"]["descriptions"]) == 3
    assert answer["mirl"]["vote"]
    assert gateway.gauge("mirl_requests_total") == before + 1
    assert gateway.sequences() == 0


def test_the_same_descriptions_have_the_same_mi(gateway: GatewayServer) -> None:
    """The gateway scores over HTTP what its engine's own MIRL scores in process."""
    texts = [described["text"] for described in ask(gateway, GATED)["mirl"]["descriptions"]]
    body = {
        "model": NAME,
        "messages": image_question(),
        "descriptions": list(dict.fromkeys([*texts, "a red 7 at the top left", "two digits, 3 and 5"])),
    }
    here, there = (ask(server, body, "/v1/mirl/score") for server in (gateway, gateway.engine))
    mine, theirs = ([entry["mi"] for entry in scored["data"]] for scored in (here, there))
    differences = [abs(a - b) for a, b in zip(mine, theirs, strict=True)]
    print(f"MI of {len(mine)} descriptions: largest difference {max(differences):.2g} nats")
    assert max(differences) < 0.05


def test_streams(gateway: GatewayServer) -> None:
    with gateway.client() as client:
        stream = client.chat.completions.create(
            model=NAME, messages=image_question(), stream=True, extra_body=small_fan_out(), seed=1
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert any(evidence(chunk) is not None for chunk in chunks)
    with gateway.client() as client:
        plain = list(client.chat.completions.create(model=NAME, messages=TEXT, stream=True, max_tokens=5))
    assert {chunk.model for chunk in plain} == {NAME}
    assert plain[-1].choices[0].finish_reason == "length"


def test_the_plain_model(gateway: GatewayServer) -> None:
    body = {"model": f"{NAME}:direct", "messages": image_question(), "max_tokens": 5, "temperature": 0}
    here, there = ask(gateway, body), ask(gateway.engine, body)
    assert here["model"] == f"{NAME}:direct"
    assert "mirl" not in here
    assert here["choices"][0]["message"] == there["choices"][0]["message"]
    assert here["usage"] == there["usage"]


def test_models_are_the_engines(gateway: GatewayServer) -> None:
    names = [[card["id"] for card in httpx.get(f"{server.url}/v1/models").json()["data"]]
             for server in (gateway, gateway.engine)]  # fmt: skip
    assert names[0] == names[1] == [NAME, f"{NAME}:direct"]


def test_what_is_passed_on(gateway: GatewayServer) -> None:
    for path, body in (
        ("/v1/completions", {"model": NAME, "prompt": "A", "max_tokens": 3, "temperature": 0}),
        ("/tokenize", {"model": NAME, "prompt": "A"}),
        ("/v1/messages/count_tokens", {"model": NAME, "messages": TEXT}),
    ):
        here, there = ask(gateway, body, path), ask(gateway.engine, body, path)
        assert here.keys() == there.keys()
        assert here.get("tokens") == there.get("tokens")
    for path, body in (
        ("/v1/responses", {"model": NAME, "input": "A", "max_output_tokens": 3}),
        ("/v1/messages", {"model": NAME, "messages": TEXT, "max_tokens": 3}),
    ):
        assert ask(gateway, body, path)["model"] == NAME


@pytest.mark.parametrize(
    "path", ["/inference/v1/generate", "/v1/chat/completions/render", "/v1/load_lora_adapter", "/pause"]
)
def test_what_is_not(gateway: GatewayServer, path: str) -> None:
    answer = httpx.post(f"{gateway.url}{path}", json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_images_are_checked_here(gateway: GatewayServer) -> None:
    for url in ("http://127.0.0.1:1/a.png", "data:image/png;base64,AAAA", "file:///etc/passwd"):
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {"model": f"{NAME}:direct", "messages": [{"role": "user", "content": [part]}]}
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_image"


@pytest.mark.parametrize(
    "fields",
    [
        # One call: this model would go on with further calls to the end of its tokens.
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "note"}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "sum", "schema": TOOL["function"]["parameters"]},
            }
        },
    ],
    ids=["required", "named", "json_schema"],
)
def test_forms_of_answers(gateway: GatewayServer, fields: dict[str, Any]) -> None:
    started = time.monotonic()
    body = {"model": NAME, "messages": image_question(), "seed": 1, "max_tokens": 400}
    answer = ask(gateway, {**body, **small_fan_out(), **fields})
    print(f"{time.monotonic() - started:.1f} s")
    message = answer["choices"][0]["message"]
    if "tools" in fields:
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "note"
        value = json.loads(call["function"]["arguments"])
    else:
        value = json.loads(message["content"])
    assert 0 <= value["sum"] <= 9
    assert answer["mirl"]["vote"]


def test_a_client_that_leaves_frees_the_engine(gateway: GatewayServer) -> None:
    for model in (NAME, f"{NAME}:direct"):
        body = {
            "model": model, "messages": image_question(), "max_tokens": 1500, "ignore_eos": True,
            "stream": True,
            "mirl": {"descriptions": 16, "keep": 16, "forks": 8, "gate": "none", "early_stop": False},
        }  # fmt: skip
        if model != NAME:
            body |= {"n": 8}
            del body["mirl"]
        else:
            del body["ignore_eos"]
        with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as stream:
            assert stream.status_code == 200, stream.read()
            lines = stream.iter_lines()  # kept: a generator that is dropped closes the stream
            next(lines)
            wait_until(lambda: gateway.sequences() > 2, 30)
        wait_until(lambda: gateway.sequences() == 0, 30)


def test_memory_and_start(gateway: GatewayServer, tmp_path: Path) -> None:
    process = psutil.Process(gateway.process.pid)
    loaded = {Path(mapped.path).name for mapped in process.memory_maps()}
    assert not any(name.startswith("libtorch") for name in loaded)
    started = time.monotonic()
    with running_gateway(tmp_path, gateway.engine) as another:
        seconds = time.monotonic() - started
        rss = psutil.Process(another.process.pid).memory_info().rss
    print(f"memory {process.memory_info().rss / 1e6:.0f} MB, fresh {rss / 1e6:.0f} MB; start {seconds:.1f} s")
    assert rss < MOST_MEMORY


def test_sigterm_lets_what_runs_finish(gateway_engine: RunningServer, tmp_path: Path) -> None:
    flags = ("--shutdown-seconds", "100")  # a busy machine is slow
    with running_gateway(tmp_path, gateway_engine, flags) as started, ThreadPoolExecutor(1) as pool:
        body = {"model": NAME, "messages": TEXT, "max_tokens": 200, "ignore_eos": True}
        url = f"{started.url}/v1/chat/completions"
        sent = pool.submit(httpx.post, url, json=body, timeout=120)
        wait_until(lambda: gateway_engine.sequences() > 0, 30)
        started.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{started.url}/ready", timeout=30).status_code == 503, 10)
        refused = httpx.post(url, json=body, timeout=30)
        assert refused.status_code == 503
        answer = sent.result()
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 200
        assert started.process.wait(60) == 0


@pytest.mark.full
@pytest.mark.usefixtures("real_vllm")
def test_the_gateway_outlives_its_engine(tmp_path: Path) -> None:
    folder, engine_folder = tmp_path / "gateway", tmp_path / "engine"
    folder.mkdir()
    engine_folder.mkdir()
    with (
        reserved_port() as port,
        running(
            folder, command=(*MIRL_SERVE, "--engine-url", f"http://127.0.0.1:{port}"), ready="/health"
        ) as started,
    ):

        def status(path: str = "/ready") -> int:
            return httpx.get(f"{started.url}{path}", timeout=30).status_code

        assert status() == 503
        for _ in range(2):
            with running(engine_folder, ["--enable-scale-out"], port=port) as engine:
                wait_until(lambda: status() == 200, 60)
                assert ask(started, GATED)["mirl"]["vote"]
                engine.process.kill()
                engine.process.wait()
                wait_until(lambda: status() == 503, 30)
                answer = httpx.post(f"{started.url}/v1/chat/completions", json=GATED, timeout=60)
                assert answer.status_code == 503
                assert status("/health") == 200


@pytest.mark.full
@pytest.mark.usefixtures("real_vllm")
def test_chat_mode_before_vllm_without_mirl(gateway_engine: RunningServer, tmp_path: Path) -> None:
    folder, engine_folder = tmp_path / "gateway", tmp_path / "engine"
    folder.mkdir()
    engine_folder.mkdir()
    body = {"model": NAME, "messages": image_question(), "descriptions": ["3 red, 1 blue", "a red 7"]}
    with running(engine_folder, (), VLLM_SERVE, {"VLLM_PLUGINS": ""}, ready="/health") as engine:
        tokens_only = httpx.post(f"{engine.url}/inference/v1/generate", json={})
        assert tokens_only.status_code in (403, 404)
        assert httpx.post(f"{engine.url}/v1/mirl/score", json=body).status_code == 404
        with running_gateway(folder, engine, ["--engine-mode", "chat"]) as gateway:
            answer = ask(gateway, GATED)
            assert len(answer["mirl"]["descriptions"]) == 3
            assert answer["mirl"]["vote"]
            both = [ask(server, body, "/v1/mirl/score")["data"] for server in (gateway, gateway_engine)]
            assert "start the servers with --enable-scale-out for token-exact" in gateway.log.read_text()
            assert ask(gateway, {"model": NAME, "messages": TEXT, "max_tokens": 3})["choices"]
    off = max(abs(a["mi"] - b["mi"]) for a, b in zip(*both, strict=True))
    print(f"chat mode: MI of {len(both[0])} descriptions is at most {off:.2g} nats from the engine's own")
    assert off < 0.05


BUILD_APP = """
import json
from fastapi.routing import APIRoute
from vllm.entrypoints.launchers.app import build_app
from mirl_server.settings.server import ServerSettings
from mirl_server.vllm.flags import parse_vllm

args = parse_vllm(["--enable-scale-out", "--enable-elastic-ep", "--model", "none"])
args.mirl = ServerSettings.load()
app = build_app(args, ("generate", "transcription", "embed", "classify", "score"), None)
routes = [route for route in app.routes if isinstance(route, APIRoute)]
print(json.dumps([(method, route.path) for route in routes for method in route.methods]))
"""
"""vLLM's app as it is built with everything that a server of a model that generates can have."""


@pytest.mark.full
def test_every_route_of_vllms_app_that_is_not_passed_on_is_a_404(gateway: GatewayServer) -> None:
    from mirl_server.gateway.routes import PASSED

    # In a process of its own: vLLM keeps what it has read of the flags and the environment.
    environment = {**os.environ, "VLLM_PLUGINS": "mirl", "VLLM_SERVER_DEV_MODE": "1"}
    built = subprocess.run(
        [sys.executable, "-c", BUILD_APP], env=environment, capture_output=True, text=True, check=True
    )
    own = {
        "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/models",
        "/v1/models/{model:path}", "/health", "/metrics", "/ready", "/v1/mirl/score", "/v1/mirl/describe",
    }  # fmt: skip
    routes = {
        (method, path)
        for method, path in json.loads(built.stdout.splitlines()[-1])
        if path not in own and method not in PASSED.get(path, ())
    }
    assert len(routes) > 20
    with gateway.client() as client:
        for method, path in sorted(routes):
            answer = client._client.request(method, f"{gateway.url}{path}")
            assert answer.status_code == 404, (method, path, answer.status_code)


def test_the_images_of_two_requests_are_not_mixed(gateway: GatewayServer) -> None:
    """Several at a time, each about its own picture: every answer is as when it is asked alone."""
    bodies = [{**GATED, "messages": [{"role": "user", "content": [image_part(seed)]}]} for seed in range(4)]

    def described(body: dict[str, Any]) -> list[str]:
        return [entry["text"] for entry in ask(gateway, body)["mirl"]["descriptions"]]

    alone = [described(body) for body in bodies]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(described, bodies))
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    assert same >= 3, "greedy descriptions differ in a tie at most"
