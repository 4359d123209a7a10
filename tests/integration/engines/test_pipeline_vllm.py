"""The pipeline on real vLLM: every path that the fake engine covers, once, on the bundled model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mirl_core.algorithm.confidence import probability, traits_of
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.errors import DeadlineError
from mirl_core.pipeline.events import ChainDone, Decided, Finished, Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.presets import PRESETS
from mirl_core.types import Conversation, Result
from tests.integration.engines.pipeline_cases import NUMBERS, SMALL, picture, settings


async def run(
    engine: VLLMEngine,
    conversation: Conversation | None = None,
    sampling: Sampling | None = None,
    references: tuple[Image.Image, ...] = (),
    **options: object,
) -> Result:
    pipeline = Pipeline(engine, settings(), references)
    context = RequestContext(f"pipeline-{next(NUMBERS)}")
    chosen = MIRLOptions.model_validate(SMALL | options)
    sampling = sampling or Sampling(max_tokens=200, seed=3)
    async for event in pipeline.run(conversation or picture(), chosen, sampling, context):
        last = event
    assert isinstance(last, Finished)
    return last.result


async def test_a_voted_answer_with_its_evidence(vllm_engine: VLLMEngine) -> None:
    result = await run(vllm_engine, early_stop=False)
    assert result.content
    assert result.content == result.representative.answer
    assert len(result.descriptions) == 4
    assert sum(description.kept for description in result.descriptions) <= 3
    kept = sum(description.kept for description in result.descriptions)
    assert len(result.chains) == 2 * kept
    for description in result.descriptions:
        if description.mi is not None:
            assert description.marginal is not None
            assert description.mi == pytest.approx(description.logprob - description.marginal, abs=1e-4)
    sampled = sum(len(d.token_ids) for d in result.descriptions) + sum(c.tokens for c in result.chains)
    assert result.completion_tokens == sampled


async def test_confidence_is_calibrated_under_the_models_own_options(vllm_engine: VLLMEngine) -> None:
    own = settings()
    assert own.calibration is not None
    result = await run(vllm_engine, **own.options.model_dump())
    assert result.vote is not None
    traits = traits_of(result.descriptions)
    assert traits is not None
    assert result.calibrated
    assert result.confidence == probability(own.calibration, result.vote.share, traits.distinct)
    changed = await run(vllm_engine, **(own.options.model_dump() | {"forks": 1}))
    assert changed.vote is not None
    assert (changed.confidence, changed.calibrated) == (changed.vote.share, False)


@pytest.mark.parametrize("gate", ["mi", "confidence", "random", "none"])
async def test_gates(vllm_engine: VLLMEngine, gate: str) -> None:
    result = await run(vllm_engine, gate=gate, early_stop=False)
    usable = [d for d in result.descriptions if d.reason in (None, "gate")]
    kept = [d for d in usable if d.kept]
    assert len(kept) == (len(usable) if gate == "none" else min(3, len(usable)))
    if gate in ("mi", "confidence"):
        assert min(d.score for d in kept) >= max((d.score for d in usable if not d.kept), default=-1e9)


@pytest.mark.parametrize("estimator", ["text", "blank", "reference"])
async def test_estimators(vllm_engine: VLLMEngine, estimator: str) -> None:
    references = tuple(picture(number).images[0] for number in (1, 2, 3))
    result = await run(vllm_engine, references=references, estimator=estimator, token_mi=True)
    scored = [d for d in result.descriptions if d.mi is not None]
    assert scored
    for d in scored:
        assert d.token_mi is not None
        assert sum(d.token_mi) == pytest.approx(d.mi, abs=1e-6)


async def test_auto_weighs_by_the_requests_own_descriptions(vllm_engine: VLLMEngine) -> None:
    auto = await run(vllm_engine, mi_weight="auto", early_stop=False)
    scored = [d for d in auto.descriptions if d.marginal is not None]
    posterior, prior = sum(d.logprob for d in scored), sum(d.marginal or 0.0 for d in scored)
    assert auto.mi_weight == pytest.approx(1 - posterior / prior)
    assert 0 < auto.mi_weight < 1, "these digits say something, and not everything"
    for d in scored:
        assert d.mi == pytest.approx(d.logprob - auto.mi_weight * (d.marginal or 0.0), abs=1e-4)
    fixed = await run(vllm_engine, mi_weight=auto.mi_weight, early_stop=False)
    assert [d.token_ids for d in fixed.descriptions] == [d.token_ids for d in auto.descriptions]
    assert [d.kept for d in fixed.descriptions] == [d.kept for d in auto.descriptions]
    assert fixed.mi_weight == auto.mi_weight


@pytest.mark.parametrize("aggregate", ["auto", "majority", "mi_weighted", "best"])
async def test_aggregations(vllm_engine: VLLMEngine, aggregate: str) -> None:
    result = await run(vllm_engine, aggregate=aggregate, early_stop=False)
    answered = [chain for chain in result.chains if chain.answer is not None]
    assert result.representative in answered
    assert result.content == result.representative.answer
    if result.vote is None:
        assert result.representative.score == max(chain.score for chain in answered)
    else:
        assert result.vote.counts[result.vote.answer] == max(result.vote.counts.values())
        total = sum(result.vote.counts.values())
        assert result.vote.share == pytest.approx(result.vote.counts[result.vote.answer] / total)
    assert result.aggregation == ("majority" if aggregate == "auto" else aggregate)
    assert (result.vote is None) == (aggregate == "best")


@pytest.mark.parametrize("fork_image", ["keep", "drop"])
async def test_chains_see_the_image_unless_it_is_dropped(
    vllm_engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch, fork_image: str
) -> None:
    """By the length of the prompts that the engine continues; tokens."""
    plain, prompts = vllm_engine.generate, dict[str, set[int]](describe=set(), fork=set())

    def generate(
        rendered: Rendered, suffix: Sequence[int], n: int, sampling: Sampling, context: RequestContext
    ) -> AsyncGenerator[Sample, None]:
        prompts["fork" if "fork" in context.request_id else "describe"].add(rendered.prompt_tokens)
        return plain(rendered, suffix, n, sampling, context)

    monkeypatch.setattr(vllm_engine, "generate", generate)
    result = await run(vllm_engine, fork_image=fork_image)
    assert result.content == result.representative.answer
    lengths = [
        (await Pipeline(vllm_engine, settings()).render(conversation, RequestContext("length"))).prompt_tokens
        for conversation in (picture(), picture().with_images(None))
    ]
    assert lengths[0] > lengths[1]
    assert prompts == {"describe": {lengths[0]}, "fork": {lengths[fork_image == "drop"]}}


@pytest.mark.parametrize("distinct", [False, True])
async def test_identical_descriptions_are_ranked_once_if_distinct(
    vllm_engine: VLLMEngine, distinct: bool
) -> None:
    greedy = Sampling(max_tokens=200, temperature=0)
    result = await run(vllm_engine, sampling=greedy, distinct=distinct, early_stop=False)
    assert len({d.token_ids for d in result.descriptions}) == 1
    dropped = ["duplicate"] * 3 if distinct else [None, None, "gate"]
    assert [d.reason for d in result.descriptions] == [None, *dropped]
    assert [d.kept for d in result.descriptions] == [reason is None for reason in (None, *dropped)]
    assert len(result.chains) == 2 * sum(d.kept for d in result.descriptions)


@pytest.mark.parametrize("mass", [0.2, 0.5])
async def test_adaptive_keep_ends_where_the_softmax_mass_is_reached(
    vllm_engine: VLLMEngine, mass: float
) -> None:
    result = await run(vllm_engine, adaptive_keep=mass, early_stop=False)
    scores = np.sort([d.score for d in result.descriptions if d.score is not None])[::-1]
    shares = np.exp(scores) / np.exp(scores).sum()
    enough = int(np.argmax(shares.cumsum() >= mass)) + 1
    assert enough < 3, "fewer than `keep`"
    assert [d.score for d in result.descriptions if d.kept] == sorted(
        scores[:enough], key=[d.score for d in result.descriptions].index
    )
    assert len(result.chains) == 2 * enough


async def test_the_same_seed_gives_the_same_descriptions(vllm_engine: VLLMEngine) -> None:
    first, repeated = [await run(vllm_engine, early_stop=False) for _ in range(2)]
    other = await run(vllm_engine, sampling=Sampling(max_tokens=200, seed=4), early_stop=False)
    assert [d.token_ids for d in first.descriptions] == [d.token_ids for d in repeated.descriptions]
    assert [d.token_ids for d in first.descriptions] != [d.token_ids for d in other.descriptions]


async def test_a_decided_vote_aborts_the_siblings_in_the_engine(vllm_engine: VLLMEngine) -> None:
    """Greedy chains of one description agree, so the vote is decided while some still run."""
    pipeline = Pipeline(vllm_engine, settings())
    options = MIRLOptions(descriptions=8, keep=8, forks=6, description_tokens=64)
    outstanding: list[int] = []
    for number in range(4):
        context = RequestContext(f"pipeline-{next(NUMBERS)}")
        async with aclosing(
            pipeline.run(picture(number), options, Sampling(max_tokens=200, seed=number), context)
        ) as events:
            async for event in events:
                if isinstance(event, Decided):
                    outstanding.append(event.outstanding)
                if isinstance(event, Finished):
                    aborted = [c for c in event.result.chains if c.finish_reason == "abort"]
                    assert len(aborted) <= outstanding[-1]
                    outstanding[-1] = len(aborted)
                    sampled = sum(chain.tokens for chain in event.result.chains)
                    assert sampled == event.result.stages[-1].generated_tokens
        await nothing_runs(vllm_engine)
    assert any(outstanding), "no vote was decided early on four questions of 48 chains each"


async def test_a_reader_that_leaves_frees_the_engine(
    vllm_engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One description's chains end by themselves, the others' repeat themselves for half a minute: left alone
    they would still run, on however busy a machine."""
    plain, seen = vllm_engine.generate, 0

    def generate(
        rendered: Rendered, suffix: Sequence[int], n: int, sampling: Sampling, context: RequestContext
    ) -> AsyncGenerator[Sample, None]:
        nonlocal seen
        seen += "fork" in context.request_id
        if seen > 1:
            suffix = vllm_engine.encode("red " * 60)
            sampling = replace(sampling, max_tokens=1500, temperature=0.2, frequency_penalty=-2.0)
        return plain(rendered, suffix, n, sampling, context)

    monkeypatch.setattr(vllm_engine, "generate", generate)
    pipeline = Pipeline(vllm_engine, settings())
    options = MIRLOptions(descriptions=8, keep=8, forks=4, early_stop=False)
    context = RequestContext(f"pipeline-{next(NUMBERS)}")
    kept = 0
    async with aclosing(pipeline.run(picture(), options, Sampling(max_tokens=200), context)) as events:
        async for event in events:
            if isinstance(event, Gated):
                kept = sum(description.kept for description in event.descriptions)
            # Only now does the engine work: when the gate is done, no chain has begun.
            if isinstance(event, ChainDone):
                break
        assert seen == kept > 1
        assert unfinished(vllm_engine) > 0
    assert unfinished(vllm_engine) == 0


