"""The benchmark's results in Markdown, and their predictions with other rates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirl_core.algorithm.costs import Rates
from mirl_core.errors import ConfigError
from tests.benchmarks.about import line
from tests.benchmarks.latency.figures import cost_table, costs, latency_table
from tests.benchmarks.latency.measure import Pass, TimedRun
from tests.benchmarks.latency.score_stage.profile import profile_table

__all__ = ["latency_report", "predicted_again", "profile_report", "read"]


def latency_report(result: Mapping[str, Any]) -> str:
    """Return the tables of a run: latency, and the cost model against it."""
    parts = [_header(result), ""]
    for measured in result["passes"]:
        parts.append(f"**{measured['together']} in flight**\n")
        parts.append(latency_table(measured["methods"], result["reference"], result["graded"]) + "\n")
    parts.append(f"**Cost model, predicted / measured seconds.** {_rates(result['rates'])}\n")
    parts += [
        f"{measured['together']} in flight:\n\n{cost_table(measured['costs'], result['reference'])}\n"
        for measured in result["passes"]
    ]
    return "\n".join(parts).strip()


def profile_report(result: Mapping[str, Any]) -> str:
    """Return the table of the score stage's parts."""
    return f"{_header(result)}\n\n{profile_table(result['profile'])}"


def predicted_again(result: Mapping[str, Any], rates: Rates) -> str:
    """Return the cost model's tables for a stored run's requests, on an engine with other rates."""
    reference = result["reference"]
    parts = [f"Seconds with these rates / as measured in the stored run. {_rates(_plain(rates))}\n"]
    for entry in result["passes"]:
        runs = tuple(TimedRun.from_json(run) for run in entry["runs"])
        measured = Pass(entry["together"], runs, entry["wall"])
        parts.append(f"{measured.together} in flight:\n\n{cost_table(costs(measured, rates), reference)}\n")
    return "\n".join(parts).strip()


def read(file: Path) -> dict[str, Any]:
    """Return a run's result from its JSON file.

    Raises:
        ConfigError: the file is not a result of the latency benchmark.
    """
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} can't be read: {error}", param="again") from error
    if not isinstance(result, dict) or "passes" not in result:
        raise ConfigError(f"{file} has no timed requests", param="again")
    return result


def _header(result: Mapping[str, Any]) -> str:
    run = result["about"]["run"]
    forced = run["lengths"]
    lengths = (
        "the model's lengths"
        if forced is None
        else f"forced lengths: descriptions {forced['description']}, chains {forced['chain']} tokens, "
        f"{forced['agreement']:.0%} of chains agree, {forced['switches']} switches a decode"
    )
    return (
        f"{line(result['about'])} Device {run['device']}, dtype {run['dtype']}; {run['n']} questions of "
        f"{run['data']}, seed {run['seed']}; {lengths}."
    )


def _rates(rates: Mapping[str, Any]) -> str:
    steps = ", ".join(f"{batch / seconds:.0f} at {batch}" for batch, seconds in rates["steps"])
    return (
        f"Tokens/s: prefill {rates['prefill']:.0f}, scoring {rates['score']:.0f}, decoding {steps} "
        f"sequences; milliseconds: call {1000 * rates['call']:.1f}, image {1000 * rates['image']:.1f}, "
        f"rendering {1000 * rates['render']:.1f}."
    )


def _plain(rates: Rates) -> dict[str, Any]:
    return {name: getattr(rates, name) for name in Rates.__dataclass_fields__}
