"""Contradictions of recipes: one line that names key and remedy, exit code 2, and nothing heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import mirl_core.training
from mirl_core.errors import ConfigError
from mirl_core.training.cli import main
from mirl_core.training.rl.recipe.checks import check, dump, load_rl_recipe
from mirl_core.training.rl.recipe.contradictions import RULES, contradictions
from mirl_core.training.rl.recipe.study import load_plan
from mirl_core.training.worlds import check_recipe, load_recipe

SHIPPED = sorted((Path(mirl_core.training.__file__).parent / "recipes").rglob("*.yaml"))
SMALL: dict[str, Any] = {
    "model": "bundled",
    "steps": 2,
    "data": {"sets": ["digits/iid"], "limit": 3, "questions": 2},
    "rollout": {"descriptions": 3, "keep": 2, "forks": 2, "description_tokens": 32, "max_tokens": 80},
    "optimizer": {"learning_rate": 1e-4},
    "checkpoint": {"every": 1, "keep": 1},
    "evaluation": {"sets": ["digits/iid"], "every": 2, "n": 2},
}
GRPO = {"planner": "grpo"}
SHARED = {"rewards.credit": "shared"}
ANSWERS = {"rewards.description": "answer"}
NONE = {"rewards.description": "none"}
INF, NAN = float("inf"), float("nan")

RL: list[tuple[dict[str, Any], str, str]] = [
    # Groups of one.
    ({**GRPO, "rollout.trajectories": 1}, "rollout.trajectories", "set at least 2"),
    ({"rollout.descriptions": 1}, "rollout.descriptions", "set at least 2"),
    ({"rollout.descriptions": 1, "rollout.keep": 1}, "rollout.descriptions", "set at least 2"),
    ({**ANSWERS, "rollout.keep": 1}, "rollout.keep", "set at least 2"),
    (
        {**ANSWERS, "rollout.gate": "none", "rollout.descriptions": 1},
        "rollout.descriptions",
        "set at least 2",
    ),
    ({"rollout.keep": 1, "rollout.forks": 1}, "rollout.forks", "set at least 2"),
    (
        {**NONE, "rollout.gate": "none", "rollout.descriptions": 1, "rollout.forks": 1},
        "rollout.forks",
        "set at least 2",
    ),
    ({"rewards.baseline": "description", "rollout.forks": 1}, "rewards.baseline", "raise it to at least 2"),
    # Gates that drop nothing.
    ({"rollout.keep": 3}, "rollout.keep", "set rollout.gate: none"),
    ({"rollout.keep": 3, "rollout.gate": "random"}, "rollout.keep", "set rollout.gate: none"),
    ({"rollout.keep": 3, "rollout.gate": "confidence"}, "rollout.keep", "set rollout.gate: none"),
    ({"rollout.keep": 4}, "rollout.keep", "lower it"),
    # Weights of nothing.
    ({"rewards.answer": [{"weight": 0}]}, "rewards.answer", "set a weight"),
    ({**GRPO, "rewards.answer": [{"weight": 0}]}, "rewards.answer", "set a weight"),
    ({**ANSWERS, "rewards.answer": [{"weight": 0}]}, "rewards.answer", "set a weight"),
    (
        {"rewards.answer": [{"weight": 1}, {"kind": "exact", "weight": -1}]},
        "rewards.answer",
        "add up to 0",
    ),
    ({"optimizer.description_weight": 0}, "optimizer.description_weight", "rewards.description: none"),
    (
        {"optimizer.description_weight": 0, "optimizer.reasoning_weight": 0},
        "optimizer.description_weight",
        "raise it",
    ),
    ({**NONE, "optimizer.reasoning_weight": 0}, "optimizer.reasoning_weight", "raise it"),
    ({**GRPO, "optimizer.reasoning_weight": 0}, "optimizer.reasoning_weight", "raise it"),
    ({**SHARED, "optimizer.reasoning_weight": 0}, "optimizer.reasoning_weight", "raise it"),
    # What the planner ignores, or can't do.
    ({**GRPO, "rewards.description": "none"}, "rewards.description", "leave it out"),
    ({**GRPO, "rewards.credit": "shared"}, "rewards.credit", "leave it out"),
    ({**GRPO, "rewards.baseline": "description"}, "rewards.baseline", "leave it out"),
    ({**GRPO, "optimizer.description_weight": 2}, "optimizer.description_weight", "leave it out"),
    ({**GRPO, "rollout.fork_image": "drop"}, "rollout.fork_image", "keep the image"),
    ({**SHARED, "rollout.fork_image": "drop"}, "rewards.credit", "keep the image"),
    ({"rewards.answer": [{"tolerance": 0.1}]}, "rewards.answer.0.tolerance", "kind: numeric"),
    # Optimisers that move nothing, or never run.
    ({"optimizer.learning_rate": 0}, "optimizer.learning_rate", "greater than 0"),
    ({"optimizer.learning_rate": 1e-30}, "optimizer.learning_rate", "set at least"),
    ({"optimizer.learning_rate": INF}, "optimizer.learning_rate", "no finite number"),
    ({"optimizer.betas": [0.9, 1.0]}, "optimizer.betas", "below 1"),
    ({"optimizer.warmup": 3}, "optimizer.warmup", "lower it"),
    ({"optimizer.stop_grad_norm": 0.5}, "optimizer.stop_grad_norm", "raise it"),
    ({"optimizer.freeze": [".*"]}, "optimizer.freeze.0", "name some parameters"),
    ({"optimizer.freeze": ["visual", ""]}, "optimizer.freeze.1", "name some parameters"),
    ({"optimizer.freeze": ["("]}, "optimizer.freeze.0", "no regular expression"),
    ({"optimizer.lora": {"dropout": 1}}, "optimizer.lora.dropout", "lower it"),
    ({"optimizer.lora": {"targets": []}}, "optimizer.lora.targets", "name layers"),
    ({"rewards.mi.invalid": NAN}, "rewards.mi.invalid", "no finite number"),
    ({"rewards.answer_floor": INF}, "rewards.answer_floor", "no finite number"),
    ({"rollout.mi_weight": INF}, "rollout.mi_weight", "finite number"),
    ({"optimizer.updates": 3}, "optimizer.updates", "can't be made"),
    ({"steps": 0}, "steps", "greater than or equal to 1"),
    ({"data.questions": 0}, "data.questions", "greater than or equal to 1"),
    # Intervals that never come round, evaluations of nothing.
    ({"checkpoint.every": 3}, "checkpoint.every", "set at most 2"),
    ({"checkpoint.export_every": 3}, "checkpoint.export_every", "set at most 2"),
    ({"evaluation.sets": []}, "evaluation.sets", "name one"),
    ({"evaluation": {"every": 1}}, "evaluation.sets", "name one"),
    ({"evaluation.n": 0}, "evaluation.n", "greater than or equal to 1"),
    ({"evaluation.sets": ["digits/iid", "digits/iid"]}, "evaluation.sets", "name it once"),
    # What needs pictures that nobody has.
    ({"data.sets": ["FILE"], "rewards.mi.estimator": "reference"}, "rewards.mi.estimator", "list files"),
]
GOOD: list[dict[str, Any]] = [
    {},
    GRPO,
    {**GRPO, "rollout.trajectories": 2},
    # A plan's base for both planners: what only the other one uses is no contradiction.
    {**GRPO, "rollout.keep": 3, "rollout.descriptions": 1},
    {"rollout.gate": "none", "rollout.keep": 3},
    {"rollout.keep": 1},
    {**NONE, "rollout.descriptions": 1, "rollout.gate": "none"},
    {"optimizer.reasoning_weight": 0, "rollout.keep": 1, "rollout.forks": 1},
    {"optimizer.reasoning_weight": 0, "rewards.answer": [{"weight": 0}]},
    {**SHARED, "optimizer.description_weight": 0},
    {"rewards.answer": [{"weight": 1}, {"kind": "format", "weight": 0}]},
    {"rewards.answer": [{"kind": "numeric", "tolerance": 0.1}, {"kind": "numeric", "weight": -1}]},
    {"optimizer.max_grad_norm": INF, "optimizer.stop_grad_norm": None},
    {"optimizer.warmup": 2},
    {"checkpoint": {}, "evaluation": {}},
    {"checkpoint.every": 2, "checkpoint.export_every": 2},
    {"evaluation.every": 50},
    {"rewards.mi.estimator": "reference"},
]


def written(folder: Path, changes: dict[str, Any]) -> Path:
    """SMALL as a file, changed at dotted keys."""
    recipe = yaml.safe_load(yaml.safe_dump({**SMALL, "output": str(folder / "run")}))
    for key, value in changes.items():
        *above, last = key.split(".")
        inner = recipe
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = (
            [str(data_file(folder)) if entry == "FILE" else entry for entry in value]
            if (isinstance(value, list))
            else value
        )
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def data_file(folder: Path) -> Path:
    (folder / "a.png").write_bytes(b"")
    line = '{"image": "a.png", "question": "?", "answer": "1", "id": "%d"}\n'
    path = folder / "set.jsonl"
    path.write_text("".join(line % number for number in range(3)))
    return path


@pytest.fixture
def mirl_train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; return its line on standard error."""

    def refused(*words: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["mirl-train", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        assert exited.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err

    return refused


@pytest.mark.parametrize(("changes", "key", "remedy"), RL, ids=lambda value: str(value)[:60])
def test_a_recipe_that_contradicts_itself_is_refused(
    tmp_path: Path, mirl_train: Callable[..., str], changes: dict[str, Any], key: str, remedy: str
) -> None:
    for further in ((), ("--dry-run",)):
        line = mirl_train("rl", "--config", written(tmp_path, changes), *further)
        assert line.startswith("mirl-train: ")
        assert f"{key}: " in line
        assert remedy in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", GOOD, ids=lambda value: str(value)[:60])
def test_what_trains_something_passes(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = load_rl_recipe(written(tmp_path, changes))
    check(recipe)
    # The recipe with all defaults written out, as a study passes it on, is as good.
    (tmp_path / "dumped.yaml").write_text(dump(recipe))
    again = load_rl_recipe(tmp_path / "dumped.yaml")
    check(again)
    assert again == recipe


def test_every_rule_is_in_the_table(tmp_path: Path) -> None:
    unused = set(RULES)
    for changes, _, _ in RL:
        try:
            recipe = load_rl_recipe(written(tmp_path, changes))
        except ConfigError:
            continue
        unused -= {rule for rule in unused if list(rule(recipe))}
    assert not unused


STAGE = {"stage": "joint", "steps": 10, "digits_images": 2, "text_rows": 2, "warmup": 1}
LM = {**STAGE, "stage": "lm", "digits_images": 0}
VISION = {**STAGE, "stage": "vision", "text_rows": 0}
CHARTS = {"world": "charts", "steps": 10, "images": 2, "rows_per_image": 1, "text_rows": 2, "warmup": 1}
SFT: list[tuple[dict[str, Any], str, str]] = [
    ({**STAGE, "steps": 0}, "steps", "greater than 0"),
    ({**STAGE, "learning_rate": 0}, "learning_rate", "greater than 0"),
    ({**STAGE, "learning_rate": INF}, "learning_rate", "finite number"),
    ({**STAGE, "save_seconds": INF}, "save_seconds", "finite number"),
    ({**STAGE, "warmup": 11}, "warmup", "lower it"),
    ({**STAGE, "init": "OUTPUT"}, "init", "name another stage's"),
    ({**LM, "text_rows": 0}, "text_rows", "set at least 1"),
    ({**LM, "digits_images": 3}, "digits_images", "leave it out"),
    ({**LM, "easy_images": 3}, "easy_images", "leave it out"),
    ({**LM, "connector_steps": 3}, "connector_steps", "leave it out"),
    ({**LM, "describe_only": True}, "describe_only", "leave it out"),
    ({**VISION, "digits_images": 0}, "digits_images", "set at least 1"),
    ({**VISION, "digits_images": 0, "easy_images": 4}, "digits_images", "set at least 1"),
    ({**VISION, "text_rows": 2}, "text_rows", "leave it out"),
    ({**VISION, "word_weight": 0.1}, "word_weight", "leave it out"),
    ({**STAGE, "digits_images": 0}, "digits_images", "set at least 1"),
    ({**STAGE, "connector_steps": 10}, "connector_steps", "lower it"),
    (
        {**STAGE, "describe_only": True, "description_weight": 0, "text_rows": 0, "corrupted": 0},
        "description_weight",
        "raise it",
    ),
    ({**STAGE, "describe_only": True, "rows_per_image": 1, "text_rows": 0}, "corrupted", "corrupted: 0"),
    ({**CHARTS, "text_rate": 0, "vision_rate": 0}, "text_rate", "raise one"),
    ({"world": "charts", "steps": 10}, "images", "set images or text_rows"),
    ({**CHARTS, "text_rate": 0}, "text_rows", "leave it out"),
    ({**CHARTS, "text_rows": 0, "exercises": 0.5}, "exercises", "raise it"),
    ({**CHARTS, "images": 0}, "rows_per_image", "set images"),
    ({**CHARTS, "images": 0, "rows_per_image": 0, "word_weight": 1}, "word_weight", "set images"),
    ({**CHARTS, "rows_per_image": 0}, "word_weight", "raise one of the two"),
    (
        {**CHARTS, "rows_per_image": 0, "word_weight": 1, "vision_rate": 0},
        "rows_per_image",
        "raise one",
    ),
    ({**CHARTS, "rows_per_image": 0, "word_weight": 1, "corrupted": 0.5}, "corrupted", "leave it out"),
    ({**CHARTS, "text_rows": 0, "describe_only": True, "corrupted": 0.5}, "corrupted", "corrupted: 0"),
]


@pytest.mark.parametrize(("recipe", "key", "remedy"), SFT, ids=lambda value: str(value)[:60])
def test_a_stage_that_contradicts_itself_is_refused(
    tmp_path: Path, mirl_train: Callable[..., str], recipe: dict[str, Any], key: str, remedy: str
) -> None:
    output = str(tmp_path / "out")
    recipe = {name: output if value == "OUTPUT" else value for name, value in recipe.items()}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "output": output}))
    line = mirl_train("sft", "--config", path)
    assert f"{key}: " in line
    assert remedy in line
    assert not Path(output).exists()


