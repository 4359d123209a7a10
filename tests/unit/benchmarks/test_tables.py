"""What the comparison over HTTP makes of answers: pairing, costs, turns, tables."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mirl_core.tasks.questions import Question
from tests.benchmarks.arms import Reply
from tests.benchmarks.tables import HEAD, Pass, markdown, put, rows, summarise, turns


def question(number: int) -> Question:
    return Question(f"q{number}", "How many?", "2", lambda: Image.new("RGB", (1, 1)))


def reply(answer: str | None, seconds: float = 1.0, sampled: int = 10, scored: int = 0) -> Reply:
    return Reply(answer, seconds, 5, sampled, scored)


QUESTIONS = [question(number) for number in range(4)]


def four(**answers: list[str | None]) -> Pass:
    replies = {
        arm: {f"q{number}": reply(answer) for number, answer in enumerate(of)} for arm, of in answers.items()
    }
    return Pass("digits/iid", 1, replies, dict.fromkeys(answers, 2.0))


def test_every_arm_gets_every_turn_equally_often() -> None:
    arms = ["a", "b", "c"]
    places = Counter((arm, place) for number in range(6) for place, arm in enumerate(turns(arms, number)))
    assert set(places.values()) == {2}
    assert len(places) == 9


def test_every_arm_is_as_often_before_another_as_after_it() -> None:
    arms = ["a", "b", "c", "d"]
    orders = [turns(arms, number) for number in range(8)]
    before = Counter(pair for order in orders for pair in itertools.combinations(order, 2))
    assert before["a", "b"] == before["b", "a"]
    assert before["a", "d"] == before["d", "a"]


def test_accuracy_and_pairs() -> None:
    figures = summarise(four(ours=["2", "2", "2.0", None], theirs=["2", "3", "3", "2"]), QUESTIONS, "ours")
    assert figures["ours"]["accuracy"] == 0.75
    assert figures["ours"]["no_answer"] == 1
    assert figures["theirs"]["accuracy"] == 0.5
    paired = figures["theirs"]["reference_minus_this"]
    assert paired["accuracy"] == pytest.approx(0.25)
    assert (paired["reference_alone_right"], paired["this_alone_right"]) == (2, 1)
    assert "reference_minus_this" not in figures["ours"]


def test_an_arm_with_fewer_questions_is_compared_on_the_questions_of_both() -> None:
    figures = summarise(four(ours=["3", "3", "2", "2"], slow=["2", "3"]), QUESTIONS, "ours")
    assert figures["slow"]["n"] == 2
    assert figures["slow"]["reference_minus_this"]["accuracy"] == pytest.approx(-0.5)
    assert figures["slow"]["questions_per_second"] == 1.0


def test_costs_count_scored_tokens() -> None:
    answers = {
        "ours": {"q0": reply("2", seconds=1.0, sampled=20, scored=10)},
        "theirs": {"q0": reply("2", seconds=2.0, sampled=60)},
    }
    measured = Pass("digits/iid", 1, answers, {"ours": 1.0, "theirs": 2.0})
    paired = summarise(measured, QUESTIONS[:1], "ours")["theirs"]["reference_minus_this"]
    assert paired["tokens_ratio"] == pytest.approx(0.5)
    assert paired["p50_ratio"] == pytest.approx(0.5)


def test_rows_fit_the_table() -> None:
    figures = summarise(four(ours=["2"] * 4, theirs=["2", "3", "2", "2"]), QUESTIONS, "ours")
    body = rows(figures)
    assert {len(row) for row in body} == {len(HEAD)}
    assert body[1][3].startswith("+25.0 [")


def test_markdown_keeps_bars_in_their_cells() -> None:
    assert markdown(["a"], [["x|y"]]).splitlines() == ["| a |", "| --- |", "| x\\|y |"]


def test_a_table_goes_to_its_place_and_can_be_replaced() -> None:
    document = "before\n\n<!-- a -->\n<!-- end of a -->\n\nafter\n"
    once = put(document, "a", "| first |")
    assert once == "before\n\n<!-- a -->\n\n| first |\n\n<!-- end of a -->\n\nafter\n"
    assert put(once, "a", "| second |") == once.replace("first", "second")
    with pytest.raises(ValueError, match="no one place for b"):
        put(document, "b", "")


@pytest.mark.parametrize(
    "name",
    ["rivals", "peer-images", "direct", "latency-mirl-charts", "latency-real-size", "score-profile"],
)
def test_the_document_has_a_place_for_every_table(name: str) -> None:
    document = (Path(__file__).parents[3] / "docs/benchmarks.md").read_text()
    assert "| a |" in put(document, name, "| a |")
