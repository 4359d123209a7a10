"""What holds for every API beside chat: what is gated, handed on, counted, freed; that no field is lost."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_server.apis.messages import request as messages
from mirl_server.apis.responses import request as responses
from mirl_server.apis.translation.fields import Fields
from mirl_server.handling.reading.fields import INERT, REFUSED
from mirl_server.handling.reading.request import ChatRequest
from tests.unit.server.apis.api_cases import BODIES, abandon, image_block, input_image, named_events, post
from tests.unit.server.harness import Build, Harness

PATHS = sorted(BODIES)
FIELDS = {"/v1/messages": messages.FIELDS, "/v1/responses": responses.FIELDS}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "7"}


@pytest.fixture
def handing(server: Harness) -> Harness:
    """A server whose backend has the other APIs too."""

    async def handle(body: dict[str, Any], request: Request) -> Response:
        server.handed.append({**body, "path": request.url.path})
        content = {"metadata": {"model": "x"}, "model": "m"}
        if body.get("stream"):
            return StreamingResponse(
                iter(['data: {"message":{"model":"m"}}\n\n', 'data: {"text":"\\"model\\":"}\n\n'])
            )
        return JSONResponse(content)

    handlers = {"responses": handle, "messages": handle}
    server.app.state.mirl = dataclasses.replace(server.service, handlers=handlers)
    return server


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"input": "hello"}),
        ("/v1/responses", {"input": [USER]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [input_image()]}, ANSWER]}),
        ("/v1/responses", {"input": [{"type": "function_call_output", "output": [input_image()]}]}),
        ("/v1/responses", {"input": []}),
        ("/v1/responses", {"input": [3]}),
        ("/v1/responses", {"model": "lora"}),
        ("/v1/responses", {"model": "unknown"}),
        ("/v1/responses", {"model": 3}),
        ("/v1/messages", {"messages": [USER]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [image_block()]}, ANSWER]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": []}, image_block()]}]}),
        ("/v1/messages", {"messages": "hello"}),
        ("/v1/messages", {"messages": []}),
        ("/v1/messages", {"model": "lora"}),
        ("/v1/messages", {"model": "unknown:direct", "mirl": None}),
    ],
)  # fmt: skip
async def test_everything_else_is_handed_on_untouched(
    handing: Harness, path: str, fields: dict[str, Any]
) -> None:
    body = BODIES[path](**fields, frob={"any": "thing"})
    assert (await post(handing, path, body)).status_code == 200
    name = body["model"]
    expected = {
        **body,
        "path": path,
        "model": name.removesuffix(":direct") if isinstance(name, str) else name,
    }
    del expected["mirl"]
    assert handing.handed == [expected]
    assert handing.engine.calls == []


@pytest.mark.parametrize("path", PATHS)
async def test_direct_is_handed_on_and_answers_by_its_own_name(handing: Harness, path: str) -> None:
    body = BODIES[path](model="m:direct", tools=[{"name": "f"}])
    del body["mirl"]
    whole = await post(handing, path, body)
    # The caller's own labels stay as they are.
    assert whole.json() == {"metadata": {"model": "x"}, "model": "m:direct"}
    streamed = await post(handing, path, {**body, "stream": True})
    assert streamed.text == 'data: {"message":{"model":"m:direct"}}\n\ndata: {"text":"\\"model\\":"}\n\n'
    assert [sent["model"] for sent in handing.handed] == ["m", "m"]


@pytest.mark.parametrize("path", PATHS)
async def test_knobs_and_keys_are_as_for_chat(handing: Harness, path: str) -> None:
    text = {"input": "hi"} if path == "/v1/responses" else {"messages": [USER]}
    assert (await post(handing, path, BODIES[path](**text, mirl={"kep": 1}))).status_code == 400
    for key in ("Bearer one", "Bearer two"):
        await post(handing, path, BODIES[path](**text), authorization=key)
    salts = [sent["cache_salt"] for sent in handing.handed]
    assert salts[0] != salts[1]


@pytest.mark.parametrize("path", PATHS)
async def test_a_backend_without_the_api_says_so(server: Harness, path: str) -> None:
    response = await post(server, path, BODIES[path](model="m:direct", mirl=None))
    assert response.status_code == 400
    assert "/v1/chat/completions" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_frees_the_engine(build: Build, path: str, stream: bool) -> None:
    harness = build(FakeEngine([FakeText("a b c</description>", delay=30)]))
    sent = await abandon(harness, path, BODIES[path](stream=stream, mirl={"descriptions": 3}), running=3)
    assert harness.engine.running == 0
    assert harness.metric("mirl_requests_total", outcome="cancelled") == 1
    assert bool(sent and sent[0]["status"] == 200) is stream


async def test_silence_is_bridged_in_each_apis_way(build: Build) -> None:
    slow = FakeEngine([FakeText("a</description>", delay=0.1)])
    harness = build(slow, keep_alive=0.02)
    assert (
        ": keep-alive\n\n"
        in (await post(harness, "/v1/responses", BODIES["/v1/responses"](stream=True))).text
    )
    events = named_events((await post(harness, "/v1/messages", BODIES["/v1/messages"](stream=True))).text)
    assert {"type": "ping"} in events
    assert events[-1] == {"type": "message_stop"}


@pytest.mark.parametrize("path", PATHS)
async def test_requests_are_counted_and_without_an_engine_refused(build: Build, path: str) -> None:
    harness = build()
    assert (await post(harness, path, BODIES[path]())).status_code == 200
    assert harness.metric("mirl_requests_total", outcome="answered") == 1
    assert (await post(build(with_engine=False), path, BODIES[path]())).status_code == 503


def sdk_fields(path: str) -> set[str]:
    from anthropic.resources.messages import AsyncMessages
    from openai.resources.responses import AsyncResponses

    call = AsyncResponses.create if path == "/v1/responses" else AsyncMessages.create
    transport = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    return set(inspect.signature(call).parameters) - transport


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_the_sdks_call_has_its_place(path: str) -> None:
    assert sdk_fields(path) - FIELDS[path].names() == set()


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_vllms_request_has_its_place(path: str) -> None:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    model = ResponsesRequest if path == "/v1/responses" else AnthropicMessagesRequest
    assert set(model.model_fields) - FIELDS[path].names() == set()


def test_vllms_defaults_ask_for_nothing() -> None:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    # OpenAI's default is to store, which nothing here does; spelling it out gets a refusal.
    spelled = ResponsesRequest(input="x").model_dump(mode="json") | BODIES["/v1/responses"](store=False)
    assert responses.ResponsesApi(spelled).read_request()
    spelled = AnthropicMessagesRequest(model="m", messages=[], max_tokens=1).model_dump(mode="json")
    assert messages.MessagesApi(spelled | BODIES["/v1/messages"]()).read_request()


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_places_do_not_overlap_and_chat_has_what_it_is_handed(fields: Fields) -> None:
    tables = [fields.own, fields.same, fields.renamed.keys(), fields.refused.keys(), fields.inert]
    assert sum(map(len, tables)) == len(fields.names())
    chat = set(ChatRequest.model_fields) | set(REFUSED) | set(INERT)
    assert (fields.same | set(fields.renamed.values())) - chat == set()


def test_openapi_documents_the_requests(server: Harness) -> None:
    document = server.app.openapi()
    assert "descriptions" in document["components"]["schemas"]["MIRLOptions"]["properties"]
    for path in PATHS:
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"]["mirl"] == {"$ref": "#/components/schemas/MIRLOptions"}
        assert set(schema["required"]) <= set(schema["properties"])
        assert {"400", "404", "413", "500", "503", "504"} <= set(operation["responses"])
