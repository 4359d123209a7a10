"""The fake engine keeps the protocol's guarantees; other tests lean on it."""

import asyncio

import pytest

from mirl_core.engines.base import Engine, Rendered, RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineError
from mirl_core.types import Conversation

ASK = Conversation(({"role": "user", "content": "how many"},))


def context(name: str = "r") -> RequestContext:
    return RequestContext(name)


async def rendered(engine: Engine) -> Rendered:
    return await engine.render(ASK, context())


@pytest.mark.parametrize(
    "text", ["", " a  b\n", "<description>a < b</description> <answer>7</answer>", "<<x>"]
)
def test_encode_round_trips(text: str) -> None:
    engine = FakeEngine()
    assert engine.decode(engine.encode(text)) == text
    assert len(engine.encode("<answer>")) == 1


async def test_scripted_samples_and_marginals() -> None:
    engine = FakeEngine([FakeText("a b</description>", logprobs=[-0.5, -1], marginal=-3)], eos=True)
    prompt = await rendered(engine)
    opening = engine.encode("<description>")
    sampling = Sampling(max_tokens=9, stop=("</description>",))
    samples = [s async for s in engine.generate(prompt, opening, 2, sampling, context())]
    assert [s.index for s in samples] == [0, 1]
    assert samples[0].text == "a b</description>"
    assert samples[0].logprobs == (-0.5, -1, -1)
    assert samples[0].finish_reason == "stop"
    scores = await engine.score(prompt, [opening + samples[0].token_ids[:2]], context())
    assert scores == [(-1, -3, -3)]
    assert engine.running == 0
    assert engine.sampled_tokens == 6


async def test_alternatives_are_as_likely_as_the_sampled_token() -> None:
    engine = FakeEngine(chains=[FakeText("a b", logprobs=[-0.5, -1])])
    prompt = await rendered(engine)
    (plain,) = [s async for s in engine.generate(prompt, (), 1, Sampling(max_tokens=9), context())]
    assert plain.confidence == ()
    sampling = Sampling(max_tokens=9, alternatives=20)
    (sample,) = [s async for s in engine.generate(prompt, (), 1, sampling, context())]
    assert sample.confidence == (0.5, 1.0)


async def test_truncation_and_end_of_turn() -> None:
    engine = FakeEngine(chains=["one two three"], eos=True)
    prompt = await rendered(engine)
    (short,) = [s async for s in engine.generate(prompt, (), 1, Sampling(max_tokens=2), context())]
    (whole,) = [s async for s in engine.generate(prompt, (), 1, Sampling(max_tokens=9), context())]
    assert (short.text, short.finish_reason) == ("one two", "length")
    assert (whole.text, len(whole.token_ids)) == ("one two three", 4)


async def test_abort_yields_partial_samples() -> None:
    engine = FakeEngine(chains=[FakeText("x", delay=0), FakeText("a b c", delay=60)])
    prompt = await rendered(engine)
    samples = []
    async for sample in engine.generate(prompt, (), 2, Sampling(max_tokens=9), context("it")):
        samples.append(sample)
        await engine.abort("it")
    assert [(s.text, s.finish_reason) for s in samples] == [("x", "stop"), ("", "abort")]
    assert engine.running == 0


async def test_closing_leaves_nothing_running() -> None:
    engine = FakeEngine(chains=[FakeText("x", delay=0), FakeText("a b c", delay=60)])
    stream = engine.generate(await rendered(engine), (), 8, Sampling(max_tokens=9), context())
    await anext(stream)
    assert engine.running == 4
    await stream.aclose()
    assert engine.running == 0


async def test_cancelling_the_reader_leaves_nothing_running() -> None:
    engine = FakeEngine(chains=[FakeText("a b c", delay=60)])
    stream = engine.generate(await rendered(engine), (), 4, Sampling(max_tokens=9), context())
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert engine.running == 0


async def test_scripted_failures() -> None:
    engine = FakeEngine(fail_at={"plain": EngineError("lost")}, fail_after=1)
    stream = engine.generate(await rendered(engine), (), 2, Sampling(max_tokens=9), context())
    await anext(stream)
    with pytest.raises(EngineError, match="lost"):
        await anext(stream)
    assert engine.running == 0
