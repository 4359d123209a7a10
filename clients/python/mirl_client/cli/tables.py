"""Tables of answers and of descriptions, ordered by rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rich import box
from rich.console import JustifyMethod
from rich.table import Column, Table
from rich.text import Text

from mirl_client.evidence import Description, Evidence

WINNER = "►"
"""Marks the descriptions that the returned answer continues."""
UNKNOWN = "–"
"""Stands for a value that was not computed."""
DESCRIPTION_LENGTH = 80
"""Characters of a description, at most; the rest is cut."""


BAR_WIDTH = 8
"""Cells of the longest bar."""

Paint = Callable[[Description], Text]
"""Returns a description's text on one line, with styles."""


class AnswerRow(Protocol):
    """An answer to a question, and its cost."""

    @property
    def way(self) -> str:
        """Return how it was reached."""
        ...

    @property
    def answer(self) -> str | None:
        """Return its text; None where there is none."""
        ...

    @property
    def tokens(self) -> int:
        """Return its sampled tokens."""
        ...

    @property
    def seconds(self) -> float:
        """Return the time from the request to its response."""
        ...


def answers_table(rows: Iterable[AnswerRow], verdicts: Sequence[bool] | None = None) -> Table:
    """Return a table of answers to one question with their costs.

    Args:
        verdicts: whether each answer is right; None: nobody knows.
    """
    rows = list(rows)
    right = [] if verdicts is None else [_column("right?")]
    table = new_table(
        _column("way"),
        _column("answer", 20, style="bold"),
        *right,
        _column("tokens sampled", justify="right"),
        _column("seconds", justify="right"),
    )
    for index, row in enumerate(rows):
        cells: list[str | Text] = [row.way, Text(row.answer or "(none)")]
        if verdicts is not None:
            cells.append(Text("right", "green") if verdicts[index] else Text("wrong", "red"))
        table.add_row(*cells, f"{row.tokens:,}", f"{row.seconds:.1f}")
    return table


def plain(description: Description) -> Text:
    """Return a description's text on one line, without styles."""
    return Text(shorten(description.text))


def descriptions_table(details: Evidence, paint: Paint = plain, bars: bool = False) -> Table:
    """Return a table of the descriptions by rank: of steered answers by votes, of gated ones by score.

    Args:
        paint: the text of a description.
        bars: draw each MI per token as a bar, and the gate's cut as a line.
    """
    is_steered = any(description.decoding is not None for description in details.descriptions)
    table = steered_table if is_steered else gated_table
    return table(details, paint, bars)


def steered_table(details: Evidence, paint: Paint = plain, bars: bool = False) -> Table:
    """Return a table of decoded descriptions in descending order of their votes, then of sampled ones."""
    table = new_table(
        _column("", 1, style="bold"),
        Column("description"),
        _column("how", 8),
        _column("votes", justify="right"),
        _column("MI/token", justify="right"),
        *_bar_columns(bars),
        _column("answer", 13),
    )
    largest = largest_mi(details.descriptions)
    for description in by_votes(details.descriptions):
        decoding = description.decoding
        table.add_row(
            mark(details, description),
            paint(description),
            "sampled" if decoding is None else f"λ = {decoding.mi_weight:g}",
            str(description.votes) if description.kept else UNKNOWN,
            format_nats(description.mi_per_token),
            *([bar(description.mi_per_token, largest)] if bars else []),
            Text(answers_of(details, description) or fate(description)),
            style="" if description.kept else "dim",
        )
    return table