async def test_without_a_usable_description_it_falls_back(vllm_engine: VLLMEngine) -> None:
    result = await run(vllm_engine, description_tokens=1)
    assert result.fallback == "no usable description"
    assert {d.reason for d in result.descriptions} == {"truncated"}
    assert len(result.chains) == 1


async def test_a_deadline_that_is_too_short_is_said_so(vllm_engine: VLLMEngine) -> None:
    with pytest.raises(DeadlineError):
        await run(vllm_engine, timeout=0.001)
    await nothing_runs(vllm_engine)


async def test_concurrent_requests_keep_apart(vllm_engine: VLLMEngine) -> None:
    alone = [await run(vllm_engine, picture(number), early_stop=False) for number in range(3)]
    together = await asyncio.gather(
        *(run(vllm_engine, picture(number), early_stop=False) for number in range(3))
    )
    for separate, concurrent in zip(alone, together, strict=True):
        assert separate.prompt_tokens == concurrent.prompt_tokens
        assert len(separate.chains) == len(concurrent.chains)


async def nothing_runs(engine: VLLMEngine) -> None:
    """Wait until the engine has no unfinished request."""
    async with asyncio.timeout(5):
        while unfinished(engine):  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.02)


def unfinished(engine: VLLMEngine) -> int:
    """Requests that vLLM has not finished."""
    return engine.client.get_num_unfinished_requests()  # type: ignore[attr-defined,no-any-return]


