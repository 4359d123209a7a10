"""The three ways to ask: what each sends, and the vote on the client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirl_core.bundled import CHARTS
from mirl_server.cli.demo.attempts import Asker, vote
from tests.unit.server.cli.demo.evidence_cases import STEERED
from tests.unit.server.cli.demo.stub_server import client_of, trajectory


def test_the_most_frequent_of_16_answers_wins() -> None:
    texts = [trajectory("7")] * 5 + [trajectory("8")] * 6 + [trajectory(str(n)) for n in range(20, 25)]
    assert len(texts) == 16
    assert vote(texts) == "8"


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        # Equally frequent: the earlier one, whatever comes first in another order.
        ([trajectory("9"), trajectory("3"), trajectory("3"), trajectory("9")], "9"),
        # The same number in two spellings.
        ([trajectory("5"), trajectory("30"), trajectory(" 30.0 ")], "30"),
        # A trajectory that was cut off, or closes no answer, has no vote.
        (["<description>limes 6", "<answer>4", "4", trajectory("6")], "6"),
        (["<description>limes 6</description><think>5 + 1", "nothing", ""], None),
        ([], None),
    ],
)
def test_votes(texts: list[str], answer: str | None) -> None:
    assert vote(texts) == answer


def test_each_way_asks_the_same_question_with_its_own_options() -> None:
    bodies: list[dict[str, Any]] = []
    question = CHARTS.questions()[0]
    assert question.answer == "7"
    with client_of(bodies) as client:
        asker = Asker(client, "toy")
        greedy, votes = asker.greedy(question, seed=3), asker.votes(question, seed=3)
        mirl = asker.mirl(question, "steered", seed=3)
    assert len({json.dumps(body.pop("messages")) for body in bodies}) == 1
    shared = {"seed": 3, "max_completion_tokens": 256}
    assert bodies == [
        {"model": "toy:direct", "temperature": 0.0, **shared},
        {"model": "toy:direct", "temperature": 1.0, "n": 16, **shared},
        {"model": "toy", "mirl": {"preset": "steered"}, **shared},
    ]
    assert [
        (attempt.way, attempt.answer, attempt.right, attempt.tokens) for attempt in (greedy, votes, mirl)
    ] == [
        ("greedy", "7", True, 10),
        ("16 votes", "8", False, 160),
        ("MIRL, steered", "7", True, 10),
    ]
    assert (greedy.evidence, votes.evidence, mirl.evidence) == (None, None, STEERED)
