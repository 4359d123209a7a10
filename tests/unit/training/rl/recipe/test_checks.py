"""Recipes of `mirl-train rl`: shipped ones hold, wrong ones are one line with the key, before torch loads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mirl_core.training
from mirl_core.config import ModelSettings, Settings
from mirl_core.errors import ConfigError
from mirl_core.training.cli import app
from mirl_core.training.rl.recipe import config as config_module
from mirl_core.training.rl.recipe.checks import check, dump, load_rl_recipe, override, parse_changes
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.recipe.estimate import estimate

RECIPES = sorted((Path(mirl_core.training.__file__).parent / "recipes").glob("rl-*.yaml"))
NCCL = {"rollout__engine": "http://a:1", "rollout__weights": "nccl"}
SMALL = {"model": "bundled", "data.sets": ["digits/iid"]}


def recipe(folder: Path, **changes: Any) -> RLRecipe:
    """A recipe that holds, changed at dotted keys written with `__`."""
    wanted = {key.replace("__", "."): value for key, value in changes.items()}
    return RLRecipe.model_validate(override({}, {**SMALL, "output": str(folder / "run"), **wanted}))


def complaint(checked: RLRecipe, world: int = 1) -> str | None:
    """The key that a check names; None: the recipe holds."""
    error = None
    try:
        check(checked, world)
    except ConfigError as raised:
        error = raised
    if error is None:
        return None
    assert str(error).startswith(f"{error.param}: ")
    return error.param


def no_network(*arguments: object) -> None:
    raise AssertionError("the network was asked")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_hold_and_dry_run_without_network(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    app(
        args=["rl", "--config", str(path), "--output", str(tmp_path / "run"), "--dry-run"],
        standalone_mode=False,
    )
    printed = capsys.readouterr().out
    again = RLRecipe.model_validate(yaml.safe_load(printed))
    assert again == load_rl_recipe(path, {"output": str(tmp_path / "run")})
    assert "# a step: " in printed
    assert "# parameters: " in printed
    assert not (tmp_path / "run").exists()


def test_the_four_recipes_are_there() -> None:
    assert len(RECIPES) == 4
    assert {load_rl_recipe(path).planner for path in RECIPES} == {"mirl", "grpo"}


def test_the_digits_recipes_differ_in_the_planner_and_what_goes_with_it() -> None:
    mirl, grpo = (yaml.safe_load(path.read_text()) for path in sorted(RECIPES)[1::-1])
    for tree in (mirl, grpo):
        for key in ("planner", "output", "rewards", "rollout"):
            tree.pop(key, None)
    assert mirl == grpo


def test_every_field_is_documented() -> None:
    pending: list[type[Settings]] = [RLRecipe]
    seen = set()
    while pending:
        model = pending.pop()
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            type_name = getattr(field.annotation, "__name__", "")
            inner = getattr(config_module, type_name, None)
            if isinstance(inner, type) and issubclass(inner, Settings) and inner not in seen:
                seen.add(inner)
                pending.append(inner)
    assert len(seen) >= 6


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rollout__keep": 11}, "rollout.keep"),
        ({"rollout__max_tokens": 128}, "rollout.max_tokens"),
        ({"rollout__engine": "localhost:8000"}, "rollout.engine"),
        ({"rollout__engine": "http://a:1", "rollout__engine_args": {"seed": 1}}, "rollout.engine_args"),
        ({"rollout__weights": "nccl"}, "rollout.weights"),
        ({"rollout__weights_address": "a:1", "rollout__engine": "http://a:1"}, "rollout.weights_address"),
        ({**NCCL, "rollout__weights_folder": "/dev/shm/w"}, "rollout.weights_folder"),
        ({**NCCL, "rollout__weights_address": "http://a:1"}, "rollout.weights_address"),
        ({**NCCL, "rollout__weights_address": ""}, "rollout.weights_address"),
        ({"rollout__serial": True, "rollout__asynchronous": True}, "rollout.serial"),
        ({"rollout__serial": True, "rollout__engine": "http://a:1"}, "rollout.serial"),
        ({"planner": "grpo", "rewards__description": "none"}, "rewards.description"),
        ({"planner": "grpo", "rewards__credit": "shared"}, "rewards.credit"),
        ({"data__limit": 4}, "data.questions"),
        ({"data__questions": 4, "optimizer__updates": 5}, "optimizer.updates"),
        ({"steps": 5, "optimizer__warmup": 6}, "optimizer.warmup"),
        ({"data__sets": ["digits/odd"]}, "data.sets"),
        ({"data__sets": ["nowhere.jsonl"]}, "data.sets"),
        ({"data__sets": ["hf:some/thing"]}, "data.sets"),
        ({"data__sets": ["digits/iid", "digits/iid"]}, "data.sets"),
        ({"data__part": "test"}, "data.part"),
        ({"data__mapping": "nowhere.yaml", "data__sets": ["hf:some/thing"]}, "data.mapping"),
        ({"evaluation__sets": ["digits/odd"]}, "evaluation.sets"),
        ({"evaluation__sets": ["digits/iid"], "evaluation__part": "train"}, "evaluation.sets"),
        ({"rewards__answer": [{"kind": "callable", "target": "nowhere:f"}]}, "rewards.answer.0.target"),
        ({"model": "./nowhere"}, "model"),
        ({"model": "bundeld"}, "model"),
        ({"output": "/dev/null/run"}, "output"),
    ],
)
def test_what_contradicts_itself_or_the_machine_is_named(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    assert complaint(recipe(tmp_path, **changes)) == key


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"planner": "grpo"},
        {"rollout__asynchronous": True, "model": "Qwen/Qwen2.5-VL-7B-Instruct"},
        {"rollout__gate": "none", "rollout__keep": 20},
        NCCL,
        {**NCCL, "rollout__weights_address": "trainer-0.trainer:29500"},
        {**NCCL, "rollout__weights_address": ":29500"},
    ],
)
def test_a_good_recipe_passes(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert complaint(recipe(tmp_path, **changes)) is None


def test_ranks_need_a_question_each(tmp_path: Path) -> None:
    assert complaint(recipe(tmp_path, data__questions=2), world=2) is None
    assert complaint(recipe(tmp_path, data__questions=2), world=3) == "data.questions"
    assert (
        complaint(recipe(tmp_path, data__questions=4, optimizer__updates=3), world=2) == "optimizer.updates"
    )


def test_the_output_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigError, match="output"):
        check(recipe(tmp_path))
    (tmp_path / "run").unlink()
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(ConfigError, match="output"):
            check(recipe(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "package"),
    [
        ("log__tensorboard", True, "tensorboard"),
        ("log__wandb", "project", "wandb"),
        ("optimizer__lora", {}, "peft"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install {package}") as caught:
        check(recipe(tmp_path, **{key: value}))
    assert caught.value.param == key.replace("__", ".")


def test_nccl_takes_vllm_beside_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert complaint(recipe(tmp_path, **NCCL)) == "rollout.weights"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("model: bundled\noutput: x\noptimizer: {learning_rate: -1}\n", "optimizer.learning_rate"),
        ("model: bundled\noutput: x\noptimizer: {learning_rat: 1}\n", "optimizer.learning_rat"),
        ("model: bundled\noutput: x\nrollout: {keep: many}\n", "rollout.keep"),
        ("model: bundled\noutput: x\nplaner: mirl\n", "planer"),
        ("model: bundled\n", "output"),
        ("- a\n", "mapping"),
    ],
)
def test_bad_files_are_one_line_and_exit_code_2_before_torch(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    code = f"""
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules or "vllm" in sys.modules))
sys.argv = ["mirl-train", "rl", "--config", {str(path)!r}]
from mirl_core.training.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.strip() == "False"
    assert len(done.stderr.strip().splitlines()) == 1
    assert complaint in done.stderr


