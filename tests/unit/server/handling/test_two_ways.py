"""What one way answers, the other answers: histories, schemas and pictures, gated and plain."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from jsonschema import Draft202012Validator

from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import RequestError
from mirl_server.handling.plain import rename_model
from tests.unit.server.apis.api_cases import SMALL, image_block, messages_body, post, responses_body
from tests.unit.server.harness import Build, Harness, data_url, question

URL = data_url()
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}


def of_all_apis(harness: Harness) -> Harness:
    """Give the harness's backend the handlers of all APIs; what they are handed is recorded."""

    async def handle(body: dict[str, Any], request: Request) -> Response:
        harness.handed.append(body)
        return JSONResponse({"input_tokens": 1})

    handlers = dict.fromkeys(("responses", "messages", "count_tokens"), handle)
    harness.app.state.mirl = dataclasses.replace(harness.service, handlers=handlers)
    return harness


def request_body(api: str, turns: list[Any], **fields: Any) -> dict[str, Any]:
    body = {"chat": {"messages": turns}, "responses": {"input": turns}, "messages": {"messages": turns}}[api]
    return {
        "model": "m",
        "mirl": SMALL,
        **({"max_tokens": 50} if api == "messages" else {}),
        **body,
        **fields,
    }


FIRST_TURNS: dict[str, tuple[str, dict[str, Any], Any]] = {
    # name: the API, the first turn, and how its part or parts are handed on
    "no detail": ("chat", {"type": "image_url", "image_url": {"url": URL, "detail": None}},
                  {"type": "image_url", "image_url": {"url": URL}}),
    "an odd detail": ("chat", {"type": "image_url", "image_url": {"url": URL, "detail": "original"}},
                      {"type": "image_url", "image_url": {"url": URL}}),
    "a known detail": ("chat", {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
                       {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}),
    "a URL alone": ("chat", {"type": "image_url", "image_url": URL}, {"image_url": URL}),
    "another API's part": ("chat", {"type": "input_image", "image_url": URL}, {"image_url": URL}),
    "no type": ("chat", {"image_url": {"url": URL}}, {"image_url": {"url": URL}}),
    "null detail": ("responses", {"type": "input_image", "image_url": URL, "detail": None, "file_id": None},
                    {"type": "input_image", "image_url": URL, "detail": "auto"}),
    "no media type": ("messages", {"type": "image", "source": {"data": URL[22:]}},
                      {"type": "image", "source": {"data": URL[22:]}}),
    "null media type": ("messages", {"type": "image", "source": {"type": "base64", "media_type": None,
                                                                 "data": URL[22:]}},
                        {"type": "image", "source": {"type": "base64", "data": URL[22:]}}),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_TURNS)
async def test_a_turn_that_was_answered_is_history_of_the_next(server: Harness, name: str) -> None:
    of_all_apis(server)
    api, part, fitted = FIRST_TURNS[name]
    first = {"role": "user", "content": [part]}
    assert (await post(server, PATHS[api], request_body(api, [first]))).status_code == 200
    assert server.handed == []
    turns = [first, {"role": "assistant", "content": "7"}, {"role": "user", "content": "sure?"}]
    assert (await post(server, PATHS[api], request_body(api, turns))).status_code == 200
    (handed,) = server.handed
    history = handed["input" if api == "responses" else "messages"]
    assert history == [{"role": "user", "content": [fitted]}, *turns[1:]]


async def test_fields_that_were_answered_are_too(server: Harness) -> None:
    fields = {"tools": [], "tool_choice": "auto", "temperature": None, "max_tokens": 10**6, "store": False}
    assert (await server.ask(**fields)).status_code == 200
    text = [{"role": "user", "content": "sure?"}]
    assert (await server.ask(messages=text, **fields)).status_code == 200
    most = server.engine.max_model_len
    assert server.handed == [{"model": "m", "messages": text, "max_tokens": most, "store": False}]


async def test_a_picture_of_a_tool_goes_through_the_gate(server: Harness) -> None:
    turns = [
        {"role": "user", "content": "Read a.png"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t1", "name": "Read", "input": {"file_path": "a.png"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [
            {"type": "text", "text": "seen"}, image_block(data_url("blue"))]}]},
        {"role": "assistant", "content": "A red 3."},
        {"role": "user", "content": [image_block(data_url("red")), {"type": "text", "text": "And this?"}]},
    ]  # fmt: skip
    response = await post(server, "/v1/messages", messages_body(messages=turns))
    assert response.status_code == 200, response.text
    read = server.engine.rendered[0]
    assert [image.getpixel((0, 0)) for image in read.images] == [(0, 0, 255), (255, 0, 0)]
    assert [message["role"] for message in read.messages] == [
        "user", "assistant", "tool", "user", "assistant", "user",
    ]  # fmt: skip
    assert read.messages[2] == {"role": "tool", "tool_call_id": "t1", "content": "seen"}
    # An error names the block where it was sent.
    turns[2]["content"][0]["content"][1]["source"]["data"] = "AAAA"  # type: ignore[index]
    refused = await post(server, "/v1/messages", messages_body(messages=turns))
    assert refused.json()["error"]["message"].startswith("messages[2].content[0].content[1]")


