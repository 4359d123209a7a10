"""The pipeline on real vLLM: every path that the fake engine covers, once, on the bundled model."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest
from PIL import Image

from mirl_core.algorithm.confidence import distinct_share, probability
from mirl_core.bundled import model_path, questions
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.errors import DeadlineError
from mirl_core.pipeline.events import ChainDone, Decided, Finished, Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, Result

pytestmark = pytest.mark.vllm

NUMBERS = itertools.count()
SMALL = {"descriptions": 4, "keep": 3, "forks": 2}


def picture(number: int = 0) -> Conversation:
    question = questions()[number]
    with Image.open(question.file) as image:
        content = [
            {"type": "image", "image": image.convert("RGB")},
            {"type": "text", "text": question.question},
        ]
    return Conversation(({"role": "user", "content": content},))


def settings() -> ModelSettings:
    loaded = ModelSettings.load(model_path())
    assert loaded is not None
    return loaded


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
    sampled = sum(len(one.token_ids) for one in result.descriptions) + sum(
        one.tokens for one in result.chains
    )
    assert result.completion_tokens == sampled


async def test_confidence_is_calibrated_under_the_models_own_options(vllm_engine: VLLMEngine) -> None:
    own = settings()
    assert own.calibration is not None
    result = await run(vllm_engine, **own.options.model_dump())
    assert result.vote is not None
    distinct = distinct_share(result.descriptions)
    assert distinct is not None
    assert result.calibrated
    assert result.confidence == probability(own.calibration, result.vote.share, distinct)
    changed = await run(vllm_engine, **(own.options.model_dump() | {"forks": 1}))
    assert changed.vote is not None
    assert (changed.confidence, changed.calibrated) == (changed.vote.share, False)


@pytest.mark.parametrize("gate", ["mi", "confidence", "random", "none"])
async def test_gates(vllm_engine: VLLMEngine, gate: str) -> None:
    result = await run(vllm_engine, gate=gate, early_stop=False)
    usable = [one for one in result.descriptions if one.reason in (None, "gate")]
    kept = [one for one in usable if one.kept]
    assert len(kept) == (len(usable) if gate == "none" else min(3, len(usable)))
    if gate in ("mi", "confidence"):
        assert min(one.score for one in kept) >= max((o.score for o in usable if not o.kept), default=-1e9)


@pytest.mark.parametrize("estimator", ["text", "blank", "reference"])
async def test_estimators(vllm_engine: VLLMEngine, estimator: str) -> None:
    references = tuple(picture(number).images[0] for number in (1, 2, 3))
    result = await run(vllm_engine, references=references, estimator=estimator, token_mi=True)
    scored = [one for one in result.descriptions if one.mi is not None]
    assert scored
    for one in scored:
        assert one.token_mi is not None
        assert sum(one.token_mi) == pytest.approx(one.mi, abs=1e-6)


async def test_auto_weighs_by_the_requests_own_descriptions(vllm_engine: VLLMEngine) -> None:
    auto = await run(vllm_engine, mi_weight="auto", early_stop=False)
    scored = [one for one in auto.descriptions if one.marginal is not None]
    posterior, prior = sum(one.logprob for one in scored), sum(one.marginal or 0.0 for one in scored)
    assert auto.mi_weight == pytest.approx(1 - posterior / prior)
    assert 0 < auto.mi_weight < 1, "these digits say something, and not everything"
    for one in scored:
        assert one.mi == pytest.approx(one.logprob - auto.mi_weight * (one.marginal or 0.0), abs=1e-4)
    fixed = await run(vllm_engine, mi_weight=auto.mi_weight, early_stop=False)
    assert [one.token_ids for one in fixed.descriptions] == [one.token_ids for one in auto.descriptions]
    assert [one.kept for one in fixed.descriptions] == [one.kept for one in auto.descriptions]
    assert fixed.mi_weight == auto.mi_weight


@pytest.mark.parametrize("aggregate", ["auto", "majority", "mi_weighted", "best"])
async def test_aggregations(vllm_engine: VLLMEngine, aggregate: str) -> None:
    result = await run(vllm_engine, aggregate=aggregate)
    assert result.content
    assert result.aggregation == ("majority" if aggregate == "auto" else aggregate)
    assert (result.vote is None) == (aggregate == "best")


@pytest.mark.parametrize("options", [{"fork_image": "drop"}, {"distinct": True}, {"adaptive_keep": 0.5}])
async def test_switches(vllm_engine: VLLMEngine, options: dict[str, object]) -> None:
    assert (await run(vllm_engine, **options)).content


async def test_the_same_seed_gives_the_same_descriptions(vllm_engine: VLLMEngine) -> None:
    one, two = [await run(vllm_engine, early_stop=False) for _ in range(2)]
    other = await run(vllm_engine, sampling=Sampling(max_tokens=200, seed=4), early_stop=False)
    assert [d.token_ids for d in one.descriptions] == [d.token_ids for d in two.descriptions]
    assert [d.token_ids for d in one.descriptions] != [d.token_ids for d in other.descriptions]


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
            # Only now does the engine work: when the gate has told, no chain has begun.
            if isinstance(event, ChainDone):
                break
        assert seen == kept > 1
        assert unfinished(vllm_engine) > 0
    assert unfinished(vllm_engine) == 0


async def test_without_a_usable_description_it_falls_back(vllm_engine: VLLMEngine) -> None:
    result = await run(vllm_engine, description_tokens=1)
    assert result.fallback == "no usable description"
    assert {one.reason for one in result.descriptions} == {"truncated"}
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
    for one, two in zip(alone, together, strict=True):
        assert one.prompt_tokens == two.prompt_tokens
        assert len(one.chains) == len(two.chains)


async def nothing_runs(engine: VLLMEngine) -> None:
    """Within a second the engine has no unfinished request."""
    for _ in range(50):
        if not unfinished(engine):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("requests still run in the engine")


def unfinished(engine: VLLMEngine) -> int:
    """Requests that vLLM has not finished."""
    return engine.client.get_num_unfinished_requests()  # type: ignore[attr-defined,no-any-return]
