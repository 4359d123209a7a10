"""Rollouts and weight sync on real vLLM, held against transformers on the same weights in float32.

The engine is this module's own: its weights change, and the last test kills it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from mirl_core.bundled import DIGITS
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sampling
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.engines.vllm.throughput import start_engine
from mirl_core.errors import EngineDeadError, EngineError
from mirl_core.tasks.questions import Question, is_right
from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.planners import make_planner
from mirl_core.training.rl.planners.base import RolloutSampler
from mirl_core.training.rl.planners.question_source import DataCursor, QuestionSource
from mirl_core.training.rl.planners.rows import Plan, TrainingRow
from mirl_core.training.rl.recipe.config import (
    AnswerReward,
    DataConfig,
    MIReward,
    OptimizerConfig,
    RLRecipe,
)
from mirl_core.training.rl.rewards import Judge, make_rewards
from mirl_core.training.rl.rewards.mi import is_invalid
from mirl_core.training.rl.rewards.mi_scorers import SCORERS, FrozenScorer
from mirl_core.training.rl.weight_sync.in_process import ReloadSync
from mirl_core.types import Chain, Conversation

SAME = 1e-4
"""What float32 may differ by between vLLM and transformers, a token; nats."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(real_vllm: None) -> AsyncIterator[VLLMEngine]:
    started = await start_engine(DIGITS.path, max_num_seqs=128)
    yield started
    with suppress(EngineError):
        await started.close()


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(str(DIGITS.path), OptimizerConfig())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trainer(policy: Policy) -> AsyncIterator[HFEngine]:
    """The policy's own module, asked for log-probabilities."""
    scorer = HFEngine(policy.model, policy.processor)
    yield scorer
    await scorer.close()


@pytest.fixture(scope="module")
def settings() -> ModelSettings:
    loaded = ModelSettings.load(DIGITS.path)
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def questions() -> tuple[Question, ...]:
    batch, _ = QuestionSource.open(DataConfig(sets=("digits/ambiguous",), questions=3), 0).batch(DataCursor())
    return batch


def recipe(planner: str, **rewards: Any) -> RLRecipe:
    return RLRecipe.model_validate(
        {
            "model": "bundled",
            "output": "unused",
            "planner": planner,
            "rollout": {
                "descriptions": 6,
                "keep": 3,
                "forks": 2,
                "trajectories": 6,
                "description_tokens": 48,
                "max_tokens": 160,
            },
            "rewards": rewards,
        }
    )


class Brevity:
    """Tells chains of one answer apart, so that no group is flat."""

    name, weight = "brevity", 0.01

    def score(self, question: Question, chain: Chain) -> float:
        return -float(chain.tokens) - (chain.description or 0) / 10


async def planned(
    engine: Engine, frozen: Engine, settings: ModelSettings, config: RLRecipe, batch: Sequence[Question]
) -> Plan:
    judge = Judge((*make_rewards((AnswerReward(),), settings.tags), Brevity()))
    scorer = FrozenScorer(frozen, config.rewards.mi)
    return await make_planner(engine, settings, config, judge, scorer).plan(batch, 0)


async def differences(rows: Sequence[TrainingRow], trainer: HFEngine) -> float:
    """The largest between what the sampler said of a token and what the trainer's module says; nats."""
    worst = 0.0
    for row in rows:
        context = RequestContext("check")
        rendered = await trainer.render(row.prompt, context)
        (values,) = await trainer.score(rendered, [row.completion_ids], context)
        pairs = zip(values, row.sampler_logprobs, row.loss_mask, strict=True)
        worst = max(worst, *(abs(ours - theirs) for ours, theirs, mask in pairs if mask))
    return worst


