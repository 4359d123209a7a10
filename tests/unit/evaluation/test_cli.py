"""`mirl-eval` on the command line: report, compare, calibrate, and what bad input gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.calibration.options import Candidate, Choice, Grid, calibrate, frontier
from mirl_core.evaluation.calibration.run import calibrate_run, options_text
from mirl_core.evaluation.cli import main
from mirl_core.evaluation.measures.comparison import compare_runs, read_side
from mirl_core.evaluation.run.command import run
from tests.unit.evaluation.run.run_cases import fill_bank, model_folder, no_engine, settings_of
from tests.unit.evaluation.synthetic import banked_questions

SMALL = Grid(
    mi_weight=(0.0, 1.0),
    descriptions=(4, 8),
    keep=(1, 2),
    forks=(1, 2),
    estimator=("text",),
    normalize=("token",),
    clip=(None,),
    adaptive_keep=(None, 0.8),
)
NO_RUN = ["report", "/nowhere"]
CALIBRATE = ["calibrate", "--data", "digits/iid", "--bank", "{tmp}"]


class Ended(NamedTuple):
    """A command that has exited."""

    code: object
    out: str
    err: str


MirlEval = Callable[..., Ended]


@pytest.fixture
def mirl_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> MirlEval:
    """Run the command in this process: every process of its own would import everything anew."""

    def ended(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mirl-eval", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        return Ended(exited.value.code, *capsys.readouterr())

    return ended


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on the same questions: a good model's, and a poor one's on fewer of them."""
    import asyncio

    where = tmp_path_factory.mktemp("runs")
    good = settings_of(where / "good", methods="direct,sc@4,mirl(descriptions=6;keep=2)", n=40)
    poor = settings_of(where / "poor", methods="direct,sc@4", n=25)
    for settings, skill in ((good, 0.8), (poor, 0.2)):
        fill_bank(settings, skill=skill)
        asyncio.run(run(settings, no_engine()))
    return good.output, poor.output


def test_compare_two_methods_of_a_run(folders: tuple[Path, Path]) -> None:
    good, _ = folders
    (row,) = compare_runs(read_side(f"{good}:sc@4", None), read_side(str(good), "direct"))
    assert (row.method_a, row.method_b, row.comparison.difference.n) == ("sc@4", "direct", 40)
    assert row.comparison.difference.mean == pytest.approx(row.accuracy_a - row.accuracy_b)
    assert row.comparison.tokens_ratio.mean == pytest.approx(4, rel=0.15)


def test_compare_two_runs_on_common_questions_and_methods(folders: tuple[Path, Path]) -> None:
    good, poor = folders
    rows = compare_runs(read_side(str(good), None), read_side(str(poor), None))
    assert [(row.method_a, row.method_b) for row in rows] == [("direct", "direct"), ("sc@4", "sc@4")]
    for row in rows:
        assert row.comparison.difference.n == 25
        assert row.comparison.difference.low > 0
        assert row.comparison.mcnemar.p < 0.05
    mirrored = compare_runs(read_side(str(poor), None), read_side(str(good), None))
    assert mirrored[0].comparison.difference.mean == pytest.approx(-rows[0].comparison.difference.mean)


def test_a_side_without_a_method_takes_the_others(folders: tuple[Path, Path]) -> None:
    good, poor = folders
    (row,) = compare_runs(read_side(str(good), None), read_side(f"{poor}:sc@4", None))
    assert (row.method_a, row.method_b) == ("sc@4", "sc@4")


def test_comparisons_that_make_no_sense_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    good, poor = folders
    whole = read_side(str(good), None)
    with pytest.raises(ConfigError, match="with itself"):
        compare_runs(whole, whole)
    with pytest.raises(ConfigError, match=r"has no method sc@9.*direct"):
        compare_runs(read_side(str(good), "sc@9"), read_side(str(poor), "sc@4"))
    with pytest.raises(ConfigError, match="no run folder"):
        read_side(str(tmp_path / "nothing"), None)
    with pytest.raises(ConfigError, match="name one"):
        read_side(f"{good}:sc@4", "direct")
    with pytest.raises(ConfigError, match=r"summary\.json"):
        compare_runs(read_side(str(tmp_path), None), whole)


