"""Requests of chat pages: pictures are gated; titles, tags and follow-ups go through plain.

The shapes are those of Open WebUI (`backend/open_webui/routers/tasks.py`) and LibreChat (`src/utils/title.ts`
of its package `agents`); docs/serving.md has the settings of both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.helpers.image_requests import image_part
from tests.helpers.servers import NAME, RunningServer

Json = dict[str, Any]
QUESTION = "What is the sum of all digits?"
HISTORY = f"<chat_history>\nUSER: {QUESTION}\nASSISTANT: 12\n</chat_history>"
OPEN_WEBUI = {
    "title": (f'### Task:\nName this chat in 3-5 words.\n### Output:\n{{ "title": "…" }}\n{HISTORY}', 1000),
    "tags": (f'### Task:\nName 1-3 themes.\n### Output:\n{{ "tags": ["…"] }}\n{HISTORY}', None),
    "follow-ups": (
        f'### Task:\nSuggest 3-5 questions.\n### Output:\n{{ "follow_ups": ["…"] }}\n{HISTORY}',
        None,
    ),
}
"""Prompt of each task, and its `max_completion_tokens`."""
TITLE: Json = {
    "type": "object",
    "properties": {"title": {"type": "string", "description": "A short title"}},
    "required": ["title"],
    "additionalProperties": False,
}


def open_webui(task: str, model: str) -> Json:
    prompt, tokens = OPEN_WEBUI[task]
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": False}
    return body if tokens is None else body | {"max_completion_tokens": tokens}


def librechat(method: str, model: str) -> Json:
    prompt = f"Provide a title of five words for the conversation.\n\nConversation:\nUser: {QUESTION}\nAI: 12"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": False,
        "user": "65a1",
        # LibreChat sends none; the digits model would not end a title.
        "max_tokens": 60,
    }
    if method == "completion":
        return body
    schema = {"name": "extract", "schema": TITLE, "strict": True}
    return body | {"response_format": {"type": "json_schema", "json_schema": schema}}


def follow_up(model: str) -> Json:
    """Return a later turn of a chat: the picture stays in the history of both pages."""
    first = [{"type": "text", "text": QUESTION}, image_part()]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": first},
        {"role": "assistant", "content": "12"},
        {"role": "user", "content": "And which digit is the largest?"},
    ]
    return {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}


PLAIN = {
    **{f"Open WebUI, {task}": (open_webui, task) for task in OPEN_WEBUI},
    **{f"LibreChat, title by {method}": (librechat, method) for method in ("completion", "structured")},
}


@pytest.fixture
def gated_requests(server: RunningServer) -> Iterator[None]:
    """Fail where the server has counted a gated request during the test."""
    before = server.gauge("mirl_requests_total")
    yield
    assert server.gauge("mirl_requests_total") == before


def chunks(text: str) -> list[Json]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", [NAME, f"{NAME}:direct"])
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.usefixtures("gated_requests")
def test_tasks_of_a_page_are_plain(server: RunningServer, kind: str, name: str) -> None:
    make, argument = PLAIN[kind]
    response = httpx.post(f"{server.url}/v1/chat/completions", json=make(argument, name), timeout=120)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert "mirl" not in answer
    assert answer["choices"][0]["message"]["content"] is not None
    assert answer["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("name", [NAME, f"{NAME}:direct"])
@pytest.mark.usefixtures("gated_requests")
def test_later_turns_are_plain(server: RunningServer, name: str) -> None:
    response = httpx.post(f"{server.url}/v1/chat/completions", json=follow_up(name), timeout=120)
    assert response.status_code == 200, response.text
    streamed = chunks(response.text)
    assert not [chunk for chunk in streamed if "mirl" in chunk]
    assert streamed[-1]["usage"]["completion_tokens"] > 0


def test_the_turn_with_the_picture_is_gated_for_the_first_name_alone(server: RunningServer) -> None:
    body = follow_up(NAME)
    body["messages"] = body["messages"][:2]
    streamed = chunks(httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).text)
    stages = [chunk["mirl"]["event"] for chunk in streamed if "mirl" in chunk]
    assert (stages[0], stages[-1]) == ("started", "finished")
    # LibreChat and Open WebUI show this as what the model thinks.
    assert [
        chunk
        for chunk in streamed
        if chunk["choices"] and chunk["choices"][0]["delta"].get("reasoning_content")
    ]
    direct = httpx.post(
        f"{server.url}/v1/chat/completions", json=body | {"model": f"{NAME}:direct"}, timeout=120
    )
    assert direct.status_code == 200, direct.text
    assert not [chunk for chunk in chunks(direct.text) if "mirl" in chunk]
