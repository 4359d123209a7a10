"""The algorithm and the client load no backend, and mathematics only where an answer needs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mirl_core
from tests.helpers.loaded_modules import HEAVY, loaded_after

MODULES = (
    "mirl_core",
    "mirl_core.types",
    "mirl_core.errors",
    "mirl_core.config",
    "mirl_core.algorithm.confidence",
    "mirl_core.pipeline.events",
    "mirl_core.algorithm.segments",
    "mirl_core.algorithm.mi.estimators",
    "mirl_core.engines.common.images",
    "mirl_core.algorithm.gates",
    "mirl_core.algorithm.answers",
    "mirl_core.algorithm.voting",
    "mirl_core.pipeline.run",
    "mirl_core.engines",
    "mirl_core.engines.base",
    "mirl_core.engines.remote.engine",
    "mirl_core.engines.wrappers.recording",
    "mirl_core.training.rl.recipe.config",
    "mirl_core.training.rl.planners.rows",
    "mirl_core.training.rl.planners.advantages",
    "mirl_core.training.rl.rewards",
    "mirl_core.training.rl.planners",
    "mirl_core.training.rl.rewards.mi_scorers",
    "mirl_core.training.rl.planners.question_source",
    "mirl_core.training.rl.weight_sync.in_process",
    "mirl_core.training.rl.recipe.checks",
    "mirl_core.training.rl.run",
    "mirl_core.training.rl.report.markdown",
    "mirl_core.training.rl.recipe.study",
    "mirl_client",
    "mirl_client.cli.command",
)


def test_all_of_the_algorithm_and_the_client_are_light() -> None:
    assert loaded_after("\n".join(f"import {name}" for name in MODULES)) == set()


def test_answers_without_mathematics_load_no_mathematics() -> None:
    answers = ["12 cm", "(B)", "yes", "a red car", '{"a": 1}', "1/2", "A dog sleeps on the old sofa all day."]
    code = f"from mirl_core.algorithm.answers import normalize\nfor one in {answers!r}: normalize(one)"
    assert loaded_after(code) == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_after("import sympy") == {"sympy"}


@pytest.mark.parametrize("name", HEAVY)
def test_watched_names_are_real(name: str) -> None:
    # A misspelt package would never be found loaded.
    import importlib.util

    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize(
    ("command", "missing", "remedy"),
    [
        (["mirl_server.cli.main"], "vllm", "pip install 'mirl[gpu]'"),
        (["mirl_core.training.cli", "sft", "--config", "lm"], "torch", "pip install 'mirl[train,eval]'"),
    ],
)
def test_a_missing_backend_is_one_line_and_exit_code_2(command: list[str], missing: str, remedy: str) -> None:
    recipe = Path(mirl_core.__file__).parent / "training" / "recipes" / "digits" / "lm.yaml"
    words = [str(recipe) if word == "lm" else word for word in command[1:]]
    code = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *given: None if name == {missing!r} else find(name, *given)
sys.modules[{missing!r}] = None
sys.argv = {[command[0], *words]!r}
runpy.run_module({command[0]!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert remedy in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
