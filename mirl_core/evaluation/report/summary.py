"""`summary.json`: every figure of a run. The report and the plots come from it alone.

model, fingerprint, versions, settings, part, seed, draws, bank, command    facts of the run
methods         name → options, or null
data            data set → method → figures (`statistics.figures`)
comparisons     data set → {"baseline": name, "methods": {name: `statistics.Comparison`, with "holm_p"}}: its
                "bootstrap_p" adjusted for the run's data sets; earlier versions lack both
reliability     data set → method → bins
selection       data set → rows of `selection.selection_quality`
length          data set → rows of `selection.length_correlation`
causality       data set → `selection.causality`
faithfulness    data set → `selection.faithfulness`
live            data set → method → {"live": figures, "replay": figures, "comparison": live against replay}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.measures.outcomes import Outcomes
from mirl_core.evaluation.measures.selection import (
    causality,
    faithfulness,
    length_correlation,
    selection_quality,
)
from mirl_core.evaluation.measures.statistics import compare, figures, holm, reliability
from mirl_core.tasks.resampling import Resampling

__all__ = [
    "BASELINE",
    "add_data",
    "choose_baseline",
    "new_summary",
    "read_summary",
    "strict",
    "write_summary",
]

BASELINE = "sc@16"
_PER_DATA = ("data", "comparisons", "reliability", "selection", "length", "causality", "live")
_SINCE = ("faithfulness",)
"""Entries that summaries of earlier versions lack."""


def new_summary(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary without data; `facts` are those of the run."""
    return {**facts, **{name: {} for name in (*_PER_DATA, *_SINCE)}}


def add_data(
    summary: dict[str, Any],
    name: str,
    outcomes: Mapping[str, Outcomes],
    live: Mapping[str, Outcomes],
    questions: Sequence[BankedQuestion],
    estimators: Sequence[str],
) -> None:
    """Enter one data set's figures.

    Args:
        outcomes: method → its outcomes, all on the same questions.
        live: method → outcomes of live runs, possibly on fewer questions.
        questions: the bank's records of these questions.
    """
    first = next(iter(outcomes.values()))
    resampling = Resampling(first.clusters)
    summary["data"][name] = {method: figures(outcome, resampling) for method, outcome in outcomes.items()}
    baseline = choose_baseline(list(outcomes))
    summary["comparisons"][name] = {
        "baseline": baseline,
        "methods": {
            method: compare(outcome, outcomes[baseline], resampling).to_json()
            for method, outcome in outcomes.items()
            if method != baseline
        },
    }
    _adjust(summary["comparisons"])
    summary["reliability"][name] = {
        method: [asdict(bin_) for bin_ in bins]
        for method, outcome in outcomes.items()
        if (bins := reliability(outcome.confidence, outcome.right))
    }
    summary["selection"][name] = selection_quality(questions, estimators)
    summary["length"][name] = length_correlation(questions, estimators)
    summary["causality"][name] = causality(questions)
    summary["faithfulness"][name] = faithfulness(questions)
    summary["live"][name] = {
        method: _against_replay(outcome, outcomes[method])
        for method, outcome in live.items()
        if outcome.keys and method in outcomes
    }


def choose_baseline(methods: Sequence[str]) -> str:
    """Return the method that the others are compared with: `sc@16` where it is there, else the first."""
    return BASELINE if BASELINE in methods else methods[0]


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json` as strict JSON, with null for NaN and infinity; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    part = path.with_name("summary.json.part")
    part.write_text(json.dumps(strict(summary), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary in `folder`.

    Raises:
        ConfigError: there is no such file, or it is no summary.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} holds no summary.json: give the --output folder of a `mirl-eval run`", param="folder"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON: {error}", param="folder") from error
    missing = [name for name in _PER_DATA if not isinstance(summary, dict) or name not in summary]
    if missing:
        raise ConfigError(
            f"{path} was not written by `mirl-eval run`: no {', '.join(missing)}", param="folder"
        )
    return dict(summary)


def _adjust(comparisons: Mapping[str, Any]) -> None:
    """Enter every method's p-values, adjusted for the data sets that have the method."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for compared in comparisons.values():
        for method, row in compared["methods"].items():
            by_method.setdefault(method, []).append(row)
    for rows in by_method.values():
        for row, adjusted in zip(rows, holm([row["bootstrap_p"] for row in rows]), strict=True):
            row["holm_p"] = adjusted


def _against_replay(live: Outcomes, replay: Outcomes) -> dict[str, Any]:
    same = replay.only(live.keys)
    resampling = Resampling(live.clusters)
    return {
        "live": figures(live, resampling),
        "replay": figures(same, resampling),
        "comparison": compare(live, same, resampling).to_json(),
    }


def strict(value: Any) -> Any:
    """Return `value` for strict JSON: six significant digits, null for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