def test_changes_on_the_command_line() -> None:
    assert parse_changes(["optimizer.kl=0.1", "data.sets=[a, b]", "rewards.mi.clip=null"]) == {
        "optimizer.kl": 0.1,
        "data.sets": ["a", "b"],
        "rewards.mi.clip": None,
    }
    for wrong in ("optimizer.kl", "=1", "a=[1"):
        with pytest.raises(ConfigError, match="--set"):
            parse_changes([wrong])


def test_changes_leave_their_neighbours_alone() -> None:
    raw = {"rollout": {"keep": 3, "forks": 2}, "steps": 4}
    changed = override(raw, {"rollout.keep": 5, "optimizer.kl": 0.1})
    assert changed == {"rollout": {"keep": 5, "forks": 2}, "steps": 4, "optimizer": {"kl": 0.1}}
    assert raw["rollout"] == {"keep": 3, "forks": 2}
    with pytest.raises(ConfigError, match="no keys"):
        override(raw, {"steps.more": 1})


def test_what_is_printed_reads_back(tmp_path: Path) -> None:
    original = recipe(tmp_path, optimizer__learning_rate=1e-7, rewards__mi__clip=None, optimizer__lora={})
    assert RLRecipe.model_validate(yaml.safe_load(dump(original))) == original


def test_the_estimate_counts_sequences_and_weights(tmp_path: Path) -> None:
    tokens = {"rollout__description_tokens": 10, "rollout__max_tokens": 100, "data__questions": 4}
    mirl = estimate(recipe(tmp_path, **tokens, model="some/model", assumed_parameters=2**30))
    assert (mirl.descriptions, mirl.chains) == (40, 48)
    assert mirl.generated_tokens == 40 * 10 + 48 * 100
    assert mirl.scored_tokens == 3 * 40 * 10
    assert dict(mirl.memory)["trainer (float32 weights, gradients, Adam)"] == 16.0
    sharded = estimate(
        recipe(tmp_path, **tokens, model="some/model", assumed_parameters=2**30, optimizer__sharding="fsdp2"),
        world=4,
    )
    assert dict(sharded.memory)["trainer (float32 weights, gradients, Adam)"] == 4.0
    grpo = estimate(recipe(tmp_path, **tokens, planner="grpo"))
    assert (grpo.descriptions, grpo.chains, grpo.generated_tokens) == (0, 64, 6400)
    assert grpo.parameters == 2_285_600
    unknown = estimate(recipe(tmp_path, **tokens, model="some/model"))
    assert unknown.parameters is None
    assert "assumed_parameters" in unknown.lines()[-1]