def gated_table(details: Evidence, paint: Paint = plain, bars: bool = False) -> Table:
    """Return a table of sampled descriptions in descending order of the gate's score.

    With bars, kept descriptions are above the dropped ones, with a line between them.
    """
    table = new_table(
        _column("", 1, style="bold"),
        Column("description"),
        _column("MI/token", justify="right"),
        *_bar_columns(bars),
        _column("gate", 10),
        _column("answers", 13),
    )
    largest = largest_mi(details.descriptions)
    ranked = by_score(details.descriptions)
    kept = sum(description.kept for description in ranked)
    if bars:
        ranked = sorted(ranked, key=lambda description: not description.kept)
    for index, description in enumerate(ranked):
        if bars and 0 < kept == index:
            cut = Text(f"── {kept} kept, {len(ranked) - kept} dropped ──", "dim", no_wrap=True)
            table.add_row("", cut)
        table.add_row(
            mark(details, description),
            paint(description),
            format_nats(description.mi_per_token),
            *([bar(description.mi_per_token, largest)] if bars else []),
            fate(description),
            Text(answers_of(details, description)),
            style="" if description.kept else "dim",
        )
    return table


def largest_mi(descriptions: Iterable[Description]) -> float:
    """Return the largest distance of an MI per token from 0, in nats; 0 where none is known."""
    return max((abs(description.mi_per_token or 0.0) for description in descriptions), default=0.0)


def bar(value: float | None, largest: float) -> Text:
    """Return a value's bar of at most `BAR_WIDTH` cells: green above 0, red below; empty for None.

    Args:
        largest: the value of a full bar.
    """
    if value is None or largest <= 0:
        return Text("")
    eighths = round(min(1.0, abs(value) / largest) * BAR_WIDTH * 8)
    part = "" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1]
    return Text("█" * (eighths // 8) + part, "green" if value > 0 else "red")


def by_votes(descriptions: Iterable[Description]) -> Sequence[Description]:
    """Return decoded descriptions in descending order of their votes, then sampled ones as they came."""
    return sorted(
        descriptions,
        key=lambda description: (description.decoding is None, -(description.votes or 0), description.index),
    )


def by_score(descriptions: Iterable[Description]) -> Sequence[Description]:
    """Return descriptions in descending order of their score, then those without one."""
    return sorted(
        descriptions,
        key=lambda description: (description.score is None, -(description.score or 0.0), description.index),
    )


def mark(details: Evidence, description: Description) -> str:
    """Return the winner's mark for the descriptions whose chain gave the returned answer."""
    chained = details.representative.description
    return WINNER if chained is not None and source(description) == chained else ""


def source(description: Description) -> int:
    """Return the index of the description whose chains a description has: its own or an equal text's."""
    return description.index if description.repeats is None else description.repeats


def answers_of(details: Evidence, description: Description) -> str:
    """Return the answers of a description's chains with their counts; empty where it has no chain."""
    chains = [chain for chain in details.chains if chain.description == source(description)]
    if not description.kept:
        return ""
    counts = Counter(chain.answer or "(none)" for chain in chains if chain.finish_reason != "abort")
    listed = [f"{answer} × {count}" if count > 1 else answer for answer, count in counts.most_common()]
    if stopped := len(chains) - counts.total():
        listed.append(f"{stopped} stopped" if len(chains) > 1 else "stopped")
    return ", ".join(listed)


def fate(description: Description) -> str:
    """Return whether a description is kept, or why not; empty while that is open."""
    if description.kept:
        return "kept"
    if description.reason is None:
        return ""
    return "dropped" if description.reason == "gate" else str(description.reason)


def shorten(text: str) -> str:
    """Return a text as one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= DESCRIPTION_LENGTH else line[: DESCRIPTION_LENGTH - 1].rstrip() + "…"


def format_nats(value: float | None) -> str:
    """Return nats with their sign."""
    return UNKNOWN if value is None else f"{value:+.2f}"


def _column(
    header: str, width: int | None = None, *, justify: JustifyMethod = "left", style: str = ""
) -> Column:
    """Return a column whose cells stay on one line; a text longer than `width` ends in an ellipsis."""
    return Column(header, justify=justify, style=style, max_width=width, no_wrap=True, overflow="ellipsis")


def _bar_columns(bars: bool) -> list[Column]:
    return [Column("", min_width=BAR_WIDTH, max_width=BAR_WIDTH, no_wrap=True)] if bars else []


def new_table(*columns: Column) -> Table:
    """Return an empty table with a line below its header and none around it."""
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
