"""Check that a model can be had before vLLM is imported: a bundled one, a folder, or one of a model hub."""

from __future__ import annotations

import json
import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mirl_core.bundled import CHARTS, MODELS, resolve
from mirl_core.config import ModelSettings
from mirl_server.cli.flags.server import UsageError
from mirl_server.cli.flags.vllm import VLLMFlags
from mirl_server.settings.server import ServerSettings, default_options, load_calibration

CONFIGS = ("config.json", "params.json")
"""Files of which each model has one; the second is Mistral's."""
NEEDS: dict[str, tuple[str, ...]] = {
    "torchvision": (
        "gemma3",
        "gemma4",
        "glm4v",
        "internvl",
        "llava",
        "llava_next",
        "llava_onevision",
        "mistral3",
        "pixtral",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
        "smolvlm",
    ),
    "num2words": ("smolvlm",),
}
"""Packages that the processors of some model types import, and that a MIRL installation may lack."""
HUB_SECONDS = 3.0
"""Seconds for the hub to answer. Where it answers later, vLLM asks it again."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError", "OfflineModeIsEnabled")
"""Names of errors: the hub's client has had several HTTP libraries, each with its own classes."""


def check_model(flags: VLLMFlags, settings: ServerSettings, ask_hub: bool = True) -> None:
    """Check that there is a model, and its settings.

    Args:
        ask_hub: whether the server is to start: a model that is not on this machine is looked for at its hub,
            and packages that a model needs must be here.

    Raises:
        UsageError: there is no such model, it can't be had without a network, or a package that it needs is
            missing.
        ConfigError: its `mirl.json`, or the operator's, is wrong.
    """
    model = flags.model or CHARTS.name
    if "://" in model:  # a bucket, which vLLM reads by itself
        return
    path = Path(resolve(model)).expanduser()
    own: ModelSettings | None = None
    if model in MODELS or path.exists() or model.startswith((".", "/", "~")):
        check_folder(path, own_config=bool(flags.values.get("hf-config-path")))
        if ask_hub:
            check_packages(path)
        own = ModelSettings.load(path)
    elif ask_hub and os.environ.get("VLLM_USE_MODELSCOPE", "").lower() not in ("1", "true"):
        cached = check_hub(model, flags.values.get("revision"))
        if cached:
            check_packages(cached)
            own = ModelSettings.load(cached)
    if settings.calibration is not None:
        own = load_calibration(settings.calibration)
    default_options(own or ModelSettings(), settings)
    _check_references(own)


def check_folder(path: Path, own_config: bool = False) -> None:
    """Check that a path is a model's folder, or a file of weights that vLLM takes as a model.

    Args:
        own_config: the model's configuration is elsewhere (`--hf-config-path`).

    Raises:
        UsageError: it is neither.
    """
    if not path.exists():
        raise UsageError(f"there is no model at {path}")
    if path.is_file():
        if path.suffix != ".gguf":
            raise UsageError(f"{path} is a file; a model is a folder with a {CONFIGS[0]}")
        return
    configs = [path / name for name in CONFIGS if (path / name).is_file()]
    if not configs and not own_config and not any(path.glob("*.gguf")):
        raise UsageError(f"there is no model at {path}: the folder has no {CONFIGS[0]}")
    for config in configs:
        try:
            json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{config} is not readable JSON: {error}") from error


def check_packages(folder: Path) -> None:
    """Check that the packages are installed which the processor of a folder's model imports.

    Without them vLLM fails half a minute later, in words that don't name them.

    Raises:
        UsageError: one is missing.
    """
    model_type = _model_type(folder)
    for package, types in NEEDS.items():
        if model_type in types and find_spec(package) is None:
            hint = (
                ", from the index of your torch: other builds don't load" if package == "torchvision" else ""
            )
            raise UsageError(
                f"models of the type {model_type} need {package}, which is not installed: "
                f"pip install {package}{hint}"
            )


def _model_type(folder: Path) -> str | None:
    """Return the type of a folder's model; None: it is not known. Faults of files are reported elsewhere."""
    for name in CONFIGS:
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            # Mistral's own format has no type; with an encoder of images vLLM loads it as Pixtral.
            return config.get("model_type") or ("pixtral" if config.get("vision_encoder") else None)
    return None


def check_hub(model: str, revision: str | None = None) -> Path | None:
    """Check that a model hub, or this machine's cache of it, has a model.

    Returns:
        The model's folder in the cache; None where it is not there yet.

    Raises:
        UsageError: it has not, or it is not in the cache and the hub can't be reached.
    """
    meant = get_close_matches(model, MODELS, 1, 0.8)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    if not _HUB_NAME.fullmatch(model):
        raise UsageError(f"there is no model at {model}, and it is no name of a model hub's{hint}")
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
    except ImportError:  # with vLLM it is there
        return None
    name = model.partition(":")[0]
    for config in CONFIGS:
        cached = hub.try_to_load_from_cache(name, config, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
    nowhere = f"no folder {model} here, and no model {name} in the local cache"
    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"{nowhere}; HF_HUB_OFFLINE forbids to ask the hub{hint}")
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, CONFIGS[0], revision=revision), timeout=HUB_SECONDS)
    except Exception as error:
        # The hub's errors have no common base. vLLM reports those that have no name here.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {*_UNREACHABLE}:
            raise UsageError(f"{nowhere}; the hub can't be reached: {error}{hint}") from error
        if "GatedRepoError" in kinds:
            raise UsageError(f"{name} is gated: accept its terms at the hub, then set HF_TOKEN") from error
        if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
            raise UsageError(f"{nowhere} or at the hub; a private one needs HF_TOKEN{hint}") from error
        if "RevisionNotFoundError" in kinds:
            raise UsageError(f"{name} has no revision {revision} at the hub") from error
    return None


def _check_references(own: ModelSettings | None) -> None:
    """Check the reference images of a model, as the plugin reads them once the engine runs.

    Raises:
        ConfigError: one can't be read or decoded.
    """
    if own and own.reference_images:
        from mirl_server.media.decoding import read_references

        read_references(own.reference_images)