@pytest.mark.parametrize("name", ["mirl", "grpo"])
async def test_rows_are_what_was_sampled(
    engine: VLLMEngine, trainer: HFEngine, settings: ModelSettings, questions: Sequence[Question], name: str
) -> None:
    plan = await planned(engine, trainer, settings, recipe(name), questions)
    worst = await differences(plan.rows, trainer)
    print(f"largest difference of sampler and trainer, {name}, {len(plan.rows)} rows: {worst:.1e} nats")
    assert worst <= SAME
    groups: dict[str, list[float]] = {}
    for row in plan.rows:
        groups.setdefault(row.group, []).append(row.advantage)
        opening, closing = settings.tags.description
        whole = engine.decode(row.completion_ids)
        pairs = zip(row.completion_ids, row.loss_mask, strict=True)
        text = engine.decode([token for token, mask in pairs if mask])
        assert whole.startswith(opening)
        assert whole.endswith(text), "what is trained is the end"
        if row.segment == "reasoning":
            assert text.startswith(settings.tags.reasoning[0])
            assert closing not in text
        else:
            assert text == whole.removeprefix(opening)
            assert row.segment == "trajectory" or closing not in text.removesuffix(closing)
    assert groups
    for advantages in groups.values():
        assert sum(advantages) == pytest.approx(0, abs=1e-9)
        assert any(advantages)
    per_question = 6 if name == "mirl" else sum(is_chain(t) for t in plan.trajectories) / 3
    assert plan.complete_trajectories == 3 * per_question
    by_key = {question.key: question for question in questions}
    for trajectory in plan.trajectories:
        if is_chain(trajectory):
            assert (
                trajectory.parts["exact"]
                == is_right(by_key[trajectory.question], trajectory.answer)
                == trajectory.right
            )
            assert trajectory.reward == pytest.approx(
                trajectory.parts["exact"] + 0.01 * trajectory.parts["brevity"]
            )
    if name == "grpo":
        assert {row.segment for row in plan.rows} <= {"trajectory"}
    assert plan.generated_tokens == plan.metrics["tokens/describe"] + plan.metrics["tokens/fork"]


def is_chain(trajectory: Any) -> bool:
    return trajectory.segment != "description" and bool(trajectory.parts)


@pytest.mark.parametrize("kind", ["frozen", "policy"])
async def test_at_the_start_the_rewards_mi_is_the_gates(
    engine: VLLMEngine, trainer: HFEngine, settings: ModelSettings, questions: Sequence[Question], kind: str
) -> None:
    wanted = MIReward(clip=None)
    scoring: Engine = trainer if kind == "frozen" else engine
    sampler = RolloutSampler(
        engine,
        settings,
        recipe("mirl"),
        MIRLOptions(descriptions=6, keep=1, forks=1, description_tokens=48, early_stop=False),
        Judge([]),
        SCORERS[kind](scoring, wanted),  # type: ignore[index]
    )
    compared = 0
    for rollout in await sampler.sample(questions, 0):
        for description, _ in rollout.descriptions:
            assert (description.index in rollout.scored) != is_invalid(description, wanted)
            if description.index in rollout.scored:
                mi = sum(rollout.scored[description.index].token_mi)
                assert mi == pytest.approx(description.mi, abs=1e-3)
                compared += 1
    assert compared > 9


async def test_on_one_thread_serial_plans_repeat_bit_by_bit(
    trainer: HFEngine, settings: ModelSettings, questions: Sequence[Question]
) -> None:
    config = recipe("mirl").model_copy(
        update={"rollout": recipe("mirl").rollout.model_copy(update={"serial": True})}
    )
    first, second = [await planned(trainer, trainer, settings, config, questions[:2]) for _ in range(2)]
    assert first.rows
    for ours, theirs in zip(first.rows, second.rows, strict=True):
        assert (ours.completion_ids, ours.sampler_logprobs, ours.advantage) == (
            theirs.completion_ids,
            theirs.sampler_logprobs,
            theirs.advantage,
        )