async def test_chains_in_waves_are_those_that_start_at_once(vllm_engine: VLLMEngine) -> None:
    options = {"descriptions": 3, "keep": 3, "forks": 2, "early_stop": False, "certainty": 0.999}
    sampling = Sampling(max_tokens=200, seed=3, temperature=0.0)
    together = await run(vllm_engine, sampling=sampling, **options)
    apart = await run(vllm_engine, sampling=sampling, **options, waves=True)
    texts = [{(c.description, c.fork): c.text for c in result.chains} for result in (together, apart)]
    assert len(texts[0]) == 2 * sum(description.kept for description in together.descriptions)
    assert texts[0] == texts[1]
    few = await run(vllm_engine, **PRESETS["waves"])
    assert few.content
    assert len(few.chains) <= 8


async def test_steered_answers(vllm_engine: VLLMEngine) -> None:
    result = await run(vllm_engine, **PRESETS["steered"], token_mi=True)
    assert result.content == result.representative.answer
    decoded = [description for description in result.descriptions if description.decoding]
    assert [d.decoding.weight for d in decoded if d.decoding] == [0.0, 0.5, 1.0]
    assert [d.votes for d in decoded] == [2, 2, 1]
    for description in result.descriptions:
        if description.kept:
            assert description.token_mi is not None
            assert sum(description.token_mi) == pytest.approx(description.mi, abs=1e-4)
    described, scored, forked = result.stages
    assert (described.stage, scored.stage, forked.stage) == ("describe", "score", "fork")
    # Drafts are shared: a text that several λ have in common is sampled once.
    assert described.generated_tokens >= max(len(d.token_ids) for d in result.descriptions)
    assert scored.scored_tokens > 0
    assert forked.generated_tokens == sum(chain.tokens for chain in result.chains)
    fast = await run(vllm_engine, **PRESETS["fast"], estimator="blank", fork_image="drop")
    assert (len(fast.descriptions), len(fast.chains), fast.chains[0].votes) == (1, 1, 1)