async def test_a_picture_of_a_function_goes_through_the_gate(server: Harness) -> None:
    picture = {"type": "input_image", "image_url": data_url("blue"), "detail": None}
    items = [
        {"role": "user", "content": "look"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [picture]},
        *responses_body()["input"],
    ]
    response = await post(server, "/v1/responses", responses_body(input=items))
    assert response.status_code == 200, response.text
    assert [image.getpixel((0, 0)) for image in server.engine.rendered[0].images] == [
        (0, 0, 255),
        (255, 0, 0),
    ]


async def test_tokens_are_counted_in_the_form_in_which_they_are_answered(server: Harness) -> None:
    assert (await post(server, "/v1/messages/count_tokens", {})).status_code == 404
    of_all_apis(server)
    block = {"type": "image", "source": {"type": "base64", "media_type": None, "data": URL[22:]}}
    body = {"model": "m:direct", "messages": [{"role": "user", "content": [block]}], "system": None}
    assert (await post(server, "/v1/messages/count_tokens", body)).status_code == 200
    fitted = {"type": "image", "source": {"type": "base64", "data": URL[22:]}}
    assert server.handed == [{"model": "m", "messages": [{"role": "user", "content": [fitted]}]}]
    refused = await post(server, "/v1/messages/count_tokens", {"messages": [{"content": [{"type": 3}]}]})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert server.metric("mirl_refusals_total", reason="invalid_request") == 1


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_plain_forms_schema_gets_a_name(server: Harness, api: str) -> None:
    of_all_apis(server)
    form = {"type": "json_schema", "schema": {"type": "object"}}
    chat = {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}
    fields = chat if api == "chat" else {"text": {"format": form}}
    turns = [{"role": "user", "content": "hi"}]
    assert (await post(server, PATHS[api], request_body(api, turns, **fields))).status_code == 200
    (handed,) = server.handed
    named = handed["response_format"]["json_schema"] if api == "chat" else handed["text"]["format"]
    assert named["name"] == "answer"


async def test_the_models_name_is_replaced_in_every_kind_of_chunk() -> None:
    async def chunks() -> AsyncIterator[str | bytes | memoryview]:
        yield 'data: {"model":"m/1","n":1}'
        yield b'data: {"model":"m/1","n":2}'
        yield memoryview(b'data: {"model":"other","n":3}')

    response = rename_model(StreamingResponse(chunks()), "alias", ["m/1"])
    assert isinstance(response, StreamingResponse)
    assert [chunk async for chunk in response.body_iterator] == [
        'data: {"model":"alias","n":1}',
        'data: {"model":"alias","n":2}',
        'data: {"model":"other","n":3}',
    ]


