"""`mirl-eval compare`: two methods, of one run or of two, on the questions that both answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.evaluation.measures.outcomes import Outcomes, read_outcomes
from mirl_core.evaluation.measures.statistics import Comparison, compare
from mirl_core.evaluation.report.summary import read_summary
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.resampling import Resampling

__all__ = ["ComparisonRow", "Side", "compare_runs", "read_side"]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a run, and one of its methods or all."""

    folder: Path
    method: str | None

    def outcomes(self, data: str) -> dict[str, Outcomes]:
        """Return the outcomes of the run's methods on one data set."""
        return read_outcomes(self.folder / "questions" / f"{file_name(data)}.jsonl")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Method a against method b on one data set."""

    data: str
    method_a: str
    method_b: str
    accuracy_a: float
    """Share on the common questions."""
    accuracy_b: float
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "data": self.data,
            "method_a": self.method_a,
            "method_b": self.method_b,
            "accuracy_a": self.accuracy_a,
            "accuracy_b": self.accuracy_b,
            **self.comparison.to_json(),
        }


def read_side(text: str, method: str | None) -> Side:
    """Parse `DIR` or `DIR:method`; `method` is the value of the separate option.

    Raises:
        ConfigError: there is no such folder, or text and option name different methods.
    """
    if Path(text).is_dir():
        return Side(Path(text), method)
    folder, colon, named = text.partition(":")
    if not colon or not Path(folder).is_dir():
        raise ConfigError(f"there is no run folder {folder}; give DIR or DIR:method", param="folder")
    if method is not None and method != named:
        raise ConfigError(f"{text} names {named}, the option names {method}: name one", param="method")
    return Side(Path(folder), named)


def compare_runs(a: Side, b: Side) -> list[ComparisonRow]:
    """Return paired comparisons per data set; of every common method where neither side names a method.

    A side without a method takes the method of the other side.

    Raises:
        ConfigError: a folder is no run, the runs share no data set or question, or a method is missing.
    """
    common = [name for name in read_summary(a.folder)["data"] if name in read_summary(b.folder)["data"]]
    if not common:
        raise ConfigError(f"{a.folder} and {b.folder} have no data set in common", param="data")
    rows = []
    for data in common:
        ours, theirs = a.outcomes(data), b.outcomes(data)
        if a.method is None and b.method is None:
            pairs = [(name, name) for name in ours if name in theirs]
        else:
            pairs = [(a.method or str(b.method), b.method or str(a.method))]
        for side, have, required in (
            (a, ours, [method for method, _ in pairs]),
            (b, theirs, [method for _, method in pairs]),
        ):
            for name in required:
                if name not in have:
                    raise ConfigError(
                        f"{side.folder} has no method {name} on {data}; it has: {', '.join(have)}",
                        param="method",
                    )
        if not pairs:
            raise ConfigError(
                f"the runs share no method on {data}; name two with --method-a and --method-b", param="method"
            )
        rows += _compared(data, ours, theirs, pairs)
    if all(row.method_a == row.method_b for row in rows) and a.folder.resolve() == b.folder.resolve():
        raise ConfigError("this compares a run with itself; name two methods", param="method")
    return rows


def _compared(
    data: str, ours: dict[str, Outcomes], theirs: dict[str, Outcomes], pairs: list[tuple[str, str]]
) -> list[ComparisonRow]:
    there = set(next(iter(theirs.values())).keys)
    keys = [key for key in next(iter(ours.values())).keys if key in there]
    if not keys:
        raise ConfigError(f"the runs have no question of {data} in common", param="data")
    resampling: Resampling | None = None
    rows = []
    for method_a, method_b in pairs:
        left, right = ours[method_a].only(keys), theirs[method_b].only(keys)
        resampling = resampling or Resampling(left.clusters)
        rows.append(
            ComparisonRow(
                data,
                method_a,
                method_b,
                float(left.accuracy.mean()),
                float(right.accuracy.mean()),
                compare(left, right, resampling),
            )
        )
    return rows
