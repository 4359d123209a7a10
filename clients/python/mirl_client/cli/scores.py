"""The MI of descriptions with a picture, as a table with coloured tokens."""

from __future__ import annotations

from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from mirl_client.answers import Score, Scores
from mirl_client.cli.tables import bar, format_nats, new_table


def legend(result: Scores) -> str:
    """Return what the numbers and colours mean."""
    weight = "λ" if result.mi_weight is None else f"λ = {result.mi_weight:g}"
    return (
        f"MI: log p of a description with the picture less {weight} times that without it, in nats. "
        "Green tokens owe to the picture; red ones are likelier without it."
    )


def scores_table(result: Scores) -> Table:
    """Return a table of descriptions in descending order of their MI per token."""
    table = new_table(
        Column("MI", justify="right", no_wrap=True),
        Column("MI/token", justify="right", no_wrap=True),
        Column("", min_width=8, max_width=8, no_wrap=True),
        Column("description"),
    )
    largest = max((abs(score.mi_per_token) for score in result.scores), default=0.0)
    for score in sorted(result.scores, key=lambda score: -score.mi_per_token):
        table.add_row(
            format_nats(score.mi),
            format_nats(score.mi_per_token),
            bar(score.mi_per_token, largest),
            coloured(score),
        )
    return table


def coloured(score: Score) -> Text:
    """Return a description whose tokens have the colour of their MI; plain where its tokens are unknown."""
    tokens = score.token_texts
    if tokens is None or score.token_mi is None or len(tokens) != len(score.token_mi):
        return Text(score.text)
    largest = max((abs(value) for value in score.token_mi), default=0.0)
    text = Text()
    for token, value in zip(tokens, score.token_mi, strict=True):
        text.append(token, _style(value, largest))
    return text


def _style(value: float, largest: float) -> Style:
    """Return the colour of an MI: from the terminal's own at 0 to full green, or red below 0."""
    share = abs(value) / largest if largest else 0.0
    if share < 0.1:
        return Style()
    faint = round(150 * (1 - share))
    red, green = (faint, 200) if value > 0 else (220, faint)
    return Style.parse(f"rgb({red},{green},{faint})")
