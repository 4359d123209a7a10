"""POST /v1/mirl/describe and GET /v1/models/{id} over the fake engine."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError

from mirl_core.config import ModelSettings
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineError
from mirl_server.middleware.stack import install_middleware
from mirl_server.settings.server import ServerSettings
from tests.unit.pipeline.steered.steered_cases import TinyModel
from tests.unit.server.apis.api_cases import abandon, post, serving
from tests.unit.server.harness import Build, Harness, question

PATH = "/v1/mirl/describe"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [question()], "mirl": {"descriptions": 2, "keep": 1}} | fields


async def test_descriptions_with_their_mi_and_no_chains(server: Harness) -> None:
    answer = (await post(server, PATH, body())).json()
    assert (answer["object"], answer["model"], answer["mi_weight"]) == ("mirl.describe", "m", 1.0)
    first, second = answer["data"]
    assert (first["text"], first["mi"], first["kept"], first["reason"]) == ("a red seven", 7.5, True, None)
    assert (second["text"], second["kept"], second["reason"]) == ("a red one", False, "gate")
    assert [stage["stage"] for stage in answer["stages"]] == ["describe", "score"]
    assert server.engine.of_kind("fork") == server.engine.of_kind("plain") == []
    assert answer["usage"]["completion_tokens"] == server.engine.sampled_tokens
    assert answer["usage"]["scored_tokens"] == 8
    assert answer["usage"]["prompt_tokens"] > 0


async def test_every_sampled_token_counts_once_and_no_other(build: Build, now: list[float]) -> None:
    model = TinyModel(15)
    broken = FakeEngine([FakeText("a red seven\n<think>"), FakeText("an eight")])
    steered = {"contrast": [0, 0.5, 2], "descriptions": 4, "description_tokens": 60}
    for harness, options in (
        (build(model.engine), steered),
        (build(broken, model=ModelSettings(instruction="", lenient=True)), {"descriptions": 2, "keep": 1}),
    ):
        access = {"keys": "a: 0123456789abcdef", "limits": {"tokens_per_minute": 1000}}
        install_middleware(harness.app, ServerSettings.load(access=access))
        async with harness.client() as client:
            headers = {"authorization": "Bearer 0123456789abcdef"}
            first = await client.post(PATH, json=body(mirl=options), headers=headers)
            sampled = harness.engine.sampled_tokens
            second = await client.post(PATH, json=body(mirl=options), headers=headers)
        assert first.json()["usage"]["completion_tokens"] == sampled > 0
        assert second.headers["x-ratelimit-remaining-tokens"] == str(1000 - sampled)


async def test_they_are_those_that_an_answer_goes_on_from(server: Harness) -> None:
    described = (
        await post(server, PATH, body(seed=3, mirl={"descriptions": 2, "keep": 1, "token_mi": True}))
    ).json()
    answered = (await server.ask(seed=3, mirl={"descriptions": 2, "keep": 1, "token_mi": True})).json()
    assert described["data"] == answered["mirl"]["descriptions"]
    assert "token_mi" in described["data"][0]
    assert "".join(described["data"][0]["token_texts"]) == described["data"][0]["text"]


async def test_where_none_is_usable_each_says_why(build: Build) -> None:
    harness = build(FakeEngine(["</description>", FakeText("a b", finish_reason="length")]))
    answer = (await post(harness, PATH, body())).json()
    assert [description["reason"] for description in answer["data"]] == ["empty", "truncated"]
    assert answer["mi_weight"] is None
    assert harness.engine.of_kind("plain") == []
    assert harness.engine.running == 0


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "unknown"}, 404, "model"),
        ({"model": "m:direct"}, 404, "model"),
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "messages"),
        ({"messages": None}, 400, "messages"),
        ({"mirl": {"kep": 1}}, 400, "mirl.kep"),
        ({"stream": True}, 400, "stream"),
        ({"stop": ["x"]}, 400, "stop"),
        ({"descriptions": ["x"]}, 400, "descriptions"),
        ({"temperature": 3}, 400, "temperature"),
        ({"messages": [question(url="https://x/y.png")]}, 400, "messages[0].content[0]"),
    ],
)
async def test_refusals(server: Harness, fields: dict[str, Any], status: int, param: str) -> None:
    response = await post(server, PATH, body(**fields))
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert server.engine.calls == []


async def test_failures_and_deadlines(build: Build) -> None:
    assert (
        await post(build(FakeEngine(fail_at={"score": EngineError("no")})), PATH, body())
    ).status_code == 500
    assert (await post(build(with_engine=False), PATH, body())).status_code == 503
    slow = FakeEngine([FakeText("a b c</description>", delay=30)])
    assert (await post(build(slow), PATH, body(mirl={"timeout": 0.05}))).status_code == 504
    assert slow.running == 0


async def test_a_client_that_leaves_frees_the_engine(build: Build) -> None:
    harness = build(FakeEngine([FakeText("a b c</description>", delay=30)]))
    await abandon(harness, PATH, body(mirl={"descriptions": 3}), running=3)
    assert harness.engine.running == 0


async def test_one_model_by_its_name(server: Harness) -> None:
    async with (
        serving(server.app) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        listed = [model.id async for model in client.models.list()]
        assert listed == ["m", "m:direct", "lora"]
        for name in listed:
            assert (await client.models.retrieve(name)).id == name
        for name in ("lora:direct", "org/other", "x" * 1000):
            with pytest.raises(NotFoundError) as caught:
                await client.models.retrieve(name)
            assert caught.value.code == "model_not_found"
