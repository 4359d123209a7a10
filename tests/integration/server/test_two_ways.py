"""A real `mirl-serve` answers alike on both ways, and never a second time what it failed at first.

vLLM's front end and its engine each cache pictures. What is rendered and does not reach the engine must not
leave the two apart: the next request with the same picture would be a 500, and the one after it an answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.helpers.image_requests import image_part
from tests.helpers.servers import NAME, RunningServer
from tests.load.raw import connect, drop

DIRECT = f"{NAME}:direct"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SMALL = {"descriptions": 1, "keep": 1, "forks": 1, "description_tokens": 8}
PICTURES = count(1000)
"""Seeds of pictures that no other test sends."""
LONG = "seven " * 20_000


def url(seed: int) -> str:
    picture: str = image_part(seed)["image_url"]["url"]
    return picture


def chat(picture: int, text: str = "x", model: str = DIRECT, **fields: Any) -> tuple[str, dict[str, Any]]:
    parts = [image_part(picture), {"type": "text", "text": text}]
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 4}
    return CHAT, body | ({"mirl": SMALL} if model == NAME else {}) | fields


def with_part(seed: int, *parts: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"model": DIRECT, "messages": [{"role": "user", "content": [image_part(seed), *parts]}]}


def responses(picture: int, text: str = "x", **fields: Any) -> tuple[str, dict[str, Any]]:
    parts = [{"type": "input_image", "image_url": url(picture)}, {"type": "input_text", "text": text}]
    return RESPONSES, {
        "model": DIRECT,
        "input": [{"role": "user", "content": parts}],
        "max_output_tokens": 4,
    } | fields


def messages(
    picture: int, text: str = "x", path: str = MESSAGES, **fields: Any
) -> tuple[str, dict[str, Any]]:
    source = {"type": "base64", "media_type": "image/png", "data": url(picture).partition(",")[2]}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": text}]
    return path, {"model": DIRECT, "messages": [{"role": "user", "content": parts}], "max_tokens": 4} | fields


WAYS: tuple[Callable[[int], tuple[str, dict[str, Any]]], ...] = (
    chat, responses, messages, lambda seed: chat(seed, model=NAME), lambda seed: chat(seed, stream=True),
)  # fmt: skip
Made = Callable[[int], tuple[str, dict[str, Any]]]
EARLY: dict[str, Made] = {
    "counted": lambda seed: messages(seed, path="/v1/messages/count_tokens"),
    "tokenized": lambda seed: ("/tokenize", chat(seed, model=NAME)[1] | {"mirl": None}),
    "too long": lambda seed: chat(seed, LONG),
    "too long, Responses": lambda seed: responses(seed, LONG),
    "too long, Messages": lambda seed: messages(seed, LONG),
    "too long, gated": lambda seed: chat(seed, LONG, NAME),
    "a stream too long": lambda seed: chat(seed, LONG, stream=True),
    "a temperature below zero": lambda seed: chat(seed, temperature=-1),
    "a top_p over one": lambda seed: chat(seed, top_p=7),
    "a token that is none": lambda seed: chat(seed, logit_bias={"99999999": 1}),
    "allowed tokens that are none": lambda seed: chat(seed, allowed_token_ids=[99999999]),
    "no allowed tokens": lambda seed: chat(seed, allowed_token_ids=[]),
    "stop tokens that are none": lambda seed: chat(seed, stop_token_ids=[-5]),
    "more tokens at least than at most": lambda seed: chat(seed, min_tokens=9),
    "too many logprobs": lambda seed: chat(seed, logprobs=True, top_logprobs=5000),
    "logprobs of the prompt": lambda seed: chat(seed, prompt_logprobs=5000),
    "a priority": lambda seed: chat(seed, priority=3),
    "a pattern that is none": lambda seed: chat(seed, structured_outputs={"regex": "("}),
    "a grammar that is none": lambda seed: chat(seed, structured_outputs={"grammar": "root ::= ("}),
    "a schema that is none": lambda seed: chat(seed, structured_outputs={"json": {"type": "no"}}),
    "a tag that is none": lambda seed: chat(seed, structured_outputs={"structural_tag": "{}"}),
    "empty bad words": lambda seed: chat(seed, bad_words=[""]),
    "no answers": lambda seed: chat(seed, n=0),
    "too many answers": lambda seed: chat(seed, n=10**6),
    "an unknown model": lambda seed: chat(seed, model="nobody"),
    "a penalty, Responses": lambda seed: responses(seed, repetition_penalty=-1),
    "a temperature, Messages": lambda seed: messages(seed, temperature=-1),
    "a second picture that is none": lambda seed: with_part(
        seed, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
    "a second picture by URL": lambda seed: with_part(
        seed, {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}),
    "nine pictures": lambda seed: with_part(seed, *[image_part(seed + 1)] * 8),
    "a placeholder too many": lambda seed: chat(seed, "<image> <|image_pad|> <|image|>"),
}  # fmt: skip
"""Requests that are, or may be, answered before they reach the engine."""


def ask(server: RunningServer, made: tuple[str, dict[str, Any]]) -> httpx.Response:
    path, body = made
    return httpx.post(f"{server.url}{path}", json=body, timeout=120)


def check_answers(server: RunningServer, seed: int, order: random.Random) -> None:
    """The same picture is answered on every way, at the first try."""
    for way in order.sample(WAYS, len(WAYS)):
        response = ask(server, way(seed))
        assert response.status_code == 200, response.text
        assert '"error"' not in response.text


@pytest.mark.parametrize("name", EARLY)
def test_what_never_reaches_the_engine_spoils_nothing(server: RunningServer, name: str) -> None:
    seed, order = next(PICTURES), random.Random(name)
    for _ in range(2):
        early = ask(server, EARLY[name](seed))
        assert early.status_code < 500, early.text
        check_answers(server, seed, order)


@pytest.mark.parametrize("model", [NAME, DIRECT])
def test_clients_that_leave_while_it_renders(server: RunningServer, model: str) -> None:
    seed = next(PICTURES)
    # A hundred pictures of other seeds keep the renderer busy, so that it is rendering or has yet to.
    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(ask, server, chat(next(PICTURES))) for _ in range(16)]
        for how in ("close", "reset") * 4:
            path, body = chat(seed, model=model)
            drop(connect(server, body, path), how)
        assert {future.result().status_code for future in busy} == {200}
    check_answers(server, seed, random.Random(model))


def test_refused_and_answered_at_the_same_time(server: RunningServer) -> None:
    """Requests with the same new picture overtake one another on their way to the engine."""
    seeds = [next(PICTURES) for _ in range(3)]
    names = [name for name in EARLY if "model" not in name]
    chance = random.Random(3)
    made = [(True, chance.choice(WAYS)(chance.choice(seeds))) for _ in range(40)]
    made += [(False, EARLY[chance.choice(names)](chance.choice(seeds))) for _ in range(40)]
    chance.shuffle(made)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda request: (request[0], ask(server, request[1])), made))
    for good, response in answers:
        assert response.status_code < 500, response.text
        assert not good or response.status_code == 200, response.text


def follow_up(api: str, part: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the path, a first turn with the part, and a textual turn behind it."""
    path, body = {"chat": chat, "responses": responses, "messages": messages}[api](0)
    field = "input" if api == "responses" else "messages"
    body = body | {"model": NAME, "mirl": SMALL}
    first = {"role": "user", "content": [part, body[field][0]["content"][1]]}
    later = [first, {"role": "assistant", "content": "7"}, {"role": "user", "content": "sure?"}]
    return path, body | {field: [first]}, body | {field: later}


