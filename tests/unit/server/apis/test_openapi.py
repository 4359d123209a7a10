"""What /openapi.json promises: examples that are answered, answers that fit, statuses that can come."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, ValidationError

from mirl_core.engines.base import error_from_vllm
from mirl_core.errors import ContextLengthError, RequestError
from mirl_server.apis.openapi import OpenAIErrorBody
from mirl_server.http.errors import error_body
from tests.unit.server.harness import Harness

PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/mirl/score",
    "/v1/mirl/describe",
)
JSON, EVENTS = "application/json", "text/event-stream"
GUARDED = {"400", "401", "404", "408", "413", "429", "500", "503"}
"""What can refuse any request to the model."""


def operation(document: dict[str, Any], path: str) -> dict[str, Any]:
    (entry,) = document["paths"][path].values()
    assert isinstance(entry, dict)
    return entry


def check(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    rooted = schema | {"components": document["components"]}
    Draft202012Validator(rooted).validate(value)


@pytest.mark.parametrize("path", PATHS)
async def test_examples_fit_and_are_answered_as_documented(server: Harness, path: str) -> None:
    document = server.app.openapi()
    documented = operation(document, path)
    body = documented["requestBody"]["content"]["application/json"]
    check(document, body["schema"], body["example"])
    # The fake engine's model has another name, and knows two descriptions alone.
    example = body["example"] | {"model": "m"}
    if "descriptions" in example:
        example["descriptions"] = ["a red seven", "a red one"]
    async with server.client() as client:
        response = await client.post(path, json=example)
    assert response.status_code == 200, response.text
    check(document, answers(documented, 200), response.json())
    assert set(documented["responses"]) >= {"200"} | GUARDED


@pytest.mark.parametrize(
    ("path", "statuses", "types"),
    [
        *((path, {"200", "501", "504"} | GUARDED, {JSON, EVENTS}) for path in PATHS[:3]),
        ("/v1/mirl/score", {"200"} | GUARDED, {JSON}),
        ("/v1/mirl/describe", {"200", "504"} | GUARDED, {JSON}),
        ("/v1/models", {"200", "401", "408", "413"}, {JSON}),
        ("/v1/models/{model}", {"200", "401", "404", "408", "413"}, {JSON}),
        ("/ready", {"200", "408", "413", "503"}, set()),
    ],
)
def test_every_status_and_type_that_can_come_is_documented(
    server: Harness, path: str, statuses: set[str], types: set[str]
) -> None:
    document = server.app.openapi()
    responses = operation(document, path)["responses"]
    assert set(responses) == statuses
    assert set(responses["200"].get("content", ())) == types
    error = "AnthropicErrorBody" if path == "/v1/messages" else "OpenAIErrorBody"
    for status in statuses - {"200"}:
        assert responses[status]["content"][JSON]["schema"] == {"$ref": f"#/components/schemas/{error}"}
        assert responses[status]["description"]


@pytest.mark.parametrize("path", PATHS[:3])
async def test_every_event_of_a_stream_is_as_documented(server: Harness, path: str) -> None:
    document = server.app.openapi()
    documented = operation(document, path)
    example = documented["requestBody"]["content"][JSON]["example"] | {"model": "m", "stream": True}
    async with server.client() as client:
        response = await client.post(path, json=example)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    data = event_data(documented)
    if path == PATHS[0]:
        assert lines.pop() == data["anyOf"][0]["const"]
        data = data["anyOf"][1]
    # Other names than those of the schema are refused in stages, where the client's types come from it.
    stages = [event["mirl"] for event in map(json.loads, lines) if "mirl" in event]
    assert {"started", "described", "gated", "chain", "decided"} <= {stage.get("event") for stage in stages}
    event_schema = component(document, data["contentSchema"]["anyOf"][0])
    variants = [component(document, variant) for variant in event_schema["properties"]["mirl"]["anyOf"]]
    for variant in variants:
        variant["additionalProperties"] = False
    for line in lines:
        check(document, data["contentSchema"], json.loads(line))


async def test_the_error_that_ends_a_stream_is_as_documented(server: Harness) -> None:
    document = server.app.openapi()
    schema = event_data(operation(document, PATHS[0]))["anyOf"][1]["contentSchema"]
    check(document, schema, error_body(RequestError("no", param="mirl")))
    with pytest.raises(ValidationError):
        check(document, schema, {"id": "1", "mirl": {"event": "started"}})


def component(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the component that a schema refers to; the schema itself where it refers to none."""
    name = schema.get("$ref", "").rpartition("/")[2]
    named: dict[str, Any] = document["components"]["schemas"][name] if name else schema
    return named


def event_data(documented: dict[str, Any]) -> dict[str, Any]:
    schema = documented["responses"]["200"]["content"][EVENTS]["itemSchema"]["properties"]["data"]
    assert isinstance(schema, dict)
    return schema


def answers(documented: dict[str, Any], status: int) -> dict[str, Any]:
    schema: dict[str, Any] = documented["responses"][str(status)]["content"]["application/json"]["schema"]
    return schema


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [{}, {"messages": 3, "input": 3}, {"frob": 1}])
async def test_refusals_are_as_documented(server: Harness, path: str, body: dict[str, Any]) -> None:
    document = server.app.openapi()
    example = operation(document, path)["requestBody"]["content"]["application/json"]["example"]
    async with server.client() as client:
        response = await client.post(path, json=example | {"model": "m"} | body | {"mirl": {"frob": 1}})
    assert response.status_code == 400, response.text
    check(document, answers(operation(document, path), 400), response.json())


async def test_models_are_as_documented(server: Harness) -> None:
    document = server.app.openapi()
    documented = operation(document, "/v1/models/{model}")
    assert [parameter["name"] for parameter in documented["parameters"]] == ["model"]
    # Nothing here is ever a 422, which FastAPI documents for whatever it reads itself.
    for path in document["paths"]:
        assert "422" not in operation(document, path)["responses"], path
    async with server.client() as client:
        missing: httpx.Response = await client.get("/v1/models/nobody")
        assert (await client.get("/v1/models/m")).status_code == 200
    assert missing.status_code == 404
    check(document, answers(documented, 404), missing.json())
    OpenAIErrorBody.model_validate(missing.json())


def test_prompts_that_are_too_long_are_known_by_vllms_words() -> None:
    error = error_from_vllm("This model's maximum context length is 8 tokens. However, you …", "messages")
    assert isinstance(error, ContextLengthError)
    assert error.param == "messages"
    # langchain-openai looks for these words, litellm for vLLM's own.
    assert error.message.startswith("the prompt is too long: This model's maximum context length is 8")
    assert type(error_from_vllm("temperature must be positive", None)) is RequestError
