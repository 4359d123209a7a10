"""The three ways to ask: what each sends, and the vote on the client."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

from mirl_core.bundled import CHARTS
from mirl_server.cli.demo.attempts import Asker, vote
from tests.unit.clients.cli.evidence_cases import STEERED
from tests.unit.server.cli.demo.stub_server import client_of


def choice(content: str | None, finish_reason: Literal["stop", "length"] = "stop") -> Choice:
    message = ChatCompletionMessage(role="assistant", content=content)
    return Choice(index=0, finish_reason=finish_reason, message=message)


def test_the_most_frequent_of_16_answers_wins() -> None:
    contents = ["7"] * 5 + ["8"] * 6 + [str(n) for n in range(20, 25)]
    assert len(contents) == 16
    assert vote([choice(content) for content in contents]) == "8"


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        # Equally frequent: the earlier one, whatever comes first in another order.
        ([choice("9"), choice("3"), choice("3"), choice("9")], "9"),
        # The same number in two spellings.
        ([choice("5"), choice("30"), choice(" 30.0 ")], "30"),
        # A choice that was cut off, or has no answer, has no vote.
        ([choice(None), choice("4", "length"), choice("4", "length"), choice("6")], "6"),
        ([choice(None), choice(""), choice("7", "length")], None),
        ([], None),
    ],
)
def test_votes(choices: list[Choice], answer: str | None) -> None:
    assert vote(choices) == answer


def test_each_way_asks_the_same_question_with_its_own_options() -> None:
    bodies: list[dict[str, Any]] = []
    question = CHARTS.questions()[0]
    assert question.answer == "7"
    with client_of(bodies) as client:
        asker = Asker(client, "toy", 0.7)
        greedy, votes = asker.greedy(question, seed=3), asker.votes(question, seed=3)
        mirl = asker.mirl(question, "steered", seed=3)
    assert len({json.dumps(body.pop("messages")) for body in bodies}) == 1
    shared = {"seed": 3, "max_completion_tokens": 256}
    assert bodies == [
        {"model": "toy:direct", "temperature": 0.0, **shared},
        {"model": "toy:direct", "temperature": 0.7, "n": 16, **shared},
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