URL = url(1)
HEADS = tuple(f"data:{kind};base64," for kind in ("image", "application/octet-stream", "image/*", ""))
DATA = URL.partition(",")[2]
FIRST: list[tuple[str, Any]] = [
    ("chat", {"type": "image_url", "image_url": {"url": URL, "detail": None}}),
    ("chat", {"type": "image_url", "image_url": {"url": URL, "detail": "original"}}),
    *(("chat", {"type": "image_url", "image_url": {"url": head + DATA}}) for head in HEADS),
    ("chat", {"type": "image_url", "image_url": URL}),
    ("chat", {"type": "input_image", "image_url": URL}),
    ("chat", {"image_url": {"url": URL}}),
    ("responses", {"type": "input_image", "image_url": URL, "detail": None}),
    *(("responses", {"type": "input_image", "image_url": head + DATA}) for head in HEADS),
    ("messages", {"type": "image", "source": {"type": "base64", "media_type": "image/*", "data": DATA}}),
    ("messages", {"type": "image", "source": {"type": "base64", "media_type": None, "data": DATA}}),
    ("messages", {"type": "image", "cache_control": None, "id": 3,
                  "source": {"type": "base64", "media_type": "application/octet-stream", "data": DATA}}),
]  # fmt: skip


@pytest.mark.parametrize(("api", "part"), FIRST)
def test_what_was_answered_is_taken_as_history(server: RunningServer, api: str, part: Any) -> None:
    path, first, later = follow_up(api, part)
    for body in (first, later, first | {"model": DIRECT, "mirl": None}):
        response = ask(server, (path, body))
        assert response.status_code == 200, response.text


