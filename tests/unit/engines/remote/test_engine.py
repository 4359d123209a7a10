"""The engine over HTTP: the JSON that it sends, and what it makes of answers and refusals."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mirl_core.engines.base import RequestContext, derive_seed
from mirl_core.engines.remote.server import Server, checked_url
from mirl_core.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    RequestError,
)
from mirl_core.types import Conversation
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    FakeServers,
    engine,
    refusal,
    sampled,
    samples,
    without_id,
)


async def test_render_sends_the_conversation_as_it_is() -> None:
    fake = FakeServers({RENDER: RENDERED})
    tool = {"type": "function", "function": {"name": "f"}}
    kwargs = {"enable_thinking": False, "add_generation_prompt": False}
    rendered = await engine(fake).render(
        Conversation(TEXT.messages, kwargs, (tool,)),
        RequestContext("id", cache_salt="salt", trace_headers=(("traceparent", "00-1"),)),
    )
    (request,) = fake.requests
    assert (request.path, request.body) == (
        RENDER,
        {
            "model": "the-model",
            "messages": [{"role": "user", "content": "How many?"}],
            "max_tokens": 1,
            "mm_payload": "none",
            "add_generation_prompt": False,
            "chat_template_kwargs": {"enable_thinking": False},
            "tools": [tool],
            "tool_choice": "none",
        },
    )
    assert request.headers["authorization"] == "Bearer secret-key"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["traceparent"] == "00-1"
    assert rendered.prompt_tokens == 3


async def test_sampling_parameters_are_all_said() -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: lambda _: sampled("abc")})
    remote = engine(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    tuned: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3,
    }  # fmt: skip
    await samples(remote, rendered, 2, seed=1, stop=("bc", "d"), **tuned)
    await samples(remote, rendered, 1, alternatives=4, stop=("b",))
    first, second, third = sorted(fake.bodies(GENERATE), key=lambda body: body["request_id"])[:3]
    if first["sampling_params"]["logprobs"]:
        first, second, third = second, third, first
    assert without_id(first) == {
        "model": "the-model",
        "token_ids": [1, 2, 3, 5],
        "sampling_params": {
            "max_tokens": 4,
            **tuned,
            "logprobs": 0,
            "detokenize": True,
            "seed": derive_seed(1, 0),
            "stop": ["bc", "d"],
            "include_stop_str_in_output": True,
            "logit_bias": {"7": -1e30},
        },
    }
    bodies = fake.bodies(GENERATE)
    seeds = {body["sampling_params"].get("seed") for body in bodies}
    assert seeds == {derive_seed(1, 0), derive_seed(1, 1), None}
    (sure,) = [body["sampling_params"] for body in bodies if body["sampling_params"]["logprobs"]]
    assert (sure["logprobs"], sure["stop_token_ids"], sure["detokenize"]) == (5, [ord("b")], False)
    assert "stop" not in sure
    ids = [body["request_id"] for body in bodies]
    assert ids[0] != ids[1]
    assert all("-id-" in name for name in ids)


async def test_a_structure_is_sent_and_leaves_stop_strings_as_text() -> None:
    """A grammar would never allow the token of a stop string before the sample's end."""
    fake = FakeServers({RENDER: RENDERED, GENERATE: sampled("a")})
    remote = engine(fake)
    await samples(
        remote, await remote.render(TEXT, CONTEXT), stop=("b",), top_logprobs=2, structure='{"a": 1}'
    )
    params = fake.bodies(GENERATE)[0]["sampling_params"]
    assert params["structured_outputs"] == {"structural_tag": '{"a": 1}'}
    assert (params["stop"], params["detokenize"]) == (["b"], True)
    assert "stop_token_ids" not in params


async def test_structures_are_checked_by_a_server_once() -> None:
    tag = '{"format": {"type": "json_schema", "json_schema": {"type": "string"}}}'
    fake = FakeServers({GENERATE: sampled("a")})
    remote = engine(fake)
    await remote.check_structure(tag)
    await remote.check_structure(tag)
    (body,) = fake.bodies(GENERATE)
    assert body["sampling_params"]["structured_outputs"] == {"structural_tag": tag}
    fake.answers[GENERATE] = refusal(400, "Unsupported type 'x'")
    with pytest.raises(RequestError, match="the schema can't be used: a type in it"):
        await remote.check_structure(tag.replace("string", "x"))
    with pytest.raises(RequestError, match="keyword"):
        await remote.check_structure(tag.replace('"string"', '"number", "multipleOf": 2'))


