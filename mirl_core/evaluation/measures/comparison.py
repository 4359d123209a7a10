"""`mirl-eval compare`: two methods, of one run or of two, on the questions that both answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.evaluation.measures.outcomes import Outcomes, read_questions
from mirl_core.evaluation.measures.statistics import Comparison, compare
from mirl_core.evaluation.report.summary import read_summary
from mirl_core.tasks.content import named_some
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.resampling import Resampling

__all__ = ["ALL_DATA", "ComparisonRow", "Side", "compare_runs", "read_side"]

ALL_DATA = "all"
"""Stands for the questions of all common data sets together, each of the same weight."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a run, and one of its methods or all."""

    folder: Path
    method: str | None

    def read(self, data: str) -> tuple[dict[str, Outcomes], dict[str, tuple[str, str]]]:
        """Return the outcomes of the run's methods on one data set, and its questions' contents."""
        return read_questions(self.folder / "questions" / f"{file_name(data)}.jsonl")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Method a against method b on one data set, or on all of them."""

    data: str
    """Name of the data set, or `ALL_DATA`."""
    method_a: str
    method_b: str
    accuracy_a: float
    """Share on the common questions."""
    accuracy_b: float
    comparison: Comparison
    left_out: tuple[str, ...] = ()
    """Keys that both runs have, of questions with another text, other pictures or another truth."""
    unchecked: int = 0
    """Questions of which a run, of an earlier version, noted no text and pictures."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return {
            "data": self.data,
            "method_a": self.method_a,
            "method_b": self.method_b,
            "accuracy_a": self.accuracy_a,
            "accuracy_b": self.accuracy_b,
            "left_out": list(self.left_out),
            "unchecked": self.unchecked,
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

    Two methods that have several data sets in common are last compared on all of their questions together. A
    side without a method takes the method of the other side. A question that is not the same in both runs,
    though its key is, is left out.

    Raises:
        ConfigError: a folder is no run, the runs share no data set or question, or a method is missing.
    """
    common = [name for name in read_summary(a.folder)["data"] if name in read_summary(b.folder)["data"]]
    if not common:
        raise ConfigError(f"{a.folder} and {b.folder} have no data set in common", param="data")
    same_run = a.folder.resolve() == b.folder.resolve()
    rows: list[ComparisonRow] = []
    sides: dict[tuple[str, str], list[tuple[Outcomes, Outcomes]]] = {}
    for data in common:
        (ours, our_contents), (theirs, their_contents) = a.read(data), b.read(data)
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
        # Two methods of one run had the same questions, whatever an earlier version noted of them.
        left_out, unchecked = ((), 0) if same_run else _differing(our_contents, their_contents)
        resampling: Resampling | None = None
        for pair, left, right in _aligned(data, ours, theirs, pairs, left_out):
            resampling = resampling or Resampling(left.clusters)
            row = _row(data, pair, left, right, resampling)
            rows.append(replace(row, left_out=left_out, unchecked=unchecked))
            sides.setdefault(pair, []).append((left, right))
    if all(row.method_a == row.method_b for row in rows) and same_run:
        raise ConfigError("this compares a run with itself; name two methods", param="method")
    return [*rows, *_rows_of_all(sides)]


def _differing(
    ours: Mapping[str, tuple[str, str]], theirs: Mapping[str, tuple[str, str]]
) -> tuple[tuple[str, ...], int]:
    """Return the common keys of questions that differ, and the number of those that can't be compared."""
    differing, unchecked = [], 0
    for key in ours.keys() & theirs.keys():
        (content, truth), (other_content, other_truth) = ours[key], theirs[key]
        if truth != other_truth or (content and other_content and content != other_content):
            differing.append(key)
        elif not content or not other_content:
            unchecked += 1
    return tuple(sorted(differing)), unchecked


def _aligned(
    data: str,
    ours: dict[str, Outcomes],
    theirs: dict[str, Outcomes],
    pairs: Sequence[tuple[str, str]],
    left_out: Sequence[str],
) -> Iterator[tuple[tuple[str, str], Outcomes, Outcomes]]:
    """Yield each pair of methods with both outcomes on the common questions, in one order."""
    there = set(next(iter(theirs.values())).keys) - set(left_out)
    keys = [key for key in next(iter(ours.values())).keys if key in there]
    if not keys:
        reason = f": those under the same keys differ ({named_some(left_out)})" if left_out else ""
        raise ConfigError(f"the runs have no question of {data} in common{reason}", param="data")
    for pair in pairs:
        yield pair, ours[pair[0]].only(keys), theirs[pair[1]].only(keys)


def _row(data: str, pair: tuple[str, str], a: Outcomes, b: Outcomes, resampling: Resampling) -> ComparisonRow:
    accuracies = float(a.accuracy.mean()), float(b.accuracy.mean())
    return ComparisonRow(data, *pair, *accuracies, compare(a, b, resampling))


def _rows_of_all(
    sides: Mapping[tuple[str, str], Sequence[tuple[Outcomes, Outcomes]]],
) -> Iterator[ComparisonRow]:
    """Yield a comparison on all questions of each pair of methods that has several data sets."""
    resampling: Resampling | None = None
    clusters: tuple[tuple[str, ...], ...] = ()
    for pair, outcomes in sides.items():
        if len(outcomes) > 1:
            left, right = (Outcomes.joined([both[side] for both in outcomes]) for side in (0, 1))
            if resampling is None or left.clusters != clusters:
                resampling, clusters = Resampling(left.clusters), left.clusters
            yield _row(ALL_DATA, pair, left, right, resampling)
