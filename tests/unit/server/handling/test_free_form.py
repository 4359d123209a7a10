"""Answers that can't be voted on: whatever the question, in whichever API, one chain's text comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mirl_core.engines.fake import FakeEngine
from tests.unit.server.apis.api_cases import messages_body, named_events, post, responses_body
from tests.unit.server.harness import DESCRIPTIONS, Harness, events, make_harness, question

ANSWERS = {
    "caption": "A red {0} stands alone on a white ground; nothing else is to be seen.",
    "list": "- one {0}, red\n- a white ground\n  - no frame\n\n1. first\n2. second",
    "OCR": "INVOICE  No. {0}\nTotal:\t12,50 € (incl. 19 % VAT)\n<signed>  “J. Doe” \\ {{x}}",
    "long prose": "\n\n".join(" ".join([f"Paragraph {n} says it of {{0}}."] * 12) for n in range(1, 5)),
    "JSON": '{{"digit": "{0}",  "sure": true,\n "seen": [1, 2.50, null]}}',
    "table": "| digit | colour |\n|---|---|\n| {0} | red |",
    "code": "```python\nprint('{0}')  # as asked\n```",
}  # fmt: skip
MIRL = {"descriptions": 2, "keep": 2, "forks": 2, "early_stop": False}


def chains(kind: str) -> tuple[Harness, set[str]]:
    """A server whose four chains give four answers of this kind; the answers."""
    texts = {(word, j): ANSWERS[kind].format(f"{word} {j}") for word in ("seven", "one") for j in (0, 1)}

    def chain(suffix: str, j: int) -> str:
        word = "seven" if "seven" in suffix else "one"
        return f"<think>I look at it</think><answer>{texts[word, j % 2]}</answer>"

    return make_harness(FakeEngine(DESCRIPTIONS, chain)), set(texts.values())


async def chat(harness: Harness, stream: bool) -> str:
    body = {"model": "m", "messages": [question("Describe it.")], "mirl": MIRL, "stream": stream}
    answer = await post(harness, "/v1/chat/completions", body)
    if not stream:
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content
    deltas = [chunk["choices"][0]["delta"] for chunk in events(answer) if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def responses(harness: Harness, stream: bool) -> str:
    answer = await post(harness, "/v1/responses", responses_body(mirl=MIRL, stream=stream))
    if stream:
        stream_events = named_events(answer.text)
        return "".join(
            event["delta"] for event in stream_events if event["type"] == "response.output_text.delta"
        )
    (message,) = [item for item in answer.json()["output"] if item["type"] == "message"]
    text: str = message["content"][0]["text"]
    return text


async def messages(harness: Harness, stream: bool) -> str:
    answer = await post(harness, "/v1/messages", messages_body(mirl=MIRL, stream=stream, max_tokens=2000))
    if stream:
        deltas = [
            event["delta"] for event in named_events(answer.text) if event["type"] == "content_block_delta"
        ]
        return "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")
    (text,) = [block["text"] for block in answer.json()["content"] if block["type"] == "text"]
    return str(text)


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("ask", [chat, responses, messages])
async def test_the_answer_is_one_chain_s_text(
    ask: Callable[[Harness, bool], Any], stream: bool, kind: str
) -> None:
    harness, answers = chains(kind)
    assert len(answers) == 4
    assert await ask(harness, stream) in answers
    assert harness.engine.running == 0


async def test_json_without_a_requested_form_is_text() -> None:
    """Its layout, number formats and key order stay as the chain wrote them."""
    harness, answers = chains("JSON")
    content = await chat(harness, stream=False)
    assert content in answers
    assert content != json.dumps(json.loads(content))
