"""The `mirl.json` that serves the advice, and the command that calibrates its confidence."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.evaluation.advise.candidates import DESCRIPTIONS, FORKS, Candidate
from mirl_core.evaluation.run.setup import RunSettings
from mirl_core.presets import PRESETS

__all__ = ["calibrate_command", "served_settings", "write_settings"]


def served_settings(mirl_json: Mapping[str, Any], candidate: Candidate, share_chains: bool) -> dict[str, Any]:
    """Return the entries of a `mirl.json` with the candidate's options.

    Entries that don't decide how an answer is reached stay: tags, temperature, lengths, times. A calibration
    that was fitted for other options is left out.

    Args:
        mirl_json: the entries so far.
        candidate: has options.
        share_chains: see `mirl_core.config.MIRLOptions.share_chains`.
    """
    before = dict(mirl_json.get("options", {}))
    advised = dict(candidate.options or {})
    # An option beside a preset goes over it. Votes take the model's way to count them.
    decided = set(PRESETS[advised["preset"]]) if "preset" in advised else set(PRESETS["gate"]) - {"aggregate"}
    kept = {
        name: value
        for name, value in before.items()
        if name not in decided and name not in ("preset", "share_chains")
    }
    options = advised | kept
    if not share_chains:
        options["share_chains"] = False
    written = {**mirl_json, "options": options}
    if MIRLOptions.model_validate(options) != MIRLOptions.model_validate(before):
        written.pop("calibration", None)
    return written


def write_settings(path: Path, mirl_json: Mapping[str, Any]) -> None:
    """Write the entries of a `mirl.json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mirl_json, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def calibrate_command(settings: RunSettings, model: str | None, target: Path) -> str:
    """Return the command that calibrates the confidence of `target` on the bank, which it samples no more.

    Args:
        settings: of the run that filled the bank.
        model: the model as the command line names it; None: the bundled model of the data.
        target: the `mirl.json` with the advised options.
    """
    usual = RunSettings(settings.model, settings.data, "", settings.output)
    words = ["mirl-eval", "calibrate", "--confidence-only", *(["--model", model] if model else [])]
    words += ["--data", ",".join(settings.data), "--n", str(settings.n), "--part", settings.part]
    words += ["--bank", str(settings.output), "--output", str(target)]
    words += ["--descriptions", str(DESCRIPTIONS), "--forks", str(FORKS)]
    words += ["--estimators", ",".join(settings.estimators)]
    for name in ("seed", "references", "max_tokens", "mapping"):
        if getattr(settings, name) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    return " ".join(shlex.quote(word) for word in words)
