"""What is sent, and how an answer is found in what comes back."""

from __future__ import annotations

import base64
import io

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


def test_vote() -> None:
    trajectories = [f"<think>…</think><answer>{answer}</answer>" for answer in ("3", "2", "2", "3", "")]
    assert vote([*trajectories, "cut off", None]) == "3", "the earlier of two that are equally frequent"
    assert vote([*trajectories, trajectories[1]]) == "2"
    assert vote(["cut off"]) is None


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
