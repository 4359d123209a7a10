"""The loop without a model: order, stops, failures, resumes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mirl_core.errors import ConfigError, EngineError, TrainingError
from mirl_core.training.rl.dev_evaluation import DEV_RESULTS
from mirl_core.training.rl.planners.question_source import DataCursor
from mirl_core.training.rl.report.monitor import read_lines
from mirl_core.training.rl.report.pages import TRAJECTORIES
from tests.unit.training.rl.loop_cases import World, recipe_of, run


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines without what a clock said."""
    return [
        {name: value for name, value in line.items() if "seconds" not in name}
        for line in read_lines(folder / "metrics.jsonl")
    ]


async def test_a_step_is_plan_train_push_and_a_line(tmp_path: Path) -> None:
    world = World(tmp_path)
    shown: list[tuple[int, Mapping[str, float]]] = []
    assert await run(world, recipe_of(tmp_path, steps=2), shown=shown)
    assert world.events == [
        "plan 0 with 0", "train", "push 1", f"plan 1 with {shown[0][1]['loss']:g}",
        "train", "push 2", "save 2",
    ]  # fmt: skip
    first, second = metrics(tmp_path)
    assert (first["step"], second["step"]) == (1, 2)
    assert first["total/complete_trajectories"] == 2
    assert second["total/complete_trajectories"] == 4
    assert (second["total/generated_tokens"], second["total/scored_tokens"]) == (20, 10)
    assert second["staleness"] == 0
    assert [step for step, _ in shown] == [1, 2]
    assert [line["step"] for line in read_lines(tmp_path / TRAJECTORIES)] == [1, 1, 2, 2]


async def test_checkpoints_and_exports_come_when_they_are_due(tmp_path: Path) -> None:
    world = World(tmp_path)
    recipe = recipe_of(tmp_path, steps=5, checkpoint={"every": 2, "export_every": 3})
    assert await run(world, recipe)
    assert sorted(world.saved) == [2, 4, 5]
    assert world.exported == ["step-000003"]
    state, _ = world.saved[4]
    assert state.cursor == DataCursor(1, 4)
    assert state.totals.complete_trajectories == 8


async def test_one_step_off_samples_with_the_weights_before_the_update(tmp_path: Path) -> None:
    world = World(tmp_path, plan_seconds=0.01)
    recipe = recipe_of(tmp_path, steps=4, rollout={"asynchronous": True})
    assert await run(world, recipe)
    order = [event.partition(" with")[0] for event in world.events if not event.startswith("save")]
    # The next plan is under way when the update begins, and over when new weights come.
    assert order == [
        "plan 0", "plan 1", "train", "push 1", "plan 2", "train", "push 2", "plan 3", "train", "push 3",
        "train", "push 4",
    ]  # fmt: skip
    assert [line["staleness"] for line in metrics(tmp_path)] == [0, 1, 1, 1]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stop_while_sampling_gives_the_step_up_and_saves(tmp_path: Path, asynchronous: bool) -> None:
    stop = asyncio.Event()
    world = World(tmp_path, on_plan=lambda step: stop.set() if step == 3 else None, plan_seconds=0.01)
    recipe = recipe_of(tmp_path, checkpoint={"every": 100}, rollout={"asynchronous": asynchronous})
    assert not await run(world, recipe, stop=stop)
    assert list(world.saved) == [3]
    assert world.events[-1] == "save 3"
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    assert sum(event.startswith("train") for event in world.events) == 3


async def test_a_stop_before_the_first_step_leaves_a_checkpoint(tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    world = World(tmp_path)
    assert not await run(world, recipe_of(tmp_path), stop=stop)
    assert list(world.saved) == [0]
    assert world.events == ["save 0"]


async def test_no_step_begins_after_the_time(tmp_path: Path) -> None:
    world = World(tmp_path, plan_seconds=0.05)
    assert not await run(world, recipe_of(tmp_path, steps=1000), until=time.monotonic() + 0.2)
    (last,) = [max(world.saved)]
    assert 0 < last < 20
    assert not await run(world, recipe_of(tmp_path, steps=1000), until=time.monotonic() - 1)
    assert max(world.saved) == last


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
async def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, stop_at: int) -> None:
    whole = World(tmp_path / "whole")
    assert await run(whole, recipe_of(tmp_path / "whole"))
    stop = asyncio.Event()
    world = World(tmp_path / "parts", on_plan=lambda step: stop.set() if step == stop_at else None)
    assert not await run(world, recipe_of(tmp_path / "parts"), stop=stop)
    world.on_plan = lambda step: None
    assert await run(world, recipe_of(tmp_path / "parts"))
    assert world.weights == whole.weights
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


