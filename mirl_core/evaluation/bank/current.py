"""A store's records of the present questions, and a message about the outdated ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mirl_core.tasks.content import named_some

__all__ = ["Current"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Current(Generic[R]):
    """The usable records of a data set, by the keys of its questions."""

    records: Mapping[str, R] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    """Questions without a usable record that have another text or other pictures than when they were sampled;
    by records of an earlier version, another text or truth."""
    unnoted: tuple[str, ...] = ()
    """Questions without a usable record whose records, of an earlier version, tell too little."""
    unchecked: tuple[str, ...] = ()
    """Questions whose usable record is of an earlier version: text and truth are the same, pictures are not
    known."""
    judged_anew: tuple[str, ...] = ()
    """Questions that have another truth than when they were sampled."""

    def notes(self, data: str) -> list[str]:
        """Return a line for each kind of record that a user must know of."""
        lines = []
        if self.changed:
            lines.append(
                f"{data}: {_questions(self.changed)} are not those that were sampled (text or pictures "
                "differ): they are sampled again"
            )
        if self.unnoted:
            lines.append(
                f"{data}: the outcomes of {_questions(self.unnoted)} are of an earlier version, which "
                "noted neither text nor pictures: they are sampled again"
            )
        if self.unchecked:
            lines.append(
                f"{data}: the records of {_questions(self.unchecked)} are of an earlier version, which "
                "noted no pictures: text and truth are the present ones, pictures are NOT checked; another "
                "output folder samples anew"
            )
        if self.judged_anew:
            lines.append(
                f"{data}: {_questions(self.judged_anew)} have another truth than when they were sampled: "
                "the stored answers are judged by the present one"
            )
        return lines


def _questions(keys: tuple[str, ...]) -> str:
    return f"{len(keys)} question{'s' if len(keys) > 1 else ''} ({named_some(keys)})"
