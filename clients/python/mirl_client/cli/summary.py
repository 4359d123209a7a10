"""How MIRL reached an answer, in lines: vote, confidence and cost."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from mirl_client.evidence import Evidence, Stage


def summary(details: Evidence) -> Table:
    """Return labelled lines about an answer; long ones continue below their beginning."""
    lines = Table.grid(padding=(0, 1))
    lines.add_column(no_wrap=True)
    lines.add_column()
    lines.add_row("vote:", Text(vote_line(details)))
    lines.add_row("confidence:", confidence_line(details))
    lines.add_row("tokens:", cost_line(details.stages))
    return lines


def vote_line(details: Evidence) -> str:
    """Return the answers with their votes in descending order, the winner and its share."""
    if details.vote is None:
        return "none; the best description's chain answers"
    counts = sorted(details.vote.counts.items(), key=lambda entry: -entry[1])
    listed = ", ".join(f"{answer} × {weight:g}" for answer, weight in counts)
    return f"{listed} → {details.vote.answer} ({details.vote.share:.0%})"


def confidence_line(details: Evidence) -> str:
    """Return the confidence and what it means."""
    if details.confidence is None:
        return "none without a vote"
    meaning = (
        "calibrated: how often such a vote is right"
        if details.calibrated
        else "the votes' share: not calibrated"
    )
    return f"{details.confidence:.0%} ({meaning})"


def cost_line(stages: Iterable[Stage]) -> str:
    """Return each stage's tokens, sampled or scored, and its seconds."""
    return ", ".join(
        f"{stage.stage} {stage.generated_tokens + stage.scored_tokens} in {stage.seconds:.1f} s"
        for stage in stages
    )
