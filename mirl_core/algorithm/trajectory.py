"""Reasoning and content of a whole trajectory, split while it is generated.

A trajectory is `<description>…</description><think>…</think><answer>…</answer>`; any of its segments may be
missing, and text that no tag introduces is content as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirl_core.config import Tags

__all__ = ["Split", "TrajectorySplitter", "split_trajectory"]

BETWEEN_SEGMENTS = "\n\n"
"""Separates the description from the reasoning, as in a gated answer's `reasoning`."""


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a trajectory by its kind, without tags and without white space at the segments' edges."""

    reasoning: str = ""
    """Description and reasoning."""
    content: str = ""
    """Text of the answer, and text outside of segments."""


def split_trajectory(text: str, tags: Tags) -> Split:
    """Return reasoning and content of a whole text."""
    return TrajectorySplitter(tags).feed(text, final=True)


class TrajectorySplitter:
    """Splits one trajectory that arrives piece by piece; the result does not depend on how it was cut."""

    def __init__(self, tags: Tags) -> None:
        self._segments = {
            tags.description[0]: (tags.description[1], True),
            tags.reasoning[0]: (tags.reasoning[1], True),
            tags.answer[0]: (tags.answer[1], False),
        }
        self._pending = ""
        """Text that is not emitted yet: it may turn out to be a tag, or white space at a segment's edge."""
        self._closing: str | None = None
        """Closing tag of the open segment; None between segments."""
        self._reasons = False
        """Whether the open segment is reasoning."""
        self._plain = False
        """Whether text outside of segments has begun, which goes on to the end."""
        self._started = False
        """Whether the open segment has emitted text."""
        self._separate = False
        """Whether an earlier segment has emitted reasoning."""
        self._any_segment = False

    def feed(self, piece: str, *, final: bool = False) -> Split:
        """Return what `piece` adds.

        Args:
            final: no more text follows, so that nothing is held back.
        """
        self._pending += piece
        reasoning: list[str] = []
        content: list[str] = []
        while True:
            if self._plain:
                content.append(self._take(len(self._pending)))
                break
            if self._closing is None:
                if not self._open(final):
                    break
            elif not self._read(reasoning if self._reasons else content, final):
                break
        return Split("".join(reasoning), "".join(content))

    def _open(self, final: bool) -> bool:
        """Enter the segment, or the text outside of segments, that the pending text begins.

        Returns False where it is too early to tell.
        """
        text = self._pending.lstrip()
        for opening, (closing, reasons) in self._segments.items():
            if opening and text.startswith(opening):
                self._pending = text[len(opening) :]
                self._closing, self._reasons = closing, reasons
                self._started, self._any_segment = False, True
                return True
        undecided = any(opening.startswith(text) for opening in self._segments)
        if undecided and not final:
            return False
        if self._reasons or (self._any_segment and not text):
            self._pending = text
        self._plain = True
        return True

    def _read(self, parts: list[str], final: bool) -> bool:
        """Emit what is certain of the open segment into `parts`; return whether the segment has ended."""
        closing = self._closing
        assert closing is not None
        if not self._started:
            self._pending = self._pending.lstrip()
        end = self._pending.find(closing)
        if end >= 0:
            self._emit(self._take(end).rstrip(), parts)
            self._pending = self._pending[len(closing) :]
            self._closing = None
            return True
        if final:
            self._emit(self._take(len(self._pending)).rstrip(), parts)
            return False
        certain = self._pending[: len(self._pending) - _overlap(self._pending, closing)].rstrip()
        self._emit(self._take(len(certain)), parts)
        return False

    def _emit(self, text: str, parts: list[str]) -> None:
        if not text:
            return
        if self._reasons:
            if self._separate and not self._started:
                parts.append(BETWEEN_SEGMENTS)
            self._separate = True
        self._started = True
        parts.append(text)

    def _take(self, count: int) -> str:
        front, self._pending = self._pending[:count], self._pending[count:]
        return front


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of `text` that begins `tag`; characters."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:n])), 0)
