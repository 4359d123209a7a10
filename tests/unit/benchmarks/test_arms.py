"""What is sent, and how an answer is found in what comes back."""

from __future__ import annotations

import base64
import io
from typing import Literal

import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from PIL import Image

from mirl_core.tasks.questions import Question
from tests.benchmarks.arms import answer_in, chat, vote
from tests.benchmarks.peers.recorder import pictures, seen

QUESTION = Question("q", "How many?", "2", lambda: Image.new("RGB", (3, 2), "red"))


def test_a_picture_is_sent_as_it_is() -> None:
    url = chat(QUESTION)[0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as read:
        assert read.convert("RGB").tobytes() == QUESTION.image().tobytes()


def test_the_last_closed_answer_counts() -> None:
    assert answer_in("<answer>1</answer> no: <answer> 2 </answer>") == "2"
    assert answer_in("<answer>1") is None
    assert answer_in(None) is None


def choice(content: str | None, finish_reason: Literal["stop", "length"] = "stop") -> Choice:
    message = ChatCompletionMessage(role="assistant", content=content)
    return Choice(index=0, finish_reason=finish_reason, message=message)


@pytest.mark.parametrize("form", ["<think>…</think><answer>{}</answer>", "{}"])
def test_vote(form: str) -> None:
    """Answers of a server that shows trajectories, and of one that splits them."""
    choices = [choice(form.format(answer)) for answer in ("3", "2", "2", "3", "")]
    cut_off = [choice("<description>4"), choice("5", "length"), choice(None)]
    assert vote([*choices, *cut_off]) == "3", "the earlier of two that are equally frequent"
    assert vote([*choices, choices[1]]) == "2"
    assert vote(cut_off) is None


def test_the_recorder_sees_whether_a_picture_came() -> None:
    call = seen({"model": "m", "messages": chat(QUESTION), "n": 16}, 200, 30)
    assert pictures(call) == 1
    assert call.sampling == {"n": 16}
    assert "base64" not in str(call)
    flat = {
        "model": "m",
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "User: a"}],
    }
    assert pictures(seen(flat, 200, 14)) == 0
    assert [message["parts"] for message in seen(flat, 200, 14).messages] == [["string"], ["string"]]
    assert pictures(seen({"messages": chat(QUESTION, picture=False)}, 200, 14)) == 0
