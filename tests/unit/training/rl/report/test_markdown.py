"""`mirl-train report`: costs by hand, groups by recipe, files of made-up runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirl_core.errors import ConfigError
from mirl_core.training.cli import app
from mirl_core.training.rl.recipe.checks import dump
from mirl_core.training.rl.report.curves import ALL, first_reach, groups_of, reach, read_run
from mirl_core.training.rl.report.markdown import write_report
from tests.unit.training.rl.loop_cases import recipe_of

N = 40


def made_run(folder: Path, rights: list[int], *, seed: int = 0, cost: float = 100.0, **changes: Any) -> Path:
    """A run whose evaluations have so many of 40 questions right, `cost` trajectories apart."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(recipe_of(folder, seed=seed, **changes)))
    sets = ("digits/iid", "digits/shifted")
    questions = {
        name: {
            "part": "dev",
            "keys": [f"{name}-{i}" for i in range(N)],
            "clusters": [[f"{name}-{i}", f"glyph-{i % 7}"] for i in range(N)],
        }
        for name in sets
    }
    (folder / "looks-questions.json").write_text(json.dumps(questions))
    evaluations, metrics = [], []
    for place, right in enumerate(rights):
        bits = "1" * right + "0" * (N - right)
        figures = {"n": N, "accuracy": right / N, "right": bits, "described_right": bits[::-1]}
        totals = {
            "complete_trajectories": cost * place,
            "generated_tokens": 10 * cost * place,
            "scored_tokens": cost * place,
            "seconds": 2.0 * place,
            "wall_seconds": 3.0 * place,
        }
        evaluations.append({"step": 10 * place, "totals": totals, "sets": dict.fromkeys(sets, figures)})
        metrics += [
            {"step": 10 * place + offset, "reward/answer": 0.1 * place, "mi/mean": None, "kl": 0.01,
             "seconds/plan": 1.0, "seconds/train": 2.0, "seconds/sync": 0.1,
             **{f"total/{name}": value for name, value in totals.items()}}
            for offset in range(1, 11)
        ]  # fmt: skip
    for name, lines in (("looks.jsonl", evaluations), ("metrics.jsonl", metrics)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def _one_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the bars of seconds alone, for tests of tables: `test_the_report_has_tables_plots_and_pages` draws
    all plots."""
    for name in ("_evaluations", "_steps"):
        monkeypatch.setattr(f"mirl_core.training.rl.report.plots.{name}", lambda *arguments: None)


@pytest.fixture
def _one_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw every plot, over one kind of cost instead of three."""
    monkeypatch.setattr("mirl_core.training.rl.report.plots._SHOWN_COSTS", ("seconds",))


def test_the_first_crossing_is_linear_between_evaluations() -> None:
    cost = np.array([0.0, 100.0, 200.0])
    curves = np.array([[0.2, 0.4, 0.8], [0.2, 0.4, 0.8], [0.2, 0.9, 0.1], [0.5, 0.4, 0.8], [0.2, 0.3, 0.4]])
    targets = np.array([0.6, 0.4, 0.55, 0.5, 0.5])
    assert first_reach(cost, curves, targets).tolist() == pytest.approx([150, 100, 50, 0, math.inf])


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path: Path) -> None:
    folders = [
        made_run(tmp_path / "mirl" / "seed-0", [10, 20]),
        made_run(tmp_path / "mirl" / "seed-1", [10, 30], seed=1),
        made_run(tmp_path / "grpo" / "seed-0", [10, 20], planner="grpo"),
        made_run(tmp_path / "other" / "mirl-s2", [10, 20], rollout={"keep": 5}),
    ]
    groups = groups_of([read_run(folder) for folder in folders])
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("mirl", 2), ("grpo", 1), ("mirl (2)", 1),
    ]  # fmt: skip
    assert list(groups[0].curves) == ["digits/iid", "digits/shifted", ALL]
    curve = groups[0].curves[ALL]
    assert curve.right.shape == (2, 2, 2 * N)
    assert curve.right.mean(axis=(0, 2)).tolist() == [0.25, 0.625]


def test_cost_to_reach_the_baseline_is_a_share_of_its_own(tmp_path: Path) -> None:
    fast, slow = (
        groups_of([read_run(made_run(tmp_path / name, rights, planner=planner))])[0]
        for name, rights, planner in (("mirl", [8, 16, 24], "mirl"), ("grpo", [8, 12, 16], "grpo"))
    )
    reached = reach(fast.curves["digits/iid"], slow.curves["digits/iid"], "complete_trajectories", draws=200)
    assert reached.cost == pytest.approx(100.0)
    assert reached.ratio == pytest.approx(0.5)
    assert reached.each == (pytest.approx(100.0),)
    assert reached.low <= 100.0 <= reached.high
    assert reached.ratio_low <= 0.5 <= reached.ratio_high
    itself = reach(slow.curves[ALL], slow.curves[ALL], "tokens", draws=50)
    assert (itself.cost, itself.ratio, itself.ratio_low, itself.ratio_high) == (
        pytest.approx(2200.0), 1.0, 1.0, 1.0,
    )  # fmt: skip


