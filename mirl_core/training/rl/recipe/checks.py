"""Loading of a recipe, and checks of it against itself and this machine before any model is loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.families import find_settings
from mirl_core.tasks.data import WORLDS, names, open_data
from mirl_core.tasks.data.mappings import READY
from mirl_core.training.recipe import read_yaml, validated
from mirl_core.training.rl.planners.question_source import QuestionSource
from mirl_core.training.rl.recipe.config import RLRecipe, RolloutConfig
from mirl_core.training.rl.recipe.contradictions import contradictions
from mirl_core.training.rl.rewards import make_rewards
from mirl_core.training.rl.rewards.mi_scorers import count_references
from mirl_core.training.rl.weight_sync.rendezvous import ADDRESS
from mirl_core.training.state_files import check_writable

__all__ = ["check", "dump", "load_rl_recipe", "model_folder", "override", "parse_changes"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_URL = re.compile(r"https?://[^\s/,]+(/\S*)?")


def load_rl_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> RLRecipe:
    """Load the recipe in a YAML file, with `changes` by dotted keys (`optimizer.kl`).

    Raises:
        ConfigError: the file, a key or a value is wrong; `param` is the dotted key.
    """
    return validated(override(read_yaml(path), changes or {}), RLRecipe, path)


def override(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `raw` with values changed at dotted keys. Raises ConfigError where a key leads through a
    value."""
    changed = dict(raw)
    for key, value in changes.items():
        first, dot, rest = key.partition(".")
        if dot:
            inner = changed.get(first) or {}
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{key}: '{first}' has no keys of its own", param=key)
            value = override(inner, {rest: value})
        changed[first] = value
    return changed


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Parse `optimizer.kl=0.01` to {"optimizer.kl": 0.01}, values read as YAML. Raises ConfigError."""
    import yaml

    changes = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {word}: write KEY=VALUE, such as optimizer.kl=0.01", param="set")
        try:
            changes[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {word}: {' '.join(str(error).split())}", param=key) from error
    return changes


def dump(recipe: RLRecipe) -> str:
    """Return the recipe as YAML, defaults included; it reads back as the same recipe."""
    import yaml

    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def model_folder(recipe: RLRecipe) -> str:
    """Return the start as transformers and vLLM take it: a folder, or a hub name."""
    from mirl_core.bundled import DIGITS, resolve, start_path

    starts = {"bundled": DIGITS.path, "bundled-start": start_path()}
    return str(starts[recipe.model]) if recipe.model in starts else resolve(recipe.model)


def check(recipe: RLRecipe, world: int = 1) -> None:
    """Check the recipe against itself, its files and the installed packages; uses no network.

    Args:
        world: number of ranks that train.

    Raises:
        ConfigError: the first error in the recipe, named by its key.
    """
    for problem in contradictions(recipe):
        raise problem.error()
    _check_rollout(recipe)
    _check_batches(recipe, world)
    _check_data(recipe)
    make_rewards(recipe.rewards.answer)
    _check_model(recipe)
    check_writable(recipe.output, "output")
    _check_packages(recipe)


def _wrong(key: str, problem: str) -> ConfigError:
    return ConfigError(f"{key}: {problem}", param=key)


def _check_rollout(recipe: RLRecipe) -> None:
    rollout = recipe.rollout
    if rollout.description_tokens >= rollout.max_tokens:
        raise _wrong(
            "rollout.max_tokens",
            f"{rollout.max_tokens} leaves no room behind a description of {rollout.description_tokens}",
        )
    if rollout.engine != "in-process":
        for url in rollout.engine.split(","):
            if not _URL.fullmatch(url.strip()):
                raise _wrong("rollout.engine", f"'{url.strip()}' is neither in-process nor an http:// URL")
        if rollout.engine_args:
            raise _wrong("rollout.engine_args", "they belong to the server's own command line")
    _check_weights(rollout)
    if rollout.serial and rollout.asynchronous:
        raise _wrong("rollout.serial", "asynchronous rollouts don't repeat exactly; choose one of the two")
    if rollout.serial and rollout.engine != "in-process":
        raise _wrong("rollout.serial", "a server's rollouts don't repeat exactly; use in-process")


def _check_weights(rollout: RolloutConfig) -> None:
    address = rollout.weights_address
    if rollout.weights == "folder":
        if address is not None:
            raise _wrong("rollout.weights_address", "it is used by rollout.weights: nccl only; leave it out")
        return
    if rollout.engine == "in-process":
        raise _wrong(
            "rollout.weights",
            "nccl is for servers; an engine in process takes rollout.engine_args: "
            "{weight_transfer_config: {backend: nccl}}",
        )
    if rollout.weights_folder is not None:
        raise _wrong("rollout.weights_folder", "rollout.weights: nccl goes through no folder; leave it out")
    if address is not None and not (address and ADDRESS.fullmatch(address)):
        raise _wrong("rollout.weights_address", f"'{address}' is neither HOST nor HOST:PORT nor :PORT")
    if importlib.util.find_spec("vllm") is None:
        raise _wrong("rollout.weights", "nccl takes vLLM on the trainer's side too: pip install 'mirl[gpu]'")


def _check_batches(recipe: RLRecipe, world: int) -> None:
    data, questions = recipe.data, recipe.data.questions
    if questions < world:
        raise _wrong("data.questions", f"{questions} questions a step can't be shared by {world} ranks")
    if data.limit is not None and data.limit * len(data.sets) < questions:
        raise _wrong(
            "data.questions", f"{questions} a step, but data.limit leaves {data.limit * len(data.sets)}"
        )
    if recipe.optimizer.updates > questions // world:
        raise _wrong(
            "optimizer.updates",
            f"{recipe.optimizer.updates} updates can't be made of {questions // world} questions a rank",
        )


def _check_data(recipe: RLRecipe) -> None:
    mapping = recipe.data.mapping
    if mapping is not None and not mapping.is_file():
        raise _wrong("data.mapping", f"{mapping} does not exist")
    for key, sets in (("data.sets", recipe.data.sets), ("evaluation.sets", recipe.evaluation.sets)):
        for name in sets:
            if name.startswith("hf:"):
                if name.removeprefix("hf:") not in READY and mapping is None:
                    raise _wrong(key, f"{name} has no ready mapping; give data.mapping")
            elif name.endswith((".jsonl", ".ndjson")):
                if not Path(name).is_file():
                    raise _wrong(key, f"{name} does not exist")
            elif name not in WORLDS:
                raise _wrong(key, f"there is no '{name}'; there are: {', '.join(names())}")
    with _named("data.sets"):
        if not any(name.startswith("hf:") for name in recipe.data.sets):
            QuestionSource.open(recipe.data, recipe.seed)
    for name in recipe.evaluation.sets:
        with _named("evaluation.sets"):
            if not name.startswith("hf:"):
                open_data(name, recipe.evaluation.part, 1, recipe.evaluation.seed)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Name the recipe's key in errors of data sets, which know nothing of recipes."""
    try:
        yield
    except ConfigError as error:
        has_key = error.param is not None and error.param.startswith(key.partition(".")[0] + ".")
        raise (error if has_key else _wrong(key, error.message)) from error


def _check_model(recipe: RLRecipe) -> None:
    model = model_folder(recipe)
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise _wrong("model", f"{model} holds no model (config.json is missing)")
        _check_references(recipe, find_settings(model).settings)
    elif not _HUB_NAME.fullmatch(model):
        raise _wrong("model", f"{model} does not exist")


def _check_references(recipe: RLRecipe, settings: ModelSettings) -> None:
    mi = recipe.rewards.mi
    scored = recipe.description_reward == "mi"
    pictured = count_references(settings, recipe.data.sets)
    if scored and ESTIMATORS[mi.estimator].needs_references and not pictured:
        raise _wrong(
            "rewards.mi.estimator",
            f"'{mi.estimator}' needs pictures: list files under `reference_images` in the model's mirl.json, "
            "or choose 'text' or 'blank'",
        )


def _check_packages(recipe: RLRecipe) -> None:
    for key, needed, package in (
        ("log.tensorboard", recipe.log.tensorboard, "tensorboard"),
        ("log.wandb", recipe.log.wandb is not None, "wandb"),
        ("optimizer.lora", recipe.optimizer.lora is not None, "peft"),
    ):
        if needed and importlib.util.find_spec(package) is None:
            raise _wrong(key, f"{package} is not installed: pip install {package}")
