"""A study: every run in a process of its own, finished ones kept, the rest resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import mirl_core.training
from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.study import load_plan, run_study

STUDIES = sorted((Path(mirl_core.training.__file__).parent / "recipes").glob("study-*.yaml"))

# Stands for `mirl-train rl`: notes that it was called, and finishes unless the file `fate` holds otherwise.
RUN = """
import json, sys, time
from pathlib import Path
import yaml
recipe = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
output = Path(recipe["output"])
fate = Path(sys.argv[0]).with_name("fate")
fate = fate.read_text() if fate.exists() else ""
with (output.parents[1] / "calls").open("a") as calls:
    calls.write(json.dumps([output.parent.name, recipe["seed"], recipe["planner"], sys.argv[3:]]) + "\\n")
if output.parent.name in fate:
    sys.exit(3)
if "sleep" in fate:
    time.sleep(60)
(output / "finished.json").write_text(json.dumps({"step": recipe["steps"]}))
"""


# A study in a process of its own.
STUDY = """
import sys
from pathlib import Path
from mirl_core.training.rl.recipe.study import load_plan, run_study
import typer
try:
    list(run_study(load_plan(Path({plan!r})), Path({output!r}), None, (sys.executable, {run!r})))
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("model: bundled\noutput: x\nsteps: 7\noptimizer: {kl: 0.5}\n")
    plan = {
        "base": "base.yaml",
        "seeds": [0, 1],
        "set": {"steps": 3},
        "runs": [
            {"name": "mirl"},
            {"name": "grpo", "seeds": [0], "set": {"planner": "grpo", "optimizer.kl": 0.25}},
        ],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "run.py").write_text(RUN)
    return tmp_path


def calls(folder: Path) -> list[Any]:
    return [yaml.safe_load(line)[:3] for line in (folder / "out" / "calls").read_text().splitlines()]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def go(folder: Path, seconds: float | None = None) -> list[str]:
    plan = load_plan(folder / "study.yaml")
    return list(run_study(plan, folder / "out", seconds, (sys.executable, str(folder / "run.py"))))


def test_all_runs_are_made_once(study: Path) -> None:
    assert go(study) == ["mirl/seed-0: finished", "grpo/seed-0: finished", "mirl/seed-1: finished"]
    assert calls(study) == [["mirl", 0, "mirl"], ["grpo", 0, "grpo"], ["mirl", 1, "mirl"]]
    recipe = yaml.safe_load((study / "out" / "grpo" / "seed-0" / "study-recipe.yaml").read_text())
    assert (recipe["steps"], recipe["optimizer"]["kl"]) == (3, 0.25)
    assert all(line.endswith("finished already") for line in go(study))
    assert len(calls(study)) == 3


def test_a_failed_run_ends_the_study_which_then_goes_on(study: Path) -> None:
    (study / "fate").write_text("grpo")
    with pytest.raises(typer.Exit) as caught:
        go(study)
    assert caught.value.exit_code == 3
    (study / "fate").unlink()
    assert go(study)[-2:] == ["grpo/seed-0: finished", "mirl/seed-1: finished"]
    assert len(calls(study)) == 4


def test_the_same_study_beside_it_leaves_out_what_is_being_made(study: Path) -> None:
    (study / "fate").write_text("sleep")
    code = STUDY.format(plan=str(study / "study.yaml"), output=str(study / "out"), run=str(study / "run.py"))
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as running:
        wait_for(study / "out" / "calls")
        (study / "fate").unlink()
        assert go(study) == [
            "mirl/seed-0: another process is at it",
            "grpo/seed-0: finished",
            "mirl/seed-1: finished",
        ]
        running.terminate()


def test_the_time_is_shared_and_nothing_begins_after_it(study: Path) -> None:
    assert go(study, 0.0) == ["stopped on time; run the same command again to go on"]
    assert not (study / "out" / "calls").exists()
    go(study, 100.0)
    words = yaml.safe_load((study / "out" / "calls").read_text().splitlines()[0])[3]
    assert 0 < float(words[words.index("--max-seconds") + 1]) <= 100


def test_sigterm_is_passed_on_and_leaves_no_process(study: Path) -> None:
    (study / "fate").write_text("sleep")
    code = STUDY.format(plan=str(study / "study.yaml"), output=str(study / "out"), run=str(study / "run.py"))
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as running:
        wait_for(study / "out" / "calls")
        running.terminate()
        assert running.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_hold(path: Path, tmp_path: Path) -> None:
    # No time to run: all recipes are checked, none begins.
    assert list(run_study(load_plan(path), tmp_path, 0.0)) == [
        "stopped on time; run the same command again to go on"
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"runs": []}, "runs"),
        ({"runs": [{"name": "a/b"}]}, "name"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, "two are called 'a'"),
        ({"bass": "x"}, "bass"),
        ({"seeds": []}, "seeds"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml"),
        ({"set": {"optimizer.kl": -1}}, "optimizer.kl"),
        ({"runs": [{"name": "a"}, {"name": "b", "set": {"rollout.keep": 99}}]}, "rollout.keep"),
    ],
)
def test_a_wrong_plan_is_named_before_anything_runs(
    study: Path, changes: dict[str, Any], complaint: str
) -> None:
    plan = yaml.safe_load((study / "study.yaml").read_text()) | changes
    (study / "study.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(ConfigError, match=complaint):
        go(study)
    assert not (study / "out").exists()