async def test_samples_are_read_whole() -> None:
    answer = sampled("abEc", "length")
    content = answer["choices"][0]["logprobs"]["content"]
    # Sampled at rank 9; asked for two alternatives, vLLM answers three values, the sampled one's first.
    content[1] |= {"logprob": -5.0, "top_logprobs": [
        {"token_id": 98, "logprob": -5.0}, {"token_id": 7, "logprob": -0.5}, {"token_id": 8, "logprob": -1.5},
    ]}  # fmt: skip
    fake = FakeServers({RENDER: RENDERED, GENERATE: answer})
    remote = engine(fake)
    (sample,) = await samples(remote, await remote.render(TEXT, CONTEXT), alternatives=2)
    assert sample.token_ids == tuple(map(ord, "abEc"))
    assert sample.text == "abc"
    assert sample.logprobs == (-1.0, -5.0, -1.0, -1.0)
    assert sample.confidence == (1.0, 1.0, 1.0, 1.0)
    assert sample.likeliest == ()
    (sample,) = await samples(remote, await remote.render(TEXT, CONTEXT), top_logprobs=2)
    assert sample.likeliest[1] == ((7, -0.5), (8, -1.5))
    assert sample.confidence == ()
    assert sample.finish_reason == "length"
    fake.answers[GENERATE] = sampled("abc", "stop")
    (sample,) = await samples(remote, await remote.render(TEXT, CONTEXT), stop=("b",))
    assert (sample.text, sample.finish_reason) == ("ab", "stop")


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": []},
        {"choices": [{"finish_reason": "stop", "token_ids": [1, 2], "logprobs": {"content": []}}]},
        sampled("a", "error"),
        httpx.Response(200, text="<html>"),
        httpx.Response(302),
    ],
)
async def test_nonsense_is_an_engine_error(answer: Any) -> None:
    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: answer}))
    rendered = await remote.render(TEXT, CONTEXT)
    with pytest.raises(EngineError):
        await samples(remote, rendered)
    with pytest.raises(EngineError):
        await remote.score(rendered, [(5,)], CONTEXT)
    with pytest.raises(EngineError):
        await engine(FakeServers({RENDER: answer})).render(TEXT, CONTEXT)


async def test_a_position_without_likeliest_tokens_is_an_engine_error() -> None:
    answer = sampled("ab")
    answer["choices"][0]["logprobs"]["content"][1]["top_logprobs"] = []
    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: answer}))
    rendered = await remote.render(TEXT, CONTEXT)
    with pytest.raises(EngineError, match="another form"):
        await samples(remote, rendered, alternatives=2)
    assert [sample.text for sample in await samples(remote, rendered)] == ["ab"]


async def test_keeping_special_tokens() -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: sampled("aABEb")})
    remote = engine(fake, keep_special=("A",))
    (sample,) = await samples(remote, await remote.render(TEXT, CONTEXT))
    assert sample.text == remote.decode(sample.token_ids) == "aAb"


async def test_no_room_is_no_request() -> None:
    fake = FakeServers({RENDER: {"token_ids": [1] * 99, "features": None}})
    remote = engine(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    assert [sample.finish_reason for sample in await samples(remote, rendered, 2)] == ["length"] * 2
    with pytest.raises(RequestError):
        await remote.score(rendered, [(5,)], CONTEXT)
    with pytest.raises(ContextLengthError):
        await remote.score_likeliest(rendered, (5,), 0, 20, CONTEXT)
    assert not fake.bodies(GENERATE)


async def test_lora_is_a_model_of_its_own() -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: sampled("a")})
    remote = engine(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    await samples(remote, rendered, context=RequestContext("id", lora="adapter"))
    assert fake.bodies(GENERATE)[0]["model"] == "adapter"


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost:8000", "http://", "http://user:pass@host", "http://host:port"]
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_url(url)
    assert "pass@" not in caught.value.message


@pytest.mark.parametrize("key", ["secret\n", "sécret"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Server("http://host", api_key=key)
    assert "cret" not in caught.value.message


def test_urls_as_people_write_them() -> None:
    for url in ("http://host:8000", "http://host:8000/", " http://host:8000/v1 ", "http://host:8000/v1/"):
        assert checked_url(url) == "http://host:8000"
    assert checked_url("https://host/behind/a/proxy/v1") == "https://host/behind/a/proxy"
