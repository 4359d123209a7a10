"""The client and its command against a real `mirl-serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mirl_client import Described, Finished, Gated, Mirl, Started
from mirl_client.cli import main
from mirl_core.bundled import DIGITS
from tests.helpers.servers import NAME, RunningServer

PICTURE = DIGITS.questions()[0].file
QUESTION = DIGITS.questions()[0].question
SMALL = {"descriptions": 3, "keep": 2, "forks": 1}


@pytest.fixture
def client(server: RunningServer) -> Iterator[Mirl]:
    with Mirl(server.url, max_retries=0, timeout=120) as made:
        yield made


def test_a_stream_ends_with_the_answer_of_its_seed(client: Mirl) -> None:
    events = list(client.stream(PICTURE, QUESTION, options=SMALL, seed=1))
    assert [type(event) for event in events[:5]] == [Started, Described, Described, Described, Gated]
    finished = events[-1]
    assert isinstance(finished, Finished)
    answer = finished.answer
    assert (answer.model, len(answer.descriptions)) == (NAME, 3)
    assert answer.cost.sampled_tokens == sum(stage.generated_tokens for stage in answer.cost.stages)
    described = client.describe(PICTURE, QUESTION, options=SMALL, seed=1)
    assert [each.text for each in described.descriptions] == [each.text for each in answer.descriptions]
    follow_up = client.ask((), "Why?", history=answer.messages, extra={"max_completion_tokens": 8})
    assert follow_up.evidence is None
    assert follow_up.cost.sampled_tokens > 0


def test_tokens_of_scores_spell_their_text(client: Mirl) -> None:
    text = client.describe(PICTURE, QUESTION, options=SMALL, seed=1).descriptions[0].text
    (score,) = client.score(PICTURE, QUESTION, text, options={"mi_weight": 1}).scores
    tokens = client.tokens(text)
    assert tokens is not None
    assert "".join(tokens) == text
    assert score.token_mi is not None
    assert score.token_texts == tuple(tokens)
    assert len(tokens) == score.tokens == len(score.token_mi)
    # Each token's MI is clipped, so that it is not logprob - marginal.
    assert sum(score.token_mi) == pytest.approx(score.mi, abs=1e-4)


def test_the_command(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(PICTURE), QUESTION, "--url", server.url, "--seed", "1"]
    assert main([*words, "--preset", "steered", "--compare"]) == 0
    out = capsys.readouterr().out
    assert "\nanswer: " in out
    assert "\n16 votes " in out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == NAME
    assert main([*words, "--option", "kep=2"]) == 2
    assert capsys.readouterr().err.startswith("mirl: 400: ")
