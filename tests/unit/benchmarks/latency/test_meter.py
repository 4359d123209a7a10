"""The work of a request's engine calls: prefilled tokens beyond the prefix cache, steps, passes."""

from __future__ import annotations

from PIL import Image

from mirl_core.algorithm.costs import Work
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.types import Conversation
from tests.benchmarks.latency.meter import Meter, rounds

PICTURE = {"type": "image", "image": Image.new("RGB", (2, 2))}
SHOWN = Conversation(({"role": "user", "content": [PICTURE, {"type": "text", "text": "a b"}]},))
SAMPLING = Sampling(max_tokens=50)


def without_times(work: Work) -> tuple[object, ...]:
    return (
        work.stage, work.sequences, work.prefill, work.scored, work.steps, work.generated, work.images,
    )  # fmt: skip


async def test_forks_prefill_what_no_full_block_holds() -> None:
    fake = FakeEngine([FakeText("1 2 3 4 5 6 7 8 9</description>")], ["<think>x</think><answer>1</answer>"])
    meter = Meter(fake)
    rendered = await meter.render(SHOWN, RequestContext("r"))
    opening = meter.encode("<description>")
    async for sample in meter.generate(rendered, opening, 3, SAMPLING, RequestContext("r-describe")):
        description = sample.token_ids
    suffix = (*opening, *description)
    async for _ in meter.generate(rendered, suffix, 2, SAMPLING, RequestContext("r-fork-0")):
        pass
    render, describe, fork = meter.works(block=4)
    prompt = rendered.prompt_tokens
    assert without_times(render) == ("render", 0, 0, 0, 0, 0, 1)
    # The first of three sequences prefills the prompt, the others what follows its last full block.
    left = (prompt + 1) - prompt // 4 * 4
    assert without_times(describe) == ("describe", 3, prompt + 1 + 2 * left, 0, 10, 30, 1)
    # All but the last token of the description is in the cache, in full blocks.
    left = len(suffix) + prompt - (len(suffix) - 1 + prompt) // 4 * 4
    assert without_times(fork) == ("fork", 2, 2 * left, 0, 6, 12, 0)
    assert rounds((render, describe, fork)) == 2
    assert describe.end <= fork.start


async def test_short_prompts_are_scored_anew_with_every_suffix() -> None:
    meter = Meter(FakeEngine(score=lambda conversation, suffix: [0.0] * len(suffix)))
    rendered = await meter.render(SHOWN.with_images(None), RequestContext("r-score-0"))
    await meter.score(rendered, [(1, 2), (1, 2), (3,)], RequestContext("r-score-0"))
    await meter.score_likeliest(rendered, (1, 2, 3), 1, 5, RequestContext("r-score-1"))
    _, twice, likeliest = meter.works(block=4)
    prompt = rendered.prompt_tokens
    assert without_times(twice) == ("score", 2, 0, 2 * prompt + 3, 0, 0, 0)
    assert without_times(likeliest) == ("score", 1, 0, prompt + 3, 0, 0, 0)


async def test_a_long_prompt_is_scored_through_the_cache() -> None:
    words = " ".join(str(number) for number in range(300))
    meter = Meter(FakeEngine(score=lambda conversation, suffix: [0.0] * len(suffix)))
    long = Conversation(({"role": "user", "content": words},))
    rendered = await meter.render(long, RequestContext("r"))
    await meter.score(rendered, [(1, 2), (3,)], RequestContext("r-score"))
    prompt = rendered.prompt_tokens
    left = prompt - (prompt - 1) // 32 * 32
    assert without_times(meter.works(block=32)[1]) == ("score", 2, 0, prompt + 2 * left + 3, 0, 0, 0)


def test_rounds_are_consecutive_calls() -> None:
    works = [Work("fork", 0, 2), Work("fork", 1, 3), Work("fork", 2, 4), Work("score", 3.5, 5)]
    assert rounds(works) == 2
    assert rounds([Work("render", 0, 1)]) == 0
