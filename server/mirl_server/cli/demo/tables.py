"""Tables of answers and of MIRL's descriptions, ordered by rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import JustifyMethod
from rich.table import Column, Table
from rich.text import Text

from mirl_client import Description, Evidence
from mirl_server.cli.demo.attempts import Attempt

WINNER = "►"
"""Marks the descriptions that the returned answer continues."""
UNKNOWN = "–"
"""Stands for a value that was not computed."""
DESCRIPTION_LENGTH = 80
"""Characters of a description, at most; the rest is cut."""


def answers_table(attempts: Iterable[Attempt]) -> Table:
    """Return a table of the attempts at a question, with their verdicts and costs."""
    table = _table(
        _column("way"),
        _column("answer", 20, style="bold"),
        _column("right?"),
        _column("tokens sampled", justify="right"),
        _column("seconds", justify="right"),
    )
    for attempt in attempts:
        table.add_row(
            attempt.way,
            Text(attempt.answer or "(none)"),
            Text("right", "green") if attempt.right else Text("wrong", "red"),
            f"{attempt.tokens:,}",
            f"{attempt.seconds:.1f}",
        )
    return table


def descriptions_table(details: Evidence) -> Table:
    """Return a table of the descriptions by rank: of steered answers by votes, of gated ones by score."""
    is_steered = any(description.decoding is not None for description in details.descriptions)
    return steered_table(details) if is_steered else gated_table(details)


def steered_table(details: Evidence) -> Table:
    """Return a table of decoded descriptions in descending order of their votes, then of sampled ones."""
    table = _table(
        _column("", 1, style="bold"),
        Column("description"),
        _column("how", 8),
        _column("votes", justify="right"),
        _column("MI/token", justify="right"),
        _column("answer", 13),
    )
    for description in by_votes(details.descriptions):
        decoding = description.decoding
        table.add_row(
            mark(details, description),
            Text(shorten(description.text)),
            "sampled" if decoding is None else f"λ = {decoding.mi_weight:g}",
            str(description.votes) if description.kept else UNKNOWN,
            format_nats(description.mi_per_token),
            Text(answers_of(details, description) or fate(description)),
            style="" if description.kept else "dim",
        )
    return table


def gated_table(details: Evidence) -> Table:
    """Return a table of sampled descriptions in descending order of the gate's score."""
    table = _table(
        _column("", 1, style="bold"),
        Column("description"),
        _column("MI/token", justify="right"),
        _column("gate", 10),
        _column("answers", 13),
    )
    for description in by_score(details.descriptions):
        table.add_row(
            mark(details, description),
            Text(shorten(description.text)),
            format_nats(description.mi_per_token),
            fate(description),
            Text(answers_of(details, description)),
            style="" if description.kept else "dim",
        )
    return table


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
    """Return whether a description is kept, or why not."""
    if description.kept:
        return "kept"
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


def _table(*columns: Column) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