NOWHERE = {"type": "object", "properties": {"a": {"$ref": "#/$defs/nowhere"}}}
ELSEWHERE = {"$ref": "https://schemas.example/a.json"}


def formed(api: str, schema: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return each field that holds answers to a schema, as errors name it, and the fields."""
    named: dict[str, Any] = {"type": "json_schema", "name": "x", "schema": schema}
    if api == "messages":
        tool = {"name": "f", "input_schema": schema}
        return [
            (
                "output_config.format",
                {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
            ),
            ("tools", {"tools": [tool], "tool_choice": {"type": "any"}}),
            ("tools", {"tools": [tool], "tool_choice": {"type": "tool", "name": "f"}}),
        ]
    if api == "responses":
        tool = {"type": "function", "name": "f", "parameters": schema}
        return [
            ("text.format", {"text": {"format": named}}),
            ("structured_outputs", {"structured_outputs": {"json": schema}}),
            ("tools", {"tools": [tool], "tool_choice": "required"}),
            ("tools", {"tools": [tool], "tool_choice": {"type": "function", "name": "f"}}),
        ]
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    return [
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
        ("structured_outputs", {"structured_outputs": {"json": schema}}),
        ("tools", {"tools": [tool], "tool_choice": "required"}),
        ("tools", {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ]


TURN: dict[str, Any] = {
    "chat": question(), "responses": responses_body()["input"][0], "messages": messages_body()["messages"][0]
}  # fmt: skip


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    "schema", [NOWHERE, ELSEWHERE, {"$defs": [1]}], ids=["nowhere", "elsewhere", "no $defs"]
)
async def test_a_schema_is_refused_alike_on_both_ways(server: Harness, api: str, schema: Any) -> None:
    of_all_apis(server)
    text = {"role": "user", "content": "sure?"}
    for field, fields in formed(api, schema):
        errors = []
        for turns, name in (([TURN[api]], "m"), ([TURN[api]], "m:direct"), ([TURN[api], text], "m")):
            body = request_body(api, turns, model=name, **fields)
            body["mirl"] = None if name == "m:direct" else body["mirl"]
            response = await post(server, PATHS[api], body)
            assert response.status_code == 400
            errors.append(response.json())
        assert errors[0] == errors[1] == errors[2]
        assert field in json.dumps(errors[0])
        assert ("'f'" in json.dumps(errors[0])) is (field == "tools")
    assert server.handed == []
    assert server.engine.calls == []


@pytest.mark.parametrize("api", PATHS)
async def test_what_the_engine_cannot_do_is_refused_alike(build: Build, api: str) -> None:
    harness = of_all_apis(build(FakeEngine(fail_at={"structure": RequestError("the schema is too odd")})))
    for field, fields in formed(api, {"type": "object"}):
        errors = [
            (
                await post(
                    harness, PATHS[api], request_body(api, [TURN[api]], model=name, mirl=None, **fields)
                )
            ).json()
            for name in ("m", "m:direct")
        ]
        assert errors[0] == errors[1]
        assert "too odd" in json.dumps(errors[0])
        assert field in json.dumps(errors[0])
    # Of another backend of vLLM's, the engine's check says nothing.
    harness.app.state.mirl = dataclasses.replace(harness.app.state.mirl, checks_plain_forms=False)
    for _, fields in formed(api, {"type": "object"}):
        body = request_body(api, [TURN[api]], model="m:direct", mirl=None, **fields)
        assert (await post(harness, PATHS[api], body)).status_code == 200


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        ("chat", {"response_format": {"type": "json_schema"}}),
        ("responses", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
        ("messages", {"output_config": {"format": {"type": "json_schema"}}}),
    ],
)
async def test_a_form_without_its_schema_is_refused_alike(
    server: Harness, api: str, fields: dict[str, Any]
) -> None:
    of_all_apis(server)
    for name in ("m", "m:direct"):
        response = await post(
            server, PATHS[api], request_body(api, [TURN[api]], model=name, mirl=None, **fields)
        )
        assert response.status_code == 400
        assert "missing" in response.text
    assert server.handed == []


ROW = {"type": "object", "properties": {"row": DIGIT}, "required": ["row"], "additionalProperties": False}
POINTERS: list[tuple[dict[str, Any], Any, Any]] = [
    # a schema, a value that it takes, one that it refuses
    (
        {"type": "object", "properties": {"source": ROW, "target": {"$ref": "#/properties/source"}}},
        {"target": {"row": 1}}, {"target": {"row": 10}},
    ),
    (
        {"definitions": {"C": DIGIT}, "properties": {"source": {"$ref": "#/definitions/C"}}},
        {"source": 1}, {"source": 10},
    ),
    ({"type": "object", "properties": {"n": {"$ref": "#"}}, "additionalProperties": False},
     {"n": {"n": {}}}, {"n": {"m": {}}}),
    ({"$defs": {"C": DIGIT | {"$anchor": "c"}}, "properties": {"a": {"$ref": "#c"}}}, {"a": 1}, {"a": 10}),
]  # fmt: skip


@pytest.mark.parametrize("api", PATHS)
async def test_the_backend_is_handed_schemas_that_it_can_follow(server: Harness, api: str) -> None:
    of_all_apis(server)
    for schema, takes, refuses in POINTERS:
        for _, fields in formed(api, schema):
            server.handed.clear()
            body = request_body(api, [TURN[api]], model="m:direct", mirl=None, **fields)
            assert (await post(server, PATHS[api], body)).status_code == 200
            (handed,) = (node for node in _schemas(server.handed[0]) if "$defs" in node)
            assert '"$ref": "#/$defs/' in json.dumps(handed)
            assert json.dumps(handed).count('"$ref"') == json.dumps(handed).count('"$ref": "#/$defs/')
            validator = Draft202012Validator(handed)
            assert (validator.is_valid(takes), validator.is_valid(refuses)) == (True, False)


async def test_tools_keep_definitions_apart(server: Harness) -> None:
    """vLLM puts the definitions of all tools into one object, and refuses two of one name."""
    kinds = {"one": {"type": "integer"}, "two": {"type": "string"}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {
            "properties": {"a": {"$ref": "#/$defs/C"}}, "$defs": {"C": kind}}}}
        for name, kind in kinds.items()
    ]  # fmt: skip
    assert (
        await server.ask(model="m:direct", mirl=None, tools=tools, tool_choice="required")
    ).status_code == 200
    schemas = [tool["function"]["parameters"] for tool in server.handed[0]["tools"]]
    assert not set(schemas[0]["$defs"]) & set(schemas[1]["$defs"])
    # Tools that nothing is held to stay as they are: the model reads them.
    await server.ask(model="m:direct", mirl=None, tools=tools)
    assert server.handed[1]["tools"] == tools


def _schemas(node: Any) -> list[dict[str, Any]]:
    """Return every object in a body."""
    if isinstance(node, list):
        return [inner for child in node for inner in _schemas(child)]
    return (
        [node, *(inner for child in node.values() for inner in _schemas(child))]
        if isinstance(node, dict)
        else []
    )


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    ("penalty", "status"),
    [
        (1e-30, 200),
        (1e30, 200),
        (0, 200),
        ("x", 200),
        (5e-324, 400),
        ("9e-31", 400),
        pytest.param(10**400, 400, id="a number that no float holds"),
    ],
)
async def test_a_penalty_of_a_plain_request_keeps_logits_finite(
    server: Harness, api: str, penalty: object, status: int
) -> None:
    of_all_apis(server)
    turns = [{"role": "user", "content": "hi"}]
    body = request_body(api, turns, repetition_penalty=penalty)
    response = await post(server, PATHS[api], body)
    assert response.status_code == status
    if status == 400:
        assert "repetition_penalty must be from 1e-30 to 1e+30" in response.json()["error"]["message"]
        assert not server.handed
    else:
        assert server.handed[0]["repetition_penalty"] == penalty