def test_compare_on_the_command_line(folders: tuple[Path, Path], mirl_eval: MirlEval) -> None:
    good, poor = folders
    done = mirl_eval("compare", f"{good}:sc@4", f"{poor}:sc@4", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    assert (row["data"], row["n"]) == ("digits/iid", 25)
    shown = mirl_eval("compare", good, poor)
    assert shown.code == 0, shown.err
    assert "sc@4" in shown.out
    assert f"{100 * row['difference']:+.1f}" in shown.out


def test_report_on_the_command_line(folders: tuple[Path, Path], mirl_eval: MirlEval) -> None:
    good, _ = folders
    before = (good / "report.md").read_text()
    (good / "report.md").unlink()
    done = mirl_eval("report", good)
    assert done.code == 0, done.err
    assert (good / "report.md").read_text() == before
    assert "report.md" in done.out
    # The table is the last that is printed, uncut in a pipe.
    assert "mirl(descriptions=6;keep=2)" in done.out
    rows = json.loads((good / "summary.json").read_text())["data"]["digits/iid"]
    for name, row in rows.items():
        (line,) = [line for line in done.out.splitlines() if line.split()[:1] == [name]]
        assert f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in line
    assert "n = 40 decides nothing: differences below " in done.out


def test_run_ends_with_its_result(folders: tuple[Path, Path], mirl_eval: MirlEval) -> None:
    _, poor = folders
    settings = ["--n", "25", "--descriptions", "6", "--forks", "2", "--replays", "3"]
    where = ["--model", poor.parent / "tiny", "--data", "digits/iid", "--output", poor]
    done = mirl_eval("run", *where, "--methods", "direct,sc@4", *settings)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("wrote ")
    rows = [line.split() for line in lines if line.split()[:1] in (["direct"], ["sc@4"])]
    figures = json.loads((poor / "summary.json").read_text())
    compared = figures["comparisons"]["digits/iid"]["methods"]["sc@4"]
    assert rows[0][-2:] == ["baseline", "1"]
    assert rows[1][-2:] == [f"{compared['holm_p']:.3f}", f"{compared['tokens_ratio']:.2f}"]
    # One data set: there is nothing to adjust for.
    assert compared["holm_p"] == compared["bootstrap_p"]
    assert "n = 25 decides nothing: differences below " in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (NO_RUN, "summary.json"),
        (["compare", "/nowhere", "/nowhere"], "no run folder"),
        (["run", "--data", "digits/ood", "--output", "{tmp}"], "digits/ood"),
        (["run", "--data", "digits/iid", "--output", "{tmp}", "--methods", "sc"], "sc@16"),
        (["run", "--data", "digits/iid", "--output", "{tmp}", "--n", "0"], "greater than or equal to 1"),
        (["run", "--data", "digits/iid", "--output", "{tmp}", "--model", "{tmp}"], "config.json"),
        (["run", "--output", "{tmp}"], "data"),
        (CALIBRATE, "--output"),
        ([*CALIBRATE, "--output", "{tmp}/x", "--confidence-only", "--budget", "9"], "leave --budget out"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, mirl_eval: MirlEval, words: list[str], says: str
) -> None:
    done = mirl_eval(*(word.format(tmp=tmp_path) for word in words))
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert says in done.err


def test_a_process_of_its_own_ends_in_the_same_way(mirl_eval: MirlEval) -> None:
    command = [sys.executable, "-m", "mirl_core.evaluation.cli", *NO_RUN]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == mirl_eval(*NO_RUN)


def candidate(accuracy: float, tokens: float) -> Candidate:
    return Candidate((("keep", int(tokens)),), np.array([accuracy]), np.array([tokens]))


def test_frontier_is_what_no_cheaper_candidate_reaches() -> None:
    points = frontier([candidate(0.5, 10), candidate(0.4, 20), candidate(0.6, 30), candidate(0.6, 40)])
    assert [point.cost for point in points] == [10, 30]


def chosen(questions: list[Any], **arguments: Any) -> Choice:
    grid = arguments.pop("grid", SMALL)
    return calibrate(questions, ModelSettings(), grid, count=2, **arguments)


@pytest.fixture(scope="module")
def plain() -> Choice:
    """The choice where confidence does not mislead."""
    return chosen(banked_questions(40))


@pytest.fixture(scope="module")
def misled() -> Choice:
    """The choice where confidence misleads."""
    return chosen(banked_questions(40, misled=True))


def test_calibration_finds_the_weight_that_the_made_up_world_wants(plain: Choice, misled: Choice) -> None:
    assert misled.settings.options.mi_weight == 1.0
    # Where habit tells the truth, subtracting it can't help by more than chance.
    accuracies = {entry.options: entry.mean for entry in plain.finalists}
    assert plain.best.mean == max(accuracies.values())
    assert plain.best.mean - plain.chosen.mean <= plain.error + 1e-12
    assert plain.chosen.cost <= plain.best.cost <= plain.budget


def test_calibration_tries_auto_and_shows_it() -> None:
    grid = replace(SMALL, mi_weight=("auto",))
    assert "auto" in Grid().mi_weight
    choice = chosen(banked_questions(30, misled=True), grid=grid)
    assert choice.settings.options.mi_weight == "auto"
    assert ModelSettings.model_validate(choice.settings.model_dump()) == choice.settings
    assert options_text(choice.chosen).startswith("λ=auto N=")


def test_a_smaller_budget_is_kept(misled: Choice) -> None:
    questions = banked_questions(40, misled=True)
    tight = chosen(questions, budget=120.0)
    assert tight.chosen.cost <= 120 < misled.best.cost
    with pytest.raises(ConfigError, match="budget"):
        chosen(questions[:4], budget=5.0)


def test_default_budget_is_what_sc16_costs_under_the_stopping_rule(plain: Choice) -> None:
    assert plain.budget == plain.baseline.cost
    assert plain.baseline.options == ()


def test_grid_stays_within_the_bank() -> None:
    grid = Grid().within(8, 2, ["blank"])
    assert max(grid.descriptions) == 8
    assert max(grid.forks) == 2
    assert {scorer["estimator"] for scorer in grid.scorers()} == {"blank"}
    assert all(int(str(shape["keep"])) < int(str(shape["descriptions"])) for shape in grid.shapes())
    # Confidence needs no estimator: once per normalisation and clip.
    assert sum(scorer["mi_weight"] == 0 for scorer in Grid().scorers()) == 4


async def test_calibrate_writes_mirl_json_that_the_product_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirl_core.evaluation.calibration.run.Grid", lambda: SMALL)
    settings = settings_of(tmp_path / "bank", part="dev", n=30, descriptions=8, forks=2, replays=2)
    model = model_folder(
        settings.model,
        temperature=0.8,
        options={"description_tokens": 64, "keep": 9, "early_stop": False},
        calibration={"intercept": 1, "vote_share": 1, "distinct_share": 1},
    )
    fill_bank(settings, misled=True)
    target = tmp_path / "new" / "mirl.json"
    choice, fitted = await calibrate_run(settings, target, None, no_engine())
    written = json.loads(target.read_text())
    # What calibration doesn't choose is kept, and the model's own file is left alone.
    assert written["instruction"] == ""
    assert written["temperature"] == 0.8
    assert written["options"]["description_tokens"] == 64
    assert written["options"]["early_stop"] is False
    assert json.loads((model / "mirl.json").read_text())["options"]["keep"] == 9
    read = ModelSettings.load(target.parent)
    assert read is not None
    assert read.options.model_dump() == choice.settings.options.model_dump()
    record = json.loads((tmp_path / "bank" / "calibration.json").read_text())
    assert record["chosen"]["options"] == dict(choice.chosen.options)
    assert record["questions"] == 30
    assert (tmp_path / "bank" / "plots" / "calibration.png").stat().st_size > 5000
    # 30 questions are no ground for a calibration, and what the model had was fitted for other options.
    assert fitted.calibration is None
    assert "30 voted questions are too few" in fitted.left_out
    assert read.calibration is None
    assert json.loads((tmp_path / "bank" / "confidence.json").read_text())["left_out"] == fitted.left_out


async def test_calibrate_replaces_the_models_own_file_on_request(tmp_path: Path) -> None:
    # Few questions for the default grid's hundreds of settings.
    settings = settings_of(tmp_path / "bank", part="dev", n=3, descriptions=6, forks=1, replays=1)
    fill_bank(settings)
    await calibrate_run(settings, settings.model / "mirl.json", 200.0, no_engine())
    read = ModelSettings.load(settings.model)
    assert read is not None
    assert read.instruction == ""
    assert read.options.descriptions <= 6
    # A new mirl.json leaves the bank valid: gates are replayed.
    await calibrate_run(settings, settings.model / "mirl.json", 200.0, no_engine())
