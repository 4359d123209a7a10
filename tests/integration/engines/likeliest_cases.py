"""What `score_likeliest` returns on a real engine, compared with transformers."""

from __future__ import annotations

import asyncio

import pytest

from mirl_core.engines.base import Engine, Sampling
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.errors import ContextLengthError, RequestError
from mirl_core.types import Conversation
from tests.integration.engines.remote_cases import apart, context, sample

TOP = 20
WORDS = "one two three four five six seven eight nine " * 6


async def check_likeliest(engine: Engine, hf: HFEngine, conversation: Conversation) -> None:
    """Score a suffix of which the prefix cache is full, while the engine samples after it.

    Args:
        engine: in float32, at its default limit of 20 log-probabilities.
        hf: the same model in float32.
        conversation: the prompt.
    """
    there, here = await engine.render(conversation, context()), await hf.render(conversation, context())
    suffix = engine.encode(f"<description>{WORDS}")
    sampling = Sampling(max_tokens=40, seed=1)
    await sample(engine, there, 1, sampling, suffix)
    sampled = asyncio.create_task(sample(engine, there, 4, sampling, suffix))
    last = len(suffix) - 1
    starts = (0, 1, last // 2, last - 5, last, last + 1)
    whole, *tails = await asyncio.gather(
        *(engine.score_likeliest(there, suffix, start, TOP, context()) for start in starts)
    )
    own = await engine.score(there, [suffix], context())
    await sampled

    everything = await hf.score_likeliest(here, suffix, 0, 10**9, context())
    assert len(whole) == len(everything) == len(suffix)
    for token, position, truth in zip(suffix, whole, everything, strict=True):
        assert len(position) == TOP + (
            token not in sorted(position, key=lambda candidate: -position[candidate])[:TOP]
        )
        assert position == pytest.approx({candidate: truth[candidate] for candidate in position}, abs=1e-3)
        least = sorted(position.values(), reverse=True)[TOP - 1]
        assert max(value for candidate, value in truth.items() if candidate not in position) < least + 1e-3
    scores = tuple(position[token] for position, token in zip(whole, suffix, strict=True))
    assert apart(scores, own[0]) <= 1e-4
    (true,) = await hf.score(here, [suffix], context())
    assert apart(scores, true) <= 1e-3
    for start, tail in zip(starts[1:], tails, strict=True):
        assert len(tail) == len(suffix) - start
        for token, position, before in zip(suffix[start:], tail, whole[start:], strict=True):
            assert abs(position[token] - before[token]) <= 1e-4
            values, values_before = sorted(position.values())[-TOP:], sorted(before.values())[-TOP:]
            assert values == pytest.approx(values_before, abs=1e-4)

    with pytest.raises(RequestError, match="21"):
        await engine.score_likeliest(there, suffix, 0, TOP + 1, context())
    room = engine.max_model_len - there.prompt_tokens
    with pytest.raises(ContextLengthError):
        await engine.score_likeliest(there, (10,) * room, 0, TOP, context())
