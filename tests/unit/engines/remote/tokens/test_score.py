"""Scores over HTTP: the requests that the engine sends, and what it makes of the positions in the answers."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.engines.remote.tokens import score as _remote_score
from mirl_core.errors import EngineError, RequestError
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    GENERATE,
    RENDER,
    RENDERED,
    TEXT,
    FakeRequest,
    FakeServers,
    engine,
    refusal,
    sampled,
    scored,
    without_id,
)


async def test_scores_skip_the_cache_and_identical_suffixes() -> None:
    fake = FakeServers({RENDER: RENDERED, GENERATE: lambda request: scored(request.body["token_ids"])})
    remote = engine(fake, score_batch_tokens=1)
    scores = await remote.score(await remote.render(TEXT, CONTEXT), [(4, 5), (), (4, 5), (6,)], CONTEXT)
    assert [tuple(round(value, 6) for value in score) for score in scores] == [
        (-0.3, -0.4), (), (-0.3, -0.4), (-0.3,)
    ]  # fmt: skip
    assert [without_id(body) for body in fake.bodies(GENERATE)] == [
        {
            "model": "the-model",
            "token_ids": [1, 2, 3, *suffix],
            "sampling_params": {
                "max_tokens": 1,
                "temperature": 0.0,
                "detokenize": False,
                "prompt_logprobs": 0,
                "skip_reading_prefix_cache": True,
            },
        }
        for suffix in ((4, 5), (6,))
    ]


@pytest.mark.parametrize(("cached", "times"), [(2, 1), (3, 2), (None, 2), ("not JSON", 2)])
async def test_what_was_cached_beyond_the_prompt_is_scored_again(
    monkeypatch: pytest.MonkeyPatch, cached: Any, times: int
) -> None:
    """Its values are garbage, vLLM says nothing of it."""
    monkeypatch.setattr(_remote_score, "LONG_PROMPT", 3)

    def answer(request: FakeRequest) -> Any:
        if request.body["sampling_params"].get("skip_reading_prefix_cache") is False:
            if cached == "not JSON":
                return refusal(400, "Out of range float values are not JSON compliant")
            return scored(request.body["token_ids"], cached)
        return scored(request.body["token_ids"])

    fake = FakeServers({RENDER: RENDERED, GENERATE: answer})
    remote = engine(fake)
    remote.servers[0].counts_cached = True
    await remote.score(await remote.render(TEXT, CONTEXT), [(4,)], CONTEXT)
    prime, *scoring = fake.bodies(GENERATE)
    assert prime["token_ids"] == [1, 2, 3]
    assert "prompt_logprobs" not in prime["sampling_params"]
    skips = [body["sampling_params"]["skip_reading_prefix_cache"] for body in scoring]
    assert skips == [False, True][:times]
    remote.servers[0].counts_cached = False
    fake.requests.clear()
    await remote.score(await remote.render(TEXT, CONTEXT), [(4,)], CONTEXT)
    assert [body["sampling_params"]["skip_reading_prefix_cache"] for body in fake.bodies(GENERATE)] == [True]


async def test_the_likeliest_tokens_of_the_positions_from_start_on() -> None:
    fake = FakeServers(
        {RENDER: RENDERED, GENERATE: lambda request: scored(request.body["token_ids"], likeliest=6)}
    )
    remote = engine(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    likeliest = await remote.score_likeliest(rendered, (4, 5, 6), 1, 20, CONTEXT)
    assert likeliest == [{5: -0.1 * 4, 6: -0.05}, {6: -0.05}]
    (body,) = fake.bodies(GENERATE)
    assert without_id(body) == {
        "model": "the-model",
        "token_ids": [1, 2, 3, 4, 5, 6],
        "sampling_params": {
            "max_tokens": 1,
            "temperature": 0.0,
            "detokenize": False,
            "prompt_logprobs": 20,
            "skip_reading_prefix_cache": True,
        },
    }
    assert await remote.score_likeliest(rendered, (4, 5), 2, 20, CONTEXT) == []
    assert len(fake.bodies(GENERATE)) == 1


@pytest.mark.parametrize(("cached", "times"), [(4, 1), (5, 2), (None, 2)])
async def test_what_precedes_start_may_come_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, cached: int | None, times: int
) -> None:
    """Three tokens of the prompt and two of the suffix precede; the last of them must be computed."""
    monkeypatch.setattr(_remote_score, "LONG_PROMPT", 3)

    def answer(request: FakeRequest) -> Any:
        skips = request.body["sampling_params"].get("skip_reading_prefix_cache")
        likeliest = 8 if skips else 9
        return scored(request.body["token_ids"], cached if skips is False else 0, likeliest)

    fake = FakeServers({RENDER: RENDERED, GENERATE: answer})
    remote = engine(fake)
    remote.servers[0].counts_cached = True
    rendered = await remote.render(TEXT, CONTEXT)
    (top,) = await remote.score_likeliest(rendered, (4, 5, 6), 2, 1, CONTEXT)
    assert set(top) == {6, 9 if times == 1 else 8}
    prime, *scoring = [body["sampling_params"] for body in fake.bodies(GENERATE)]
    assert "prompt_logprobs" not in prime
    assert [params["skip_reading_prefix_cache"] for params in scoring] == [False, True][:times]
    assert {params["prompt_logprobs"] for params in scoring} == {1}


@pytest.mark.parametrize("long_prompt", [3, 10**9])
async def test_more_likeliest_tokens_than_the_server_returns_are_refused(
    monkeypatch: pytest.MonkeyPatch, long_prompt: int
) -> None:
    monkeypatch.setattr(_remote_score, "LONG_PROMPT", long_prompt)

    def answer(request: FakeRequest) -> Any:
        if request.body["sampling_params"].get("prompt_logprobs"):
            return refusal(400, "Requested prompt logprobs of 21, which is greater than max allowed: 20")
        return scored(request.body["token_ids"])

    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: answer}))
    remote.servers[0].counts_cached = True
    with pytest.raises(RequestError, match="21"):
        await remote.score_likeliest(await remote.render(TEXT, CONTEXT), (4,), 0, 21, CONTEXT)


@pytest.mark.parametrize(
    "positions", [None, [None, {"5": {"logprob": -1.0}}], [None, {"4": {}}], [None, "4"], [{"a": {}}]]
)
async def test_positions_without_their_token_are_an_engine_error(positions: Any) -> None:
    answer = {**sampled("x"), "prompt_logprobs": positions}
    remote = engine(FakeServers({RENDER: RENDERED, GENERATE: answer}))
    with pytest.raises(EngineError, match="prompt log-probabilities"):
        await remote.score_likeliest(await remote.render(TEXT, CONTEXT), (4,), 0, 2, CONTEXT)