async def test_steps_after_the_last_checkpoint_are_done_again_but_appear_once(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole")
    assert await run(whole, recipe_of(tmp_path / "whole"))
    # A kill: nothing was saved after step 2, but files have lines of steps 3 and 4.
    stop = asyncio.Event()
    world = World(tmp_path / "parts", on_plan=lambda step: stop.set() if step == 4 else None)
    assert not await run(world, recipe_of(tmp_path / "parts"), stop=stop)
    assert [line["step"] for line in metrics(tmp_path / "parts")] == [1, 2, 3, 4]
    del world.saved[4]
    world.on_plan = lambda step: None
    assert await run(world, recipe_of(tmp_path / "parts"))
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    for name in (TRAJECTORIES,):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize(
    ("where", "error", "kept"),
    [
        ("fail_plan", EngineError("the engine failed"), 2),
        ("fail_plan", ConfigError("no picture"), 2),
        ("fail_train", TrainingError("loss nan"), 2),
    ],
)
async def test_a_failed_step_leaves_the_state_before_it(
    tmp_path: Path, where: str, error: Exception, kept: int
) -> None:
    world = World(tmp_path, **{where: {2: error}})
    recipe = recipe_of(tmp_path, checkpoint={"every": 100})
    with pytest.raises(type(error)) as caught:
        await run(world, recipe)
    assert caught.value is error
    assert list(world.saved) == [kept]
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


async def test_a_failed_push_keeps_the_update_that_was_made(tmp_path: Path) -> None:
    world = World(tmp_path, fail_push={3: EngineError("the server is gone")})
    with pytest.raises(EngineError):
        await run(world, recipe_of(tmp_path, checkpoint={"every": 100}))
    assert list(world.saved) == [3]
    assert world.saved[3][1] == world.weights
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    world.fail_push = {}
    assert await run(world, recipe_of(tmp_path))
    whole = World(tmp_path / "whole")
    assert await run(whole, recipe_of(tmp_path / "whole"))
    assert metrics(tmp_path) == metrics(tmp_path / "whole")


async def test_half_a_step_of_several_updates_is_not_saved(tmp_path: Path) -> None:
    world = World(tmp_path, fail_train={3: TrainingError("loss nan")})
    with pytest.raises(TrainingError):
        await run(world, recipe_of(tmp_path, optimizer={"updates": 2}))
    assert list(world.saved) == [2]


async def test_a_failed_look_ahead_comes_out_at_its_own_step(tmp_path: Path) -> None:
    world = World(tmp_path, fail_plan={2: EngineError("gone")})
    with pytest.raises(EngineError):
        await run(world, recipe_of(tmp_path, rollout={"asynchronous": True}, checkpoint={"every": 100}))
    assert list(world.saved) == [2]
    assert sum(event.startswith("train") for event in world.events) == 2


async def test_an_error_that_nobody_foresaw_saves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, fail_train={3: RuntimeError("out of memory")})
    with pytest.raises(RuntimeError):
        await run(world, recipe_of(tmp_path))
    assert list(world.saved) == [2]


async def test_evaluations_come_at_start_end_and_between_and_not_twice(tmp_path: Path) -> None:
    evaluation = {"every": 3, "sets": ["digits/iid"], "n": 2}
    world = World(tmp_path)
    recipe = recipe_of(tmp_path, steps=5, evaluation=evaluation)
    shown: list[tuple[int, Mapping[str, float]]] = []
    assert await run(world, recipe, shown=shown)
    lines = read_lines(tmp_path / DEV_RESULTS)
    assert [line["step"] for line in lines] == [0, 3, 5]
    assert [line["totals"]["generated_tokens"] for line in lines] == [0, 30, 50]
    assert [step for step, figures in shown if "look/digits/iid/accuracy" in figures] == [0, 3, 5]
    assert await run(world, recipe)
    assert read_lines(tmp_path / DEV_RESULTS) == lines


async def test_an_evaluation_that_a_stop_left_out_is_made_up_for(tmp_path: Path) -> None:
    evaluation = {"every": 3, "sets": ["digits/iid"], "n": 2}
    recipe = recipe_of(tmp_path, evaluation=evaluation)
    stop = asyncio.Event()
    world = World(tmp_path)
    stop.set()
    assert not await run(world, recipe, stop=stop)
    assert read_lines(tmp_path / DEV_RESULTS) == []
    assert await run(world, recipe)
    assert [line["step"] for line in read_lines(tmp_path / DEV_RESULTS)] == [0, 3, 6]


async def test_lines_are_strict_json_on_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    seen: list[int] = []

    def count(step: int) -> None:
        path = tmp_path / "metrics.jsonl"
        seen.append(len([json.loads(line) for line in path.read_text().splitlines()]))

    world = World(tmp_path, on_plan=count)
    assert await run(world, recipe_of(tmp_path, steps=3))
    assert seen == [0, 1, 2]