def test_a_picture_in_an_earlier_result_of_a_tool(server: RunningServer) -> None:
    picture = messages(1)[1]["messages"][0]["content"][0]
    turns: list[Any] = [
        {"role": "user", "content": "Read a.png"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Read", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [picture]}]},
        {"role": "assistant", "content": "A red 3."},
    ]
    for last in ([picture, {"type": "text", "text": "And this?"}], "Sure?"):
        for model in (NAME, DIRECT):
            body = {"model": model, "max_tokens": 8, "messages": [*turns, {"role": "user", "content": last}]}
            response = ask(server, (MESSAGES, body | ({"mirl": SMALL} if model == NAME else {})))
            assert response.status_code == 200, response.text


ROW = {"type": "object", "properties": {"row": {"type": "integer", "minimum": 0, "maximum": 9}},
       "required": ["row"], "additionalProperties": False}  # fmt: skip
TOOLS: list[Any] = [
    {"type": "object", "properties": {"source": ROW, "target": {"$ref": "#/properties/source"}},
     "required": ["source", "target"], "additionalProperties": False},
    {"type": "object", "definitions": {"C": {"type": "integer", "minimum": 0, "maximum": 9}},
     "properties": {"source": {"$ref": "#/definitions/C"}}, "required": ["source"],
     "additionalProperties": False},
]  # fmt: skip


@pytest.mark.parametrize("parameters", TOOLS)
@pytest.mark.parametrize("model", [NAME, DIRECT])
def test_answers_follow_references(server: RunningServer, parameters: Any, model: str) -> None:
    """Calls of the gate, and JSON of both ways; vLLM's own calls need a parser, which this server has not."""
    tools = [{"type": "function", "function": {"name": "fill", "parameters": parameters}}]
    schema = {"type": "json_schema", "json_schema": {"name": "fill", "schema": parameters}}
    forms: list[dict[str, Any]] = [{"response_format": schema}]
    forms += [{"tools": tools, "tool_choice": "required"}] if model == NAME else []
    for form in forms:
        response = ask(server, chat(1, model=model, max_tokens=200, seed=1, **form))
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        if choice["finish_reason"] == "length":
            continue  # weights that end no answer
        calls = choice["message"].get("tool_calls")
        text = calls[0]["function"]["arguments"] if calls else choice["message"]["content"]
        assert Draft202012Validator(parameters).is_valid(json.loads(text)), text


SCHEMAS: dict[str, Any] = {
    "itself": {"$ref": "#"}, "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "nowhere": {"$ref": "#/$defs/x"}, "another document": {"$ref": "https://x.example/a.json"},
    "no type": {"type": "no"}, "no pattern": {"type": "string", "pattern": "([a-z"},
    "a look behind": {"type": "string", "pattern": "(?<=a)b"},
    "a multiple": {"type": "integer", "multipleOf": 7},
    "no range": {"type": "integer", "minimum": 5, "maximum": 1},
    "two at once": {"allOf": [{"type": "string"}, {"minLength": 1}]},
    "no object": {"type": "object", "properties": [1]}, "an empty enum": {"enum": []},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_refused_alike_and_in_plain_words(server: RunningServer, name: str) -> None:
    schema = SCHEMAS[name]
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"structured_outputs": {"json": schema}},
        {"tools": [tool], "tool_choice": "required"},
    ):
        text = chat(1, model=NAME, **fields)[1] | {"messages": [{"role": "user", "content": "x"}]}
        answers = [ask(server, made) for made in (
            chat(1, model=NAME, **fields), chat(1, **fields), (CHAT, text),
        )]  # fmt: skip
        assert [response.status_code for response in answers] == [400] * 3, [
            response.text for response in answers
        ]
        assert answers[0].json() == answers[1].json() == answers[2].json()
        error = answers[0].json()["error"]
        assert error["param"] == next(iter(fields))
        assert error["message"].startswith(f"{error['param']}: ")
        for word in (".cc", ".h:", "/project", "[", "Traceback"):
            assert word not in error["message"]


def test_request_lines_and_marks(server: RunningServer) -> None:
    for path in ("/ready", "/health", "/v1/models", f"/v1/models/{NAME}", "/metrics", "/version"):
        for method in ("GET", "HEAD"):
            for form in (path, f"{path}/"):
                response = httpx.request(method, f"{server.url}{form}", timeout=30)
                assert response.status_code == 200, (method, form)
                assert (response.content == b"") is (method == "HEAD" or path in ("/ready", "/health"))
    body = json.dumps(chat(1, model=NAME, verbosity="medium", service_tier="auto", store=False)[1])
    headers = {"content-type": "application/json"}
    for encoding in ("utf-8-sig", "utf-16"):
        for path in (CHAT, f"{CHAT}/"):
            response = httpx.post(
                f"{server.url}{path}", content=body.encode(encoding), headers=headers, timeout=60
            )
            assert response.status_code == 200, response.text


def test_errors_quote_no_picture(server: RunningServer) -> None:
    wrong: dict[str, Any] = {"type": "image_url", "image_url": {"url": URL, "detail": "low"}, "x": 1}
    for content in (
        [{**wrong, "image_url": [URL]}],
        [{**wrong, "image_url": {"url": [URL]}}],
        [wrong, 3],
        [[wrong]],
    ):
        for path, field in (
            (CHAT, "messages"),
            (RESPONSES, "input"),
            (MESSAGES, "messages"),
            ("/tokenize", "messages"),
        ):
            body = {"model": NAME if path == "/tokenize" else DIRECT, "max_tokens": 4}
            response = ask(server, (path, body | {field: [{"role": "user", "content": content}]}))
            assert 400 <= response.status_code < 500, response.text
            for start in range(0, len(DATA) - 16, 7):
                assert DATA[start : start + 16] not in response.text
