"""The fake engine keeps the protocol's guarantees; other tests lean on it."""

import asyncio
import math
from collections.abc import Mapping, Sequence

import pytest

from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.fake import EOS, FakeCall, FakeEngine, FakeText
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


class Digits(FakeEngine):
    """An engine whose next token is likely a higher digit than the last, up to 3; then the turn ends."""

    def __init__(self, *, empty_after: str | None = None, **how: Mapping[str, EngineError]) -> None:
        super().__init__(["7 8</description>"], ["<answer>9</answer>"], likeliest=self.next_digit, **how)
        self.digits = tuple(self.encode(str(digit))[0] for digit in range(4))
        self.empty_after = empty_after

    def next_digit(self, conversation: Conversation, suffix: Sequence[int]) -> Mapping[int, float]:
        assert conversation == ASK
        if self.empty_after is not None and self.decode(suffix).endswith(self.empty_after):
            return {}
        last = self.digits.index(suffix[-1]) if suffix and suffix[-1] in self.digits else -1
        following = [*self.digits[last + 1 :], EOS]
        # Not in order: the engine must rank them.
        return {token: -0.5 - rank for rank, token in reversed(list(enumerate(following)))}


async def sampled(engine: FakeEngine, sampling: Sampling, suffix: str = "", n: int = 1) -> list[Sample]:
    stream = engine.generate(await rendered(engine), engine.encode(suffix), n, sampling, context())
    return [sample async for sample in stream]


async def test_at_temperature_0_a_sample_has_the_likeliest_tokens() -> None:
    engine = Digits()
    zero, one, two, three = engine.digits
    sampling = Sampling(max_tokens=9, temperature=0, alternatives=2, top_logprobs=3)
    first, second = await sampled(engine, sampling, n=2)
    assert first.token_ids == second.token_ids == (zero, one, two, three, EOS)
    assert (first.text, first.finish_reason) == ("0123", "stop")
    assert first.logprobs == (-0.5,) * 5
    assert first.likeliest == (
        ((zero, -0.5), (one, -1.5), (two, -2.5)),
        ((one, -0.5), (two, -1.5), (three, -2.5)),
        ((two, -0.5), (three, -1.5), (EOS, -2.5)),
        ((three, -0.5), (EOS, -1.5)),
        ((EOS, -0.5),),
    )
    assert first.confidence == (1.0, 1.0, 1.0, 1.0, 0.5)
    (after,) = await sampled(engine, Sampling(max_tokens=9, temperature=0), "<description>1")
    assert after.token_ids == (two, three, EOS)
    assert after.likeliest == after.confidence == ()
    assert engine.sampled_tokens == 13


async def test_what_ends_a_sample_of_the_likeliest_tokens() -> None:
    (short,) = await sampled(Digits(), Sampling(max_tokens=2, temperature=0))
    assert (short.text, short.finish_reason) == ("01", "length")
    (stopped,) = await sampled(Digits(), Sampling(max_tokens=9, temperature=0, stop=("12",)))
    assert (stopped.text, stopped.finish_reason) == ("012", "stop")
    (ended,) = await sampled(Digits(empty_after="1"), Sampling(max_tokens=9, temperature=0))
    assert (ended.text, ended.finish_reason, len(ended.token_ids)) == ("01", "stop", 2)


async def test_scripts_apply_at_other_temperatures_and_after_an_empty_mapping() -> None:
    (warm,) = await sampled(Digits(), Sampling(max_tokens=9), "<description>")
    assert (warm.text, warm.logprobs[0]) == ("7 8</description>", -1.0)
    (chain,) = await sampled(
        Digits(empty_after="</description>"),
        Sampling(max_tokens=9, temperature=0),
        "<description>7</description>",
    )
    assert chain.text == "<answer>9</answer>"


async def test_the_likeliest_tokens_by_position() -> None:
    engine = Digits()
    zero, one, two, three = engine.digits
    prompt = await rendered(engine)
    suffix = (zero, three, zero)
    whole = await engine.score_likeliest(prompt, suffix, 0, 2, context("it"))
    assert whole == [
        {zero: -0.5, one: -1.5},
        {one: -0.5, two: -1.5, three: -2.5},
        {EOS: -0.5, zero: -20.0},
    ]
    assert await engine.score_likeliest(prompt, suffix, 1, 2, context()) == whole[1:]
    assert await engine.score_likeliest(prompt, suffix, 3, 2, context()) == []
    assert await engine.score_likeliest(prompt, suffix, 1, 0, context()) == [{three: -2.5}, {zero: -20.0}]
    assert await engine.score(prompt, [suffix, ()], context()) == [(-0.5, -2.5, -20.0), ()]
    assert engine.of_kind("score")[0] == FakeCall("score", "it", ASK, (suffix,))
    assert engine.running == 0


async def test_without_likeliest_tokens_each_position_has_what_score_returns() -> None:
    engine = FakeEngine([FakeText("a b</description>", marginal=[-3, -4])])
    prompt = await rendered(engine)
    suffix = engine.encode("<description>a b")
    (scores,) = await engine.score(prompt, [suffix], context())
    assert scores == (-1.0, -3.0, -4.0)
    likeliest = await engine.score_likeliest(prompt, suffix, 1, 20, context())
    assert likeliest == [{suffix[1]: -3.0}, {suffix[2]: -4.0}]
    other = FakeEngine(score=lambda _, suffix: [-math.pi] * len(suffix))
    assert await other.score_likeliest(prompt, (5,), 0, 20, context()) == [{5: -math.pi}]


async def test_scoring_the_likeliest_tokens_fails_and_ends_as_scoring_does() -> None:
    engine = Digits(fail_at={"score": EngineError("lost")})
    with pytest.raises(EngineError, match="lost"):
        await engine.score_likeliest(await rendered(engine), engine.digits, 0, 2, context())
    assert engine.running == 0
    slow = FakeEngine(delay=60)
    scoring = asyncio.ensure_future(slow.score_likeliest(await rendered(slow), (1,), 0, 2, context()))
    await asyncio.sleep(0)
    assert slow.running == 1
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert slow.running == 0
