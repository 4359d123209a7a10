"""Outcomes of every method on every question of a data set, in memory and on disk (`questions/<data>.jsonl`).

One line a question: `{"key", "content", "family", "truth", "clusters", "methods": {name: {"right": […]}}}`,
each list one entry a draw. Figures, comparisons and plots are made of these lines alone. `content` is the
digest of the question's text and pictures; it is empty, or missing, where an earlier version sampled the
question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mirl_core.errors import ConfigError
from mirl_core.tasks.json_lines import numbered_lines, parse_line

__all__ = [
    "Outcomes",
    "QuestionOutcome",
    "as_entry",
    "contents_of",
    "outcomes_of",
    "read_outcomes",
    "read_questions",
    "read_rows",
    "write_rows",
]

Array = npt.NDArray[np.float64]
_FIELDS = ("right", "generated_tokens", "scored_tokens", "trajectories", "confidence", "seconds")


class QuestionOutcome(Protocol):
    """Outcome of one replay or one live run of a method on a question."""

    @property
    def answer(self) -> str | None: ...
    @property
    def right(self) -> bool: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def scored_tokens(self) -> int: ...
    @property
    def trajectories(self) -> int: ...
    @property
    def confidence(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One method on one data set. Arrays are [questions, draws]; NaN stands for a missing value."""

    keys: tuple[str, ...]
    clusters: tuple[tuple[str, ...], ...]
    """Per question: its scene, then its glyphs."""
    answered: Array
    """1 where there was an answer."""
    right: Array
    """1 where the answer was right."""
    generated_tokens: Array
    scored_tokens: Array
    trajectories: Array
    """Chains that ran to their end."""
    confidence: Array
    """Vote share, or the calibrated probability of being right, 0 to 1; NaN where no answer voted."""
    seconds: Array
    """Engine seconds; NaN for replays."""

    @property
    def accuracy(self) -> Array:
        """Share of right draws: [questions]."""
        return np.asarray(self.right.mean(axis=1))

    @property
    def tokens(self) -> Array:
        """Generated plus scored tokens, mean over draws: [questions]."""
        return np.asarray((self.generated_tokens + self.scored_tokens).mean(axis=1))

    def only(self, keys: Sequence[str]) -> Outcomes:
        """Return the outcomes on the questions `keys`, in that order."""
        rows_by_key = {key: row for row, key in enumerate(self.keys)}
        rows = [rows_by_key[key] for key in keys]
        arrays = {name: getattr(self, name)[rows] for name in (*_FIELDS, "answered")}
        return replace(self, keys=tuple(keys), clusters=tuple(self.clusters[row] for row in rows), **arrays)

    @classmethod
    def joined(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Return one method's outcomes on several data sets, in their order, over the draws that all have."""
        draws = min(part.right.shape[1] for part in parts)
        arrays = {
            name: np.concatenate([getattr(part, name)[:, :draws] for part in parts])
            for name in (*_FIELDS, "answered")
        }
        keys = tuple(key for part in parts for key in part.keys)
        return cls(keys, tuple(names for part in parts for names in part.clusters), **arrays)

    @classmethod
    def of(
        cls, keys: Sequence[str], clusters: Sequence[Sequence[str]], entries: Sequence[Mapping[str, Any]]
    ) -> Outcomes:
        """Build outcomes from the entries of the questions' lines, all with the same number of draws."""
        blank = [None] * len(entries[0]["right"]) if entries else []
        arrays = {
            name: np.array([entry.get(name, blank) for entry in entries], np.float64) for name in _FIELDS
        }
        answered = np.array(
            [[answer is not None for answer in entry["answer"]] for entry in entries], np.float64
        )
        # A question without clusters is a separate scene.
        scenes = tuple(tuple(names) or (key,) for key, names in zip(keys, clusters, strict=True))
        return cls(tuple(keys), scenes, answered, **arrays)


def as_entry(plays: Sequence[QuestionOutcome], seconds: Sequence[float] | None = None) -> dict[str, Any]:
    """Return one method's entry in a question's line.

    Args:
        plays: one outcome a draw.
        seconds: engine seconds of each live run; None: replays.
    """
    entry: dict[str, Any] = {
        "right": [int(play.right) for play in plays],
        "answer": [play.answer for play in plays],
        "generated_tokens": [play.generated_tokens for play in plays],
        "scored_tokens": [play.scored_tokens for play in plays],
        "trajectories": [play.trajectories for play in plays],
        "confidence": [None if play.confidence is None else round(play.confidence, 4) for play in plays],
    }
    return entry if seconds is None else entry | {"seconds": [round(value, 4) for value in seconds]}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines atomically: readers see the old file or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.replace(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON lines file.

    Raises:
        ConfigError: there is no such file, or a line is not JSON.
    """
    try:
        return [parse_line(line) for _, line in numbered_lines(path)]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as JSON lines: {error}") from error


def outcomes_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Outcomes]:
    """Return method → outcomes from one data set's lines; a method that misses a question is left out."""
    if not rows:
        return {}
    names = [name for name in rows[0]["methods"] if all(name in row["methods"] for row in rows)]
    keys, clusters = [row["key"] for row in rows], [row["clusters"] for row in rows]
    return {name: Outcomes.of(keys, clusters, [row["methods"][name] for row in rows]) for name in names}


def contents_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return key → (content digest, truth) of one data set's lines; earlier versions' have no digest."""
    return {row["key"]: (row.get("content") or "", row.get("truth") or "") for row in rows}


def read_questions(path: Path) -> tuple[dict[str, Outcomes], dict[str, tuple[str, str]]]:
    """Return `outcomes_of` and `contents_of` a `questions/<data>.jsonl`.

    Raises:
        ConfigError: there is no such file, or `mirl-eval run` did not write it.
    """
    rows = read_rows(path)
    try:
        return outcomes_of(rows), contents_of(rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} was not written by `mirl-eval run`: {error!r}") from error


def read_outcomes(path: Path) -> dict[str, Outcomes]:
    """Return `outcomes_of` a `questions/<data>.jsonl`. Raises ConfigError as `read_questions`."""
    return read_questions(path)[0]