def test_shipped_recipes_contradict_nothing(tmp_path: Path) -> None:
    for path in SHIPPED:
        if path.stem.startswith("study-"):
            plan = load_plan(path)
            for run in plan.runs:
                recipe = load_rl_recipe(plan.base, {**plan.set, **run.set, "output": str(tmp_path)})
                assert not list(contradictions(recipe)), run.name
        elif path.stem.startswith("rl-"):
            assert not list(contradictions(load_rl_recipe(path))), path
        else:
            check_recipe(load_recipe(path))


@pytest.mark.parametrize(
    ("plan", "key"),
    [
        ({"runs": [{"name": "a", "seeds": []}]}, "runs"),
        ({"runs": [{"name": "a", "set": {"seed": 3}}]}, "runs"),
        ({"runs": [{"name": "a"}], "set": {"output": "x"}}, "set"),
        ({"runs": [{"name": "a"}], "seeds": [1, 1]}, "seeds"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(tmp_path: Path, plan: dict[str, Any], key: str) -> None:
    written(tmp_path, {})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"base": "recipe.yaml", **plan}))
    with pytest.raises(ConfigError) as caught:
        load_plan(tmp_path / "plan.yaml")
    assert str(caught.value.param).partition(".")[0] == key


def test_a_stages_files_are_checked_before_torch(tmp_path: Path, mirl_train: Callable[..., str]) -> None:
    path = tmp_path / "recipe.yaml"
    (tmp_path / "file").write_text("")
    for changes, words, complaint in (
        ({"init": str(tmp_path / "lm")}, (), "finish the stage"),
        ({"output": str(tmp_path / "file")}, (), "output: "),
        ({}, ("--export", str(tmp_path / "file")), "export: "),
    ):
        path.write_text(yaml.safe_dump({**STAGE, "output": str(tmp_path / "out"), **changes}))
        assert complaint in mirl_train("sft", "--config", path, *words)


def test_a_contradiction_is_reported_before_torch_and_vllm(tmp_path: Path) -> None:
    rl = written(tmp_path, {**GRPO, "rollout.trajectories": 1})
    sft = tmp_path / "sft.yaml"
    sft.write_text(yaml.safe_dump({**LM, "text_rows": 0, "output": str(tmp_path / "out")}))
    code = """
import sys
from mirl_core.training.cli import main
for command, path in zip(("rl", "sft"), sys.argv[1:], strict=True):
    sys.argv = ["mirl-train", command, "--config", path]
    try:
        main()
    except SystemExit as exited:
        print(exited.code, "torch" in sys.modules, "vllm" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(rl), str(sft)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["2 False False", "2 False False"]
    assert len(done.stderr.splitlines()) == 2
