"""What the planners make of scripted samples: rows, masks, advantages, credit, counts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners import make_planner
from mirl_core.training.rl.planners.rows import Plan, TrainingRow
from mirl_core.training.rl.rewards import Judge
from mirl_core.types import Chain
from tests.unit.pipeline.pipeline_cases import chain, described
from tests.unit.training.rl.planners.rollout_cases import (
    SETTINGS,
    Scripted,
    engine,
    planner,
    question,
    recipe,
)

QUESTIONS = (question(0), question(1))


def trained(source: FakeEngine, row: TrainingRow) -> str:
    """The text of the tokens in the loss."""
    pairs = zip(row.completion_ids, row.loss_mask, strict=True)
    return source.decode([token for token, mask in pairs if mask])


def rows_of(plan: Plan, segment: str, key: str = "q0") -> list[TrainingRow]:
    return [row for row in plan.rows if row.segment == segment and row.group.startswith(f"{key}/")]


class Worth:
    """A reward by a table: description and fork, or everything alike."""

    name = "worth"
    weight = 1.0

    def __init__(self, table: dict[tuple[int, int], float]) -> None:
        self.table = table

    def score(self, question: Question, chain: Chain) -> float:
        return self.table.get((chain.description or 0, chain.fork), 0.0)


async def test_mirl_rows_are_descriptions_and_chains_with_rewards_of_their_own() -> None:
    source = engine()
    plan = await planner(source, recipe()).plan(QUESTIONS, 3)
    first = rows_of(plan, "description")
    assert [trained(source, row) for row in first] == [
        "a cat</description>",
        "a dog</description>",
        "a cow</description>",
        "no end in sight",
    ]
    # Truncated: as bad as the worst. Rewards 2, 1, 0, 0.
    spread = math.sqrt((1.25**2 + 0.25**2 + 2 * 0.75**2) / 3)
    assert [row.advantage for row in first] == pytest.approx(
        [1.25 / spread, 0.25 / spread, -0.75 / spread, -0.75 / spread]
    )
    second = rows_of(plan, "reasoning")
    assert [trained(source, row) for row in second] == [
        "<think>it is 0</think><answer>cat</answer>",
        "<think>hm</think>",
        "<think>it is 0</think><answer>dog</answer>",
        "<think>hm</think>",
    ]
    spread = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    assert [row.advantage for row in second] == pytest.approx([0.75 / spread, *[-0.25 / spread] * 3])
    assert {row.group for row in plan.rows} == {
        f"q{number}/{part}" for number in range(2) for part in ("description", "reasoning")
    }
    assert {row.prompt is rows_of(plan, row.segment, row.group[:2])[0].prompt for row in plan.rows} == {True}
    text = str(first[0].prompt.messages[0]["content"][-1])
    assert "Look first." in text


async def test_masks_and_sampler_logprobs_follow_what_was_sampled() -> None:
    source = engine()
    plan = await planner(source, recipe()).plan(QUESTIONS, 0)
    opening = source.encode("<description>")
    for row in plan.rows:
        assert row.completion_ids[: len(opening)] == opening
        assert not any(row.loss_mask[: len(opening)])
        for mask, logprob in zip(row.loss_mask, row.sampler_logprobs, strict=True):
            assert (logprob != 0) == mask
    chains = rows_of(plan, "reasoning")
    assert source.decode(chains[2].completion_ids).startswith("<description>a dog</description><think>")


async def test_every_group_sums_to_nothing() -> None:
    for config in (recipe(), recipe("grpo"), recipe(rewards__baseline="description")):
        plan = await planner(engine(), config).plan(QUESTIONS, 0)
        groups: dict[str, float] = {}
        for row in plan.rows:
            groups[row.group] = groups.get(row.group, 0.0) + row.advantage
        assert groups
        assert all(abs(total) < 1e-12 for total in groups.values())


async def test_grpo_rows_are_whole_trajectories() -> None:
    source = engine()
    plan = await planner(source, recipe("grpo")).plan(QUESTIONS, 0)
    rows = rows_of(plan, "trajectory")
    assert [trained(source, row) for row in rows] == [
        "a cat</description><think>it is 0</think><answer>cat</answer>",
        "a dog</description><think>it is 0</think><answer>dog</answer>",
        "a cow</description><think>it is 0</think><answer>cow</answer>",
        "no end in sight",
    ]
    assert [row.advantage for row in rows] == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert len({row.segment for row in plan.rows}) == 1
    # A description that can't go on has no chain.
    assert plan.complete_trajectories == 6
    assert plan.metrics["reward/answer"] == 0.25


@pytest.mark.parametrize("name", ["mirl", "grpo"])
async def test_plans_repeat_whether_questions_run_together_or_not(name: str) -> None:
    plans = [
        await planner(engine(delay=delay), recipe(name, rollout__serial=serial)).plan(QUESTIONS, 1)
        for serial, delay in ((True, 0.0), (True, 0.0), (False, 0.0), (False, 0.0005))
    ]
    for plan in plans[1:]:
        assert [replace(row, prompt=plans[0].rows[0].prompt) for row in plan.rows] == [
            replace(row, prompt=plans[0].rows[0].prompt) for row in plans[0].rows
        ]
        assert plan.trajectories == plans[0].trajectories
        assert {name: value for name, value in plan.metrics.items() if "seconds" not in name} == {
            name: value for name, value in plans[0].metrics.items() if "seconds" not in name
        }


async def test_serial_runs_nothing_beside_a_question() -> None:
    source = engine()
    await planner(source, recipe(rollout__serial=True)).plan(QUESTIONS, 1)
    order = [call.request_id.split("-")[2] for call in source.calls]
    assert order == sorted(order)


async def test_seeds_are_by_run_step_and_question() -> None:
    seeds = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        source = engine()
        await planner(source, recipe(seed=seed)).plan(QUESTIONS, step)
        seeds += [call.sampling.seed for call in source.of_kind("describe") if call.sampling is not None]
    assert len(set(seeds)) == 6


REWARDS = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(0, 1)), st.floats(-5, 5, allow_nan=False), max_size=8
)


@given(before=REWARDS, after=REWARDS)
@settings(deadline=None, max_examples=30)
def test_answer_rewards_never_reach_descriptions(
    before: dict[tuple[int, int], float], after: dict[tuple[int, int], float]
) -> None:
    first, second = _plans([before, after], [None, None])
    assert _plain(rows_of(first, "description")) == _plain(rows_of(second, "description"))


MI = st.fixed_dictionaries({name: st.floats(-5, 5, allow_nan=False) for name in ("cat", "dog", "cow")})


@given(before=MI, after=MI)
@settings(deadline=None, max_examples=30)
def test_mi_rewards_never_reach_reasoning(before: dict[str, float], after: dict[str, float]) -> None:
    table = {(0, 0): 1.0, (1, 1): 2.0}
    first, second = _plans([table, table], [before, after])
    assert _plain(rows_of(first, "reasoning")) == _plain(rows_of(second, "reasoning"))


def test_shared_credit_leaks_both_ways() -> None:
    first, second, mi_by_word = {(0, 0): 1.0}, {(0, 1): 1.0}, {"cat": 0.0, "dog": 2.0, "cow": 1.0}
    plans = _plans([first, second, first], [None, None, mi_by_word], rewards__credit="shared")
    base, other_answers, other_mi = (
        {row.completion_ids: row.advantage for row in rows_of(plan, "trajectory")} for plan in plans
    )
    assert base.keys() == other_answers.keys() == other_mi.keys()
    assert sum(base[ids] != other_answers[ids] for ids in base) == 2
    assert sum(base[ids] != other_mi[ids] for ids in base) >= 4


def _plans(
    tables: Sequence[dict[tuple[int, int], float]], mi: Sequence[dict[str, float] | None], **changes: Any
) -> list[Plan]:
    config = recipe(**changes)
    return [
        asyncio.run(planner(engine(), config, scores, [Worth(table)]).plan(QUESTIONS[:1], 0))
        for table, scores in zip(tables, mi, strict=True)
    ]


def _plain(rows: Sequence[TrainingRow]) -> list[tuple[Any, ...]]:
    return [(row.completion_ids, row.loss_mask, row.sampler_logprobs, row.advantage) for row in rows]


def test_shared_credit_is_the_sum_on_whole_trajectories() -> None:
    (plan,) = _plans([{(0, 0): 1.0}], [None], rewards__credit="shared")
    (apart,) = _plans([{(0, 0): 1.0}], [None])
    own = [row.advantage for row in rows_of(apart, "description")]
    chains = [row.advantage for row in rows_of(apart, "reasoning")]
    rows = rows_of(plan, "trajectory")
    expected = [
        own[0] + chains[0],
        own[0] + chains[1],
        own[1] + chains[2],
        own[1] + chains[3],
        own[2],
        own[3],
    ]
    assert [row.advantage for row in rows] == pytest.approx(expected)
    assert all(mask for row in rows for mask in row.loss_mask[1:])
    assert all(logprob != 0 for row in rows for logprob in row.sampler_logprobs[1:])


async def test_descriptions_may_be_rewarded_by_their_chains() -> None:
    source = engine()
    config = recipe(rewards__description="answer")
    plan = await make_planner(source, SETTINGS, config, Judge([Worth({(0, 0): 1.0, (1, 0): 0.5})])).plan(
        QUESTIONS, 0
    )
    rows = rows_of(plan, "description")
    assert [trained(source, row) for row in rows] == ["a cat</description>", "a dog</description>"]
    assert [row.advantage for row in rows] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])
    assert plan.metrics["reward/description"] == 0.375


async def test_descriptions_may_go_without_reward() -> None:
    config = recipe(rewards__description="none")
    plan = await make_planner(engine(), SETTINGS, config, Judge([Worth({(0, 0): 1.0})])).plan(QUESTIONS, 0)
    assert {row.segment for row in plan.rows} == {"reasoning"}
    assert "reward/description" not in plan.metrics


async def test_a_baseline_of_the_description_compares_only_its_chains() -> None:
    plan = await planner(
        engine(), recipe(rewards__baseline="description"), rewards=[Worth({(0, 0): 1.0, (1, 0): 1.0})]
    ).plan(QUESTIONS[:1], 0)
    rows = rows_of(plan, "reasoning")
    assert [row.group for row in rows] == ["q0/reasoning-0"] * 2 + ["q0/reasoning-1"] * 2
    assert [row.advantage for row in rows] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)] * 2)


async def test_flat_groups_give_no_rows_but_are_counted() -> None:
    plan = await planner(engine(), recipe(), rewards=[Worth({})]).plan(QUESTIONS, 0)
    assert {row.segment for row in plan.rows} == {"description"}
    assert (plan.metrics["groups/all"], plan.metrics["groups/flat"]) == (4, 2)
    assert plan.metrics["advantage/answer"] == 0
    assert len(plan.trajectories) == 16, "people still want to look at them"


async def test_differences_below_the_floor_stay_small() -> None:
    plan = await planner(engine(), recipe(), {"cat": 0.001, "dog": 0.0, "cow": 0.0}).plan(QUESTIONS, 0)
    worst = max(abs(row.advantage) for row in rows_of(plan, "description"))
    assert worst == pytest.approx(0.00075 / 0.05)


@pytest.mark.parametrize(
    ("name", "changes", "segment", "samples"),
    [
        ("grpo", {}, "trajectory", 4),
        ("mirl", {}, "reasoning", 4),
        ("mirl", {"rewards__baseline": "description"}, "reasoning", 2),
        ("mirl", {"rewards__description": "answer"}, "description", 2),
    ],
)
async def test_answers_have_a_floor_of_their_own(
    name: str, changes: dict[str, Any], segment: str, samples: int
) -> None:
    """Answer rewards 0.001 apart: divided by `answer_floor`, not by `mi_floor`, whichever is larger."""
    rewards = [Worth({(0, fork): 0.001 for fork in range(2 if segment == "description" else 1)})]
    divisors = []
    for floor in (0.01, 0.04, None):
        changed = changes if floor is None else changes | {"rewards__answer_floor": floor}
        source = engine()
        config = recipe(name, rewards__mi_floor=0.3, **changed)
        planned = make_planner(source, SETTINGS, config, Judge(rewards), Scripted(source.decode))
        plan = await planned.plan(QUESTIONS[:1], 0)
        best = max(row.advantage for row in plan.rows if row.segment == segment)
        divisors.append(0.001 * (1 - 1 / samples) / best)
    # Of one that is better among n the deviation is difference / √n, above the default floor of 1e-4.
    assert divisors == pytest.approx([0.01, 0.04, 0.001 / math.sqrt(samples)])


async def test_the_default_floor_of_answers_holds_rounding_down() -> None:
    plan = await planner(engine(), recipe(), rewards=[Worth({(0, 0): 1e-6})]).plan(QUESTIONS[:1], 0)
    best = max(row.advantage for row in rows_of(plan, "reasoning"))
    assert best == pytest.approx(1e-6 * (1 - 1 / 4) / 1e-4)


async def test_chains_without_the_image_train_under_the_prompt_without_it() -> None:
    plan = await planner(engine(), recipe(rollout__fork_image="drop")).plan(QUESTIONS[:1], 0)
    assert all(row.prompt.images for row in rows_of(plan, "description"))
    chains = rows_of(plan, "reasoning")
    assert all(not row.prompt.images for row in chains)
    assert len({id(row.prompt) for row in chains}) == 1


@pytest.mark.parametrize(
    ("name", "changes", "param"),
    [
        ("grpo", {"rollout__fork_image": "drop"}, "rollout.fork_image"),
        ("mirl", {"rollout__fork_image": "drop", "rewards__credit": "shared"}, "rewards.credit"),
        ("mirl", {"rollout__forks": 1, "rewards__baseline": "description"}, "rewards.baseline"),
    ],
)
def test_what_can_not_be_is_refused(name: str, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planner(engine(), recipe(name, **changes))
    assert caught.value.param == param


def test_mi_rewards_need_a_scorer() -> None:
    with pytest.raises(ValueError, match="scorer"):
        make_planner(engine(), SETTINGS, recipe(), Judge([]))


async def test_no_usable_description_is_counted_and_nothing_is_scored() -> None:
    source = engine([FakeText("no end in sight")], plain=lambda suffix, fork: chain("cat"))
    plan = await planner(source, recipe()).plan(QUESTIONS, 0)
    assert plan.rows == ()
    assert plan.metrics["questions/fallback"] == 1
    assert plan.complete_trajectories == 2
    assert plan.metrics["tokens/fork"] == 2 * len(source.encode(chain("cat")))
    assert plan.scored_tokens == 0
    grpo = await planner(source, recipe("grpo")).plan(QUESTIONS, 0)
    assert grpo.rows == ()


async def test_only_valid_descriptions_are_scored() -> None:
    looping = described("a a a a a a a a a a a a")
    source = engine([described("a cat"), described("a dog"), looping, FakeText("no end")])
    config = recipe()
    made_planner = planner(source, config)
    plan = await made_planner.plan(QUESTIONS[:1], 0)
    scorer = made_planner._sampler.scorer  # type: ignore[attr-defined]
    assert sorted(text for _, text in scorer.requests) == ["a cat", "a dog"]
    logged = [trajectory for trajectory in plan.trajectories if trajectory.segment == "description"]
    rewards = [trajectory.reward for trajectory in logged]
    assert rewards == [2.0, 1.0, 1.0, 1.0], "the others are worth what the worst is"
    assert [trajectory.parts for trajectory in logged] == [{"mi": 2.0}, {"mi": 1.0}, {}, {}]


async def test_figures() -> None:
    source = engine()
    plan = await planner(source, recipe()).plan(QUESTIONS, 0)
    metrics = plan.metrics
    assert metrics["reward/description"] == pytest.approx(0.75)
    assert metrics["reward/answer"] == metrics["reward/answer/exact"] == metrics["answers/right"] == 0.25
    assert metrics["descriptions/kept"] == 0.5
    assert metrics["descriptions/valid"] == 0.75
    assert metrics["descriptions/right"] == 0.25
    assert metrics["descriptions/right_kept"] == 0.5
    assert metrics["answers/missing"] == 0.5
    assert metrics["mi/mean"] == 1
    assert metrics["mi/std"] == pytest.approx(math.sqrt(2 / 3))
    assert metrics["mi/gate"] == pytest.approx((2.0 + 1.0 + 0.5) / 3)
    assert metrics["entropy/description"] == 0.5
    assert metrics["entropy/reasoning"] == 1
    assert metrics["advantage/description"] == pytest.approx(math.sqrt(3 / 4))
    assert metrics["rewards/failed"] == metrics["questions/failed"] == metrics["questions/fallback"] == 0
    assert plan.complete_trajectories == 8
    assert plan.generated_tokens == source.sampled_tokens
    assert metrics["tokens/describe"] + metrics["tokens/fork"] == source.sampled_tokens
    # Gate: opening and two words of three descriptions; reward: two words each.
    assert plan.scored_tokens == metrics["tokens/score"] == 2 * (3 * 3 + 3 * 2)
    for stage in ("describe", "score", "fork", "mi", "judge"):
        assert metrics[f"seconds/{stage}"] >= 0
    kinds = [trajectory.segment for trajectory in plan.trajectories if trajectory.question == "q1"]
    assert kinds == ["description"] * 4 + ["reasoning"] * 4
    chains = [trajectory for trajectory in plan.trajectories if trajectory.segment == "reasoning"]
    assert [(trajectory.answer, trajectory.right) for trajectory in chains[:2]] == [
        ("cat", True),
        (None, False),
    ]
    assert chains[0].parts == {"exact": 1.0}
    assert chains[0].text == "a cat\n<think>it is 0</think><answer>cat</answer>"


async def test_no_questions_give_an_empty_plan() -> None:
    plan = await planner(engine(), recipe()).plan((), 0)
    assert plan.rows == ()
    assert plan.complete_trajectories == 0