def test_what_is_never_reached_has_no_cost(tmp_path: Path) -> None:
    low, high = (
        groups_of([read_run(made_run(tmp_path / name, rights))])[0]
        for name, rights in (("low", [4, 5]), ("high", [4, 36]))
    )
    reached = reach(low.curves[ALL], high.curves[ALL], "seconds", draws=100)
    assert math.isinf(reached.cost)
    assert math.isinf(reached.high)
    assert math.isinf(reached.ratio)


def test_other_questions_are_not_compared(tmp_path: Path) -> None:
    first = groups_of([read_run(made_run(tmp_path / "a", [4, 5]))])[0]
    other = made_run(tmp_path / "b", [4, 5])
    questions = (other / "looks-questions.json").read_text().replace("digits/iid-0", "digits/iid-x")
    (other / "looks-questions.json").write_text(questions)
    second = groups_of([read_run(other)])[0]
    with pytest.raises(ConfigError, match="different questions"):
        reach(first.curves["digits/iid"], second.curves["digits/iid"], "seconds")


@pytest.mark.usefixtures("_one_plot")
def test_runs_are_compared_at_equal_cost(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / "mirl", [8, 16, 24], cost=60.0),
        made_run(tmp_path / "grpo", [8, 12, 16], planner="grpo"),
    ]
    write_report(runs, tmp_path / "report")
    lines = (tmp_path / "report" / "report.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| mirl | digits/iid | complete trajectories | +"))
    cells = [cell.split(" [")[0].strip() for cell in row.split("|")[4:-1]]
    # After 50 trajectories 8 + 8 * 50 / 60 against 10 of 40; after 100 21.33 against 12; at 120 mirl ended.
    assert cells == ["+11.7", "+23.3", "–", "–"]


@pytest.mark.usefixtures("_one_cost")
def test_a_report_ends_at_its_step_limit(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / "mirl", [8, 16, 30], steps=20),
        made_run(tmp_path / "short", [8, 12], steps=10, seed=1),
        made_run(tmp_path / "grpo", [8, 12, 36], planner="grpo", steps=20),
    ]
    write_report(runs, tmp_path / "report", steps=10)
    lines = (tmp_path / "report" / "report.md").read_text().splitlines()
    mirl, *_ = (line for line in lines if line.startswith("| mirl | digits/iid | 80 |"))
    cells = [cell.split(" [")[0].strip() for cell in mirl.split("|")[4:]]
    # Two runs of one kind, once they are of one length: (16 + 12) / 80, 5 points above 12 / 40.
    assert cells[:3] == ["20.0", "35.0", "+5.0"]
    assert all("36" not in line for line in lines if line.startswith("| grpo | digits/iid"))


def test_the_report_has_tables_plots_and_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        made_run(tmp_path / "mirl" / "seed-0", [8, 16, 24]),
        made_run(tmp_path / "mirl" / "seed-1", [8, 20, 24], seed=1),
        made_run(tmp_path / "grpo" / "seed-0", [8, 12, 16], planner="grpo"),
    ]
    (folders[0] / "trajectories.jsonl").write_text(
        json.dumps(
            {"step": 1, "question": "q", "text": "?", "truth": "1", "picture": None, "trajectories": []}
        )
        + "\n"
    )
    words = ["report", *map(str, folders), "--output", str(tmp_path / "report")]
    app(args=words, standalone_mode=False)
    written = {Path(line.removeprefix("wrote ")).name for line in capsys.readouterr().out.splitlines()}
    assert written == {
        "report.md", "accuracy.png", "perception.png", "rewards.png", "health.png", "seconds.png",
        "trajectories-mirl-0.html",
    }  # fmt: skip
    text = (tmp_path / "report" / "report.md").read_text()
    rows = [
        line
        for line in text.splitlines()
        if line.startswith("| mirl | digits/iid | 80 | 40.0 | complete trajectories |")
    ]
    assert len(rows) == 1
    assert "100 / 67" in rows[0]
    assert "that **grpo** ends with" in text
    assert str(tmp_path) not in text
    for name in ("accuracy", "rewards"):
        assert f"](plots/{name}.png)" in text
        assert (tmp_path / "report" / "plots" / f"{name}.png").stat().st_size > 10_000


def test_a_running_run_without_evaluations_is_reported_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", [8])
    (folder / "looks.jsonl").unlink()
    (folder / "looks-questions.json").unlink()
    names = {path.name for path in write_report([folder], tmp_path / "out")}
    assert names == {"report.md", "rewards.png", "health.png", "seconds.png"}


@pytest.mark.usefixtures("_one_plot")
def test_what_is_no_run_and_no_baseline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run of mirl-train rl"):
        write_report([tmp_path], tmp_path / "out")
    folder = made_run(tmp_path / "run", [8, 9])
    with pytest.raises(ConfigError, match="there is no 'grpo'; there are: run"):
        write_report([folder], tmp_path / "out", "grpo")
    write_report([folder], tmp_path / "out", "run")
    assert "that **run** ends with" in (tmp_path / "out" / "report.md").read_text()
