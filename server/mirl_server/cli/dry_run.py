"""`--dry-run`: the resolved settings as a file for `--config`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mirl_core.bundled import CHARTS, MODELS, resolve
from mirl_server.cli.early_checks import check_early
from mirl_server.cli.flags.vllm import VLLMFlags, defaults, runs_on_cpu
from mirl_server.settings.files import as_yaml
from mirl_server.settings.server import ServerSettings


def dry_run(arguments: list[str], flags: VLLMFlags, settings: ServerSettings) -> str:
    """Return MIRL's settings, and vLLM's flags that differ from vLLM's defaults, secrets masked.

    vLLM is imported only where its version has a flag that the list lacks.

    Raises:
        UsageError: a flag, the address or the model is wrong.
        ConfigError: a file of settings is wrong.
    """
    if not flags.unknown:
        check_early(flags, settings, to_start=False)
        return as_yaml(settings, changed_flags(flags.values, runs_on_cpu()))
    if find_spec("vllm") is None:
        return as_yaml(settings, {})
    from mirl_server.vllm import launch

    return as_yaml(settings, launch.changed_flags(arguments, settings))


def changed_flags(values: Mapping[str, Any], cpu: bool) -> dict[str, Any]:
    """Return the flags with which vLLM would start, where they differ from its defaults, MIRL's included.

    Args:
        values: the flags of the command line, by their long names without the leading dashes.
        cpu: vLLM runs on the CPU.
    """
    from mirl_server.vllm.flags import executor, server_defaults

    chosen = {name.replace("_", "-"): value for name, value in server_defaults(cpu).items()} | dict(values)
    model = chosen.pop("model_tag", None) or chosen["model"] or CHARTS.name
    if model in MODELS:
        chosen.setdefault("served-model-name", [model])
    chosen["model"] = resolve(model)
    if cpu and chosen.get("distributed-executor-backend") is None:
        chosen["distributed-executor-backend"] = executor(chosen)
    usual = defaults()
    return {
        name: value
        for name, value in sorted(chosen.items())
        if value is not None and name != "config" and value != usual.get(name)
    }
