"""Tables of answers and descriptions: rank, marks, and 80 columns for any text."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from mirl_client import Evidence
from mirl_client.cli.attempts import Attempt
from mirl_client.cli.summary import summary
from mirl_client.cli.tables import answers_table, descriptions_table
from tests.unit.clients.cli.evidence_cases import GATED, STEERED, chain, decoded, evidence_of, sampled


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_steered_descriptions_are_ordered_by_votes_and_the_winners_are_marked() -> None:
    assert lines(descriptions_table(STEERED)) == [
        "   description         how      votes  MI/token  answer",
        "────────────────────────────────────────────────────────",
        "►  limes 6, apples 18  λ = 0        2         –  24",
        "►  limes 6, apples 18  λ = 0.5      2     +0.50  24",
        "   limes 4, apples 13  λ = 1        1     +1.00  stopped",
        "   9 apples, 6 limes   sampled      1         –  15",
        "►  limes 6, apples 18  sampled      1         –  24",
        "   limes 7,            sampled      –         –  stopped",
    ]


def test_gated_descriptions_are_ordered_by_score_with_their_fate() -> None:
    assert lines(descriptions_table(GATED)) == [
        "   description         MI/token  gate       answers",
        "─────────────────────────────────────────────────────────",
        "   apples 18, limes 6     +0.75  kept       25, 1 stopped",
        "►  limes 6, apples 18     +0.50  kept       24 × 2",
        "   limes 6, apples 17     +0.25  dropped",
        "   18 limes, 6 apples     -0.50  kept       2 stopped",
        "   limes 6                    –  truncated",
    ]


def test_answers_stand_side_by_side() -> None:
    attempts = [
        Attempt("greedy", "25", 65, 1.94),
        Attempt("16 votes", None, 1046, 1.6),
        Attempt("MIRL, steered", "24", 500, 12.0),
    ]
    assert lines(answers_table(attempts, [False, False, True])) == [
        "way            answer  right?  tokens sampled  seconds",
        "──────────────────────────────────────────────────────",
        "greedy         25      wrong               65      1.9",
        "16 votes       (none)  wrong            1,046      1.6",
        "MIRL, steered  24      right              500     12.0",
    ]


def test_the_summary_ranks_answers_and_says_what_the_confidence_is() -> None:
    assert lines(summary(STEERED)) == [
        "vote:       24 × 3, 25 × 1 → 24 (75%)",
        "confidence: 75% (the votes' share: not calibrated)",
        "tokens:     describe 92 in 1.1 s, score 18 in 0.2 s, fork 120 in 3.0 s",
    ]
    calibrated = STEERED.model_copy(update={"calibrated": True, "confidence": 0.9})
    assert lines(summary(calibrated))[1] == "confidence: 90% (calibrated: how often such a vote is right)"
    best = STEERED.model_copy(update={"vote": None, "confidence": None})
    assert lines(summary(best))[:2] == [
        "vote:       none; the best description's chain answers",
        "confidence: none without a vote",
    ]


LONG = "a description that goes on and on " * 20
WORD = "x" * 200
LONG_STEERED = evidence_of(
    (decoded(0, LONG, 0.25, 2), sampled(1, WORD, votes=1)), (chain(0, 0, LONG), chain(1, 0, WORD)), 0
)
LONG_GATED = evidence_of(
    (sampled(0, LONG, 0.5), sampled(1, WORD, -0.5)), (chain(0, 0, LONG), chain(1, 0, WORD)), 0
)


@pytest.mark.parametrize("details", [LONG_STEERED, LONG_GATED], ids=["steered", "gated"])
@pytest.mark.parametrize("width", [80, 60])
def test_long_texts_stay_within_the_width(details: Evidence, width: int) -> None:
    shown = lines(descriptions_table(details), width)
    assert max(map(cell_len, shown)) <= width
    # Header, rule, and at most three lines a description at 80 columns.
    assert len(shown) <= (8 if width == 80 else 10)
    assert shown[2].startswith("►  a description")
    assert sum("…" in line for line in shown) >= 2
    attempts = [Attempt("16 votes", text, 10**6, 1e4) for text in (LONG, WORD)]
    for verdicts in (None, [True, False]):
        shown = lines(answers_table(attempts, verdicts), width)
        assert max(map(cell_len, shown)) <= width
        assert len(shown) == 4


def test_text_of_the_model_is_no_markup() -> None:
    details = evidence_of((sampled(0, "a [red] box", 0.5),), (chain(0, 0, "[bold]"),), 0)
    assert lines(descriptions_table(details))[2] == "►  a [red] box     +0.50  kept  [bold]"
    assert lines(answers_table([Attempt("greedy", "[/x]", 1, 1.0)]))[2].split()[1] == "[/x]"