@pytest.mark.parametrize(("scorer", "image_passes"), [("frozen", 1), ("policy", 0)])
@pytest.mark.parametrize(
    ("estimator", "pictures", "image_free"),
    [("text", (), 1), ("blank", (), 1), ("reference", (), 16), ("reference", ("a.png", "b.png"), 2)],
)
def test_the_estimate_counts_the_passes_of_the_estimator(
    tmp_path: Path, scorer: str, image_passes: int, estimator: str, pictures: tuple[str, ...], image_free: int
) -> None:
    (tmp_path / "mirl.json").write_text(ModelSettings(reference_images=pictures).model_dump_json())
    bounds = estimate(
        recipe(
            tmp_path,
            model=str(tmp_path),
            rollout__description_tokens=10,
            data__questions=4,
            rewards__mi__scorer=scorer,
            rewards__mi__estimator=estimator,
        )
    )
    # The gate scores once more.
    assert bounds.scored_tokens == (1 + image_passes + image_free) * 40 * 10


def test_a_folder_without_weights_is_counted_by_its_config(tmp_path: Path) -> None:
    from mirl_core.bundled import DIGITS

    (tmp_path / "config.json").write_bytes((DIGITS.path / "config.json").read_bytes())
    stored = estimate(recipe(tmp_path)).parameters
    assert estimate(recipe(tmp_path, model=str(tmp_path))).parameters == stored