class Probe:
    """One prompt with its image and without, a fixed text after it, and what is sampled after that."""

    def __init__(self, engine: VLLMEngine, trainer: HFEngine, question: Question) -> None:
        self.engine, self.trainer = engine, trainer
        self.conversation = question.conversation()
        said = "top left red 3, top right blue 4, bottom left yellow 2, bottom right green 7"
        # Several cache blocks of 32 tokens even without an image.
        self.suffix = engine.encode(f"<description>{said}, {said}, {said}</description><think>")
        self.calls = 0

    async def differences(self) -> dict[str, float]:
        """By kind of question, the largest difference from the trainer's weights; nats."""
        return {
            "image": await self._difference(self.conversation),
            "text": await self._difference(self.conversation.with_images(None)),
        }

    async def _difference(self, conversation: Conversation) -> float:
        self.calls += 1
        context = RequestContext(f"probe-{self.calls}")
        rendered = await self.engine.render(conversation, context)
        stream = self.engine.generate(rendered, self.suffix, 3, Sampling(12, seed=5), context)
        samples = [sample async for sample in stream]
        (scored,) = await self.engine.score(rendered, [self.suffix], context)
        theirs = await self.trainer.render(conversation, context)
        wholes = [(*self.suffix, *sample.token_ids) for sample in samples]
        values = await self.trainer.score(theirs, wholes, context)
        apart = [np.abs(np.subtract(values[0][: len(self.suffix)], scored)).max()]
        for sample, ours in zip(samples, values, strict=True):
            apart.append(np.abs(np.subtract(ours[len(self.suffix) :], sample.logprobs)).max())
        return float(max(apart))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def probe(engine: VLLMEngine, trainer: HFEngine, questions: Sequence[Question]) -> Probe:
    return Probe(engine, trainer, questions[0])


@torch.no_grad()
def move(policy: Policy, seed: int) -> None:
    """Change every weight."""
    noise = torch.Generator().manual_seed(seed)
    for value in policy.model.parameters():
        value.add_(torch.randn(value.shape, generator=noise) * 0.01)


@pytest.fixture
def sync(engine: VLLMEngine, tmp_path: Path) -> ReloadSync:
    return ReloadSync(engine, tmp_path / "sync")


async def test_after_a_push_the_engine_is_the_trainers_model(
    engine: VLLMEngine, policy: Policy, probe: Probe, sync: ReloadSync, tmp_path: Path
) -> None:
    apart = await probe.differences()
    assert max(apart.values()) <= SAME, "equal to begin with"
    for version in (1, 2, 3):
        move(policy, version)
        apart = await probe.differences()
        assert min(apart.values()) > 0.05, "before the push the engine has the old weights"
        started = time.perf_counter()
        await sync.push(policy, version)
        seconds = time.perf_counter() - started
        apart = await probe.differences()
        print(f"push {version}: {seconds:.2f} s, largest difference {max(apart.values()):.1e} nats")
        assert max(apart.values()) <= SAME
        assert await engine.client.get_weight_version() == str(version)
        assert [path.name for path in (tmp_path / "sync").iterdir()] == [f"weights-{version}"]


async def test_the_check_sees_a_stale_prefix_cache(
    engine: VLLMEngine, policy: Policy, probe: Probe, sync: ReloadSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(policy, 4)

    async def nothing(self: Any) -> bool:
        return True

    with monkeypatch.context() as patched:
        patched.setattr(engine.client, "reset_prefix_cache", MethodType(nothing, engine.client))
        await sync.push(policy, 4)
    apart = await probe.differences()
    print(f"with a stale prefix cache: {apart}")
    assert min(apart.values()) > 0.05
    await engine.client.reset_prefix_cache()
    assert max((await probe.differences()).values()) <= SAME


async def test_the_check_sees_a_stale_encoder_cache(
    engine: VLLMEngine, policy: Policy, probe: Probe, sync: ReloadSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last: vLLM 0.32's `reload_weights` empties the worker's encoder cache, but not the scheduler's account
    of it. Without the reset the next request with a known image kills the engine; where the worker keeps its
    cache (as after vLLM's weight transfer) the image's old encoding would be used."""
    move(policy, 5)
    await probe.differences()

    async def nothing(self: Any) -> None:
        return None

    with monkeypatch.context() as patched:
        patched.setattr(engine.client, "reset_encoder_cache", MethodType(nothing, engine.client))
        await sync.push(policy, 5)
    try:
        apart = await probe.differences()
    except EngineDeadError:
        return
    assert apart["image"] > 0.05
