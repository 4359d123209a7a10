"""The routes over a fake engine: what is gated, what is handed on, what is answered."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mirl_client import evidence
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import EngineDeadError
from tests.unit.server.harness import Build, Harness, events, question


async def test_a_gated_answer_with_its_evidence(server: Harness) -> None:
    response = await server.ask()
    assert response.status_code == 200
    completion = ChatCompletion.model_validate(response.json())
    assert completion.choices[0].message.content == "7"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "m"
    assert completion.id.startswith("chatcmpl-")
    evidence = response.json()["mirl"]
    assert [description["kept"] for description in evidence["descriptions"]] == [True, False]
    assert evidence["descriptions"][1]["reason"] == "gate"
    assert (evidence["vote"]["answer"], evidence["vote"]["share"]) == ("7", 1.0)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == server.engine.sampled_tokens
    assert server.handed == []


@pytest.mark.parametrize(
    ("knobs", "weight"),
    [
        ({}, 1.0),
        ({"mi_weight": 0.25}, 0.25),
        # 1 − (3 · 0.5 + 3 · 0.5) / (3 · 3 + 3 · 0.6)
        ({"mi_weight": "auto"}, 1 - 3 / 10.8),
        ({"mi_weight": "auto", "gate": "random"}, None),
    ],
)
async def test_the_answer_says_which_weight_it_was(
    server: Harness, knobs: dict[str, Any], weight: float | None
) -> None:
    expected = None if weight is None else pytest.approx(weight)
    mirl = {"descriptions": 2, "keep": 1, **knobs}
    answer = (await server.ask(mirl=mirl)).json()
    assert answer["mirl"]["mi_weight"] == expected
    answer_evidence = evidence(answer)
    assert answer_evidence is not None
    assert answer_evidence.mi_weight == expected
    stages = [chunk["mirl"] for chunk in events(await server.ask(mirl=mirl, stream=True)) if "mirl" in chunk]
    assert {stage["event"]: stage["mi_weight"] for stage in stages if "mi_weight" in stage} == {
        "gated": expected,
        "finished": expected,
    }


@pytest.mark.parametrize(
    ("knobs", "calibrated"), [({}, True), ({"token_mi": True}, True), ({"forks": 1}, False)]
)
async def test_the_answer_says_whether_its_confidence_is_calibrated(
    build: Build, knobs: dict[str, Any], calibrated: bool
) -> None:
    calibration = Calibration(intercept=-1, vote_share=2, distinct_share=-1)
    options = MIRLOptions(descriptions=2, keep=1)
    harness = build(model=ModelSettings(instruction="", options=options, calibration=calibration))
    answer = (await harness.ask(mirl=knobs)).json()
    stages = [
        chunk["mirl"] for chunk in events(await harness.ask(mirl=knobs, stream=True)) if "mirl" in chunk
    ]
    for mirl in (answer["mirl"], stages[-1]):
        assert mirl["vote"]["share"] == 1.0
        # −1 + 2 · 1 − 1 · 1: two descriptions that differ.
        assert mirl["confidence"] == pytest.approx(0.5 if calibrated else 1.0)
        assert mirl["calibrated"] is calibrated
    read = evidence(answer)
    assert read is not None
    assert (read.confidence, read.calibrated) == (answer["mirl"]["confidence"], calibrated)
    assert (read.uncalibrated is None) is calibrated
    assert (read.uncalibrated, list(read.warnings)) == (
        answer["mirl"]["uncalibrated"],
        answer["mirl"]["warnings"],
    )


async def test_a_bad_weight_is_a_400_that_names_it(server: Harness) -> None:
    response = await server.ask(mirl={"mi_weight": "automatic"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "mirl.mi_weight"


async def test_a_stream_has_stages_then_the_answer(server: Harness) -> None:
    response = await server.ask(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    stages = [chunk["mirl"]["event"] for chunk in chunks if "mirl" in chunk]
    assert stages[:4] == ["started", "described", "described", "gated"]
    assert stages[-1] == "finished"
    assert "decided" in stages
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    content = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert content == "7"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == server.engine.sampled_tokens
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]].count("stop") == 1


async def test_no_usage_unless_requested(server: Harness) -> None:
    assert all("usage" not in chunk for chunk in events(await server.ask(stream=True)))
    server.app.state.mirl = dataclasses.replace(server.service, force_usage=True)
    assert "usage" in events(await server.ask(stream=True))[-1]


async def test_fields_reach_the_engine(server: Harness) -> None:
    await server.ask(
        temperature=0.3, top_p=0.9, seed=5, max_tokens=50, stop=["X"], priority=0, user="u",
        metadata={"a": "b"}, chat_template_kwargs={"thinking": True},
    )  # fmt: skip
    (describe,) = server.engine.of_kind("describe")
    assert describe.sampling is not None
    assert (describe.sampling.temperature, describe.sampling.top_p) == (0.3, 0.9)
    assert describe.sampling.seed is not None
    assert describe.conversation.template_kwargs == {"thinking": True}


async def test_priority_needs_an_engine_that_knows_it(server: Harness) -> None:
    assert (await server.ask(priority=2)).json()["error"]["param"] == "priority"
    server.app.state.mirl = dataclasses.replace(server.service, priorities=True)
    assert (await server.ask(priority=2)).status_code == 200


async def test_models_temperature_holds_where_none_is_set(server: Harness) -> None:
    await server.ask()
    sampling = server.engine.of_kind("describe")[0].sampling
    assert sampling is not None
    assert sampling.temperature == 1.0


async def test_the_callers_request_id_is_in_the_answers(server: Harness) -> None:
    async with server.client() as client:
        for header, kept in (("abc-1", True), ("bad id\u00e4", False), ("x" * 200, False)):
            body = {"messages": [question()], "mirl": {"descriptions": 1, "keep": 1}}
            response = await client.post(
                "/v1/chat/completions", json=body, headers={"x-request-id": header.encode("latin-1")}
            )
            assert response.json()["id"].startswith(f"chatcmpl-{header}-") is kept
            assert response.json()["model"] == "m"


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        {"model": "m", "messages": [question(), {"role": "assistant", "content": "7"}]},
        {"model": "lora", "messages": [question()]},
        {"model": "unknown", "messages": [question()]},
        {"model": "unknown:direct", "messages": [question()]},
        {"model": 3, "messages": [question()]},
        {"messages": "hello"},
        {},
    ],
)
async def test_everything_else_is_handed_on(server: Harness, body: dict[str, Any]) -> None:
    response = await server.ask(body)
    assert response.status_code == 200
    model = body.get("model")
    name = model.removesuffix(":direct") if isinstance(model, str) else model
    assert server.handed == [{**body, "model": name} if "model" in body else body]
    assert server.engine.calls == []


@pytest.mark.parametrize("kind", [None, 3, ["image_url"]])
async def test_a_type_that_is_no_text_is_a_400_on_every_path(server: Harness, kind: object) -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": kind, "image_url": {"url": "data:"}}]
    for name in ("m", "m:direct"):
        response = await server.ask({"model": name, "messages": [{"role": "user", "content": parts}]})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages[0].content[1]"
    assert server.handed == []


async def test_a_suffix_alone_is_no_name(server: Harness) -> None:
    # The backend takes an empty name for its own.
    await server.ask(model=":direct", mirl=None)
    assert server.handed[0]["model"] == ":direct"


@pytest.mark.parametrize("name", ["m:direct", "alias:direct"])
async def test_direct_is_handed_on_by_its_own_name(server: Harness, name: str) -> None:
    response = await server.ask({"model": name, "messages": [question()], "n": 3})
    assert server.handed[0] == {"model": name.removesuffix(":direct"), "messages": [question()], "n": 3}
    assert response.json()["model"] == name
    assert int(response.headers["content-length"]) == len(response.content)


async def test_aliases_are_gated(server: Harness) -> None:
    assert (await server.ask({"model": "alias", "messages": [question()]})).json()["model"] == "alias"


async def test_knobs_on_plain_requests_are_checked_and_not_passed(server: Harness) -> None:
    text = [{"role": "user", "content": "hi"}]
    assert (await server.ask({"model": "m", "messages": text, "mirl": {"keep": 1}})).status_code == 200
    assert "mirl" not in server.handed[0]
    for body in ({"model": "m", "mirl": {"kep": 1}}, {"model": "m:direct", "mirl": {"keep": 1}}):
        response = await server.ask({"messages": text, **body})
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("mirl")
    assert len(server.handed) == 1


async def test_a_key_salts_the_cache_of_both_paths(server: Harness) -> None:
    text = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with server.client() as client:
        for key in ("Bearer one", "Bearer two"):
            await client.post("/v1/chat/completions", json=text, headers={"authorization": key})
    salts = [body["cache_salt"] for body in server.handed]
    assert salts[0] != salts[1]
    assert "one" not in salts[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"mirl": {"kep": 1}}, "mirl.kep"),
        ({"mirl": {"keep": 0}}, "mirl.keep"),
        ({"mirl": {"descriptions": 33}}, "mirl.descriptions"),
        ({"mirl": {"max_total_tokens": 10**9}}, "mirl.max_total_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"frob": 1}, "frob"),
        ({"messages": [question(url="https://x/y.png")]}, "messages[0].content[0]"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_are_400_before_anything_runs(
    server: Harness, fields: dict[str, Any], param: str, stream: bool
) -> None:
    response = await server.ask(stream=stream, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert server.engine.calls == []
    assert server.metric("mirl_requests_total", outcome="refused") == 1


async def test_bodies_that_are_not_json(server: Harness) -> None:
    async with server.client() as client:
        for content, kind in ((b"{", "application/json"), (b"{}", "text/plain"), (b"[]", "application/json")):
            response = await client.post(
                "/v1/chat/completions", content=content, headers={"content-type": kind}
            )
            assert response.status_code == 400
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_models_are_listed_twice_adapters_once(server: Harness) -> None:
    async with server.client() as client:
        listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["m", "m:direct", "lora"]
    for card in listed["data"]:
        Model.model_validate({"created": 1, "owned_by": "x", **card})


async def test_ready(server: Harness, build: Build) -> None:
    dead = build(FakeEngine(fail_at={"health": EngineDeadError("gone")}))
    for harness, status in (
        (server, 200),
        (build(draining=True), 503),
        (dead, 503),
        (build(with_engine=False), 503),
    ):
        async with harness.client() as client:
            assert (await client.get("/ready")).status_code == status


async def test_without_an_engine_only_the_gate_is_closed(build: Build) -> None:
    harness = build(with_engine=False)
    assert (await harness.ask()).status_code == 503
    assert (await harness.ask({"model": "m", "messages": []})).status_code == 200


async def test_operator_defaults_and_limits(build: Build) -> None:
    harness = build(
        defaults={"descriptions": 3, "keep": 2},
        limits={"max_keep": 2, "max_forks": 1},
        reasoning_content=False,
    )
    answer = (await harness.ask({"messages": [question()]})).json()
    assert [stage["sequences"] for stage in answer["mirl"]["stages"] if stage["stage"] != "score"] == [3, 2]
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert (await harness.ask(mirl={"keep": 3})).status_code == 400


async def test_reasoning_can_be_left_out(server: Harness) -> None:
    message = (await server.ask(include_reasoning=False)).json()["choices"][0]["message"]
    assert "reasoning" not in message
    assert message["content"] == "7"


async def test_metrics_count_stages_and_fates(server: Harness) -> None:
    await server.ask()
    assert server.metric("mirl_requests_total", outcome="answered") == 1
    assert server.metric("mirl_descriptions_total", fate="kept") == 1
    assert server.metric("mirl_descriptions_total", fate="gate") == 1
    assert server.metric("mirl_stage_seconds_count", stage="describe") == 1
    generated = sum(
        server.metric("mirl_tokens_total", stage=stage, kind="sampled") for stage in ("describe", "fork")
    )
    assert generated == server.engine.sampled_tokens


def test_openapi_documents_the_request(server: Harness) -> None:
    document = server.app.openapi()
    operation = document["paths"]["/v1/chat/completions"]["post"]
    properties = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert properties["mirl"] == {"$ref": "#/components/schemas/MIRLOptions"}
    assert "descriptions" in document["components"]["schemas"]["MIRLOptions"]["properties"]
    assert {"400", "404", "413", "500", "503", "504"} <= set(operation["responses"])