async def test_a_decode_is_the_same_whatever_else_the_request_does(vllm_engine: VLLMEngine) -> None:
    """λ = 0 is the model's own greedy description, and drafts of another length change nothing."""
    greedy = await run(vllm_engine, sampling=Sampling(200, temperature=0.0), descriptions=1, keep=1, forks=1)
    together = await run(vllm_engine, contrast=(0.0, 0.5), descriptions=0, draft_tokens=3, early_stop=False)
    alone = await run(vllm_engine, contrast=(0.5,), descriptions=0, draft_tokens=64)
    assert together.descriptions[0].text == greedy.descriptions[0].text
    assert together.descriptions[1].text == alone.descriptions[0].text


async def test_a_steered_request_that_is_left_frees_its_work(vllm_engine: VLLMEngine) -> None:
    options = MIRLOptions(preset="steered", description_tokens=64)
    pipeline = Pipeline(vllm_engine, settings())
    for leave_after in range(1, 6):
        context = RequestContext(f"left-{leave_after}")
        events = pipeline.run(picture(), options, Sampling(200, seed=1), context)
        async with aclosing(events):
            for _ in range(leave_after):
                await anext(events)
        assert not vllm_engine._calls
    again = await run(vllm_engine, **PRESETS["steered"])
    assert again.content
