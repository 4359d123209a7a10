"""Every field with every value that the gate takes: vLLM's models take it in the form that is handed on."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from mirl_core.errors import RequestError
from mirl_server.apis.chat.request import ChatApi
from mirl_server.apis.messages.request import FIELDS as MESSAGES_FIELDS
from mirl_server.apis.messages.request import MessagesApi
from mirl_server.apis.responses.request import FIELDS as RESPONSES_FIELDS
from mirl_server.apis.responses.request import ResponsesApi
from mirl_server.handling.api import Api
from mirl_server.handling.context import add_salt
from mirl_server.handling.reading.fields import INERT, REFUSED
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.http.error_words import clean
from tests.hostile.fields import VALUES
from tests.unit.server.harness import data_url, make_harness

URL = data_url()
CHAT_FIELDS = frozenset({*ChatRequest.model_fields, *REFUSED, *INERT})
PART: dict[str, Any] = {
    "chat": {"type": "image_url", "image_url": {"url": URL}},
    "responses": {"type": "input_image", "image_url": URL},
    "messages": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": URL[22:]}},
}
APIS: Mapping[str, tuple[type[Api], frozenset[str], str]] = {
    "chat": (ChatApi, CHAT_FIELDS, "messages"),
    "responses": (ResponsesApi, RESPONSES_FIELDS.names(), "input"),
    "messages": (MessagesApi, MESSAGES_FIELDS.names(), "messages"),
}
EFFORTS = (None, "none", "minimal", "low", "medium", "high", "xhigh", "max")
NULLS = {"description": None, "strict": None}
# Values of the right form, and nulls inside of them.
MORE: Mapping[str, tuple[Any, ...]] = {
    "tools": (
        [{"type": "function", "function": {"name": "f"}}],
        [{"type": "function", "function": {"name": "f", "parameters": None, **NULLS}}],
        [{"type": "function", "name": "f"}], [{"type": "function", "name": "f", "parameters": None, **NULLS}],
        [{"name": "f"}], [{"name": "f", "input_schema": {}}],
        [{"name": "f", "input_schema": None, "type": "custom", "cache_control": None, **NULLS}],
        [{"name": "f", "defer_loading": False}],
    ),
    "tool_choice": ("auto", "none", {"type": "auto"}, {"type": "none"},
                    {"type": "auto", "disable_parallel_tool_use": None}),
    "response_format": (
        {"type": "text"}, {"type": "text", "json_schema": None}, {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"schema": {}}},
        {"type": "json_schema", "json_schema": {"schema": {}, "name": None, **NULLS}},
    ),
    "structured_outputs": ({"json": {}}, {"json_object": True}, {"choice": ["a"], "json": None}),
    "stream_options": ({}, {"include_usage": None}, {"include_usage": False}),
    "reasoning_effort": EFFORTS,
    "reasoning": ({}, *({"effort": effort} for effort in EFFORTS), {"summary": 3}, {"summary": "auto"}),
    "text": (
        {}, {"format": None}, {"format": {"type": "text"}}, {"format": {"type": "json_object"}},
        {"format": {"type": "json_schema", "schema": {}}}, {"verbosity": "medium"}, {"verbosity": None},
        {"format": {"type": "json_schema", "schema": {}, "name": None, "strict": None}},
    ),
    "output_config": (
        {}, *({"effort": effort} for effort in EFFORTS), {"format": None},
        {"format": {"type": "json_schema", "schema": {}}},
        {"format": {"type": "json_schema", "schema": {}, "name": "x"}},
    ),
    "thinking": (
        {"type": "enabled"}, {"type": "enabled", "budget_tokens": None},
        {"type": "disabled", "display": None},
        {"type": "adaptive", "display": "omitted", "budget_tokens": None},
    ),
    "metadata": ({"a": 1}, {"a": "b"}, {}),
    "system": ("", [], [{"type": "text", "text": "x", "cache_control": None}],
               [{"type": "text", "text": None, "source": 3}]),
    "stop": ("x", ["x", "y"]), "stop_sequences": ("x", ["x"]), "modalities": (["text"],),
    "service_tier": ("auto", "default", "standard_only"), "verbosity": ("medium",),
    "function_call": ("none",),
    "truncation": ("disabled",), "mm_payload": ("tensors",), "speed": ("standard",), "model": (None, ""),
    "cache_salt": ("a/b", "@", "x" * 129, "é"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), (10**6, 2**62)),
}  # fmt: skip


@pytest.mark.parametrize("name", APIS)
def test_every_value_that_the_gate_takes(name: str) -> None:
    from mirl_server.vllm import endpoints

    model = {
        "chat": endpoints.ChatCompletionRequest, "responses": endpoints.ResponsesRequest,
        "messages": endpoints.AnthropicMessagesRequest,
    }[name]  # fmt: skip
    api_class, fields, turns = APIS[name]
    service, taken = make_harness().service, 0
    for field in sorted(fields - {turns, "mirl"}):
        for value in (None, *VALUES, *MORE.get(field, ())):
            picture = {"role": "user", "content": [PART[name]]}
            body: dict[str, Any] = {"model": "m", turns: [picture]}
            body |= {"max_tokens": 9} if name == "messages" else {}
            body[field] = value
            try:
                api_class(deepcopy(body)).read_request()
            except RequestError:
                continue
            taken += 1
            api = api_class(deepcopy(body))
            add_salt(api.body, None)
            api.fit_to_backend(service)
            endpoints._parsed(api.body, model)
    assert taken > 300


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [], "n": "x"}, "n"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": 3, "content": URL}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": [URL]}]}]}, None),
        ({"messages": [], "user": 3, "n": "x"}, "n"),
    ],
)
def test_refusals_name_the_field_and_quote_nothing(body: dict[str, Any], param: str | None) -> None:
    from pydantic import ValidationError

    from mirl_server.vllm import endpoints

    with pytest.raises(ValidationError) as caught:
        _whole(endpoints._parsed(body, endpoints.ChatCompletionRequest).messages)
    refusal = endpoints._refusal(caught.value)
    assert param is None or (refusal.param, refusal.message.partition(":")[0]) == (param, param)
    assert len(refusal.message) < 300
    assert URL[30:60] not in refusal.message
    # What vLLM itself says of it, in a handler or by its app, is cleaned on its way out.
    assert URL[-12:] not in clean(str(caught.value))


def _whole(messages: Any) -> Any:
    """Read messages to their end: pydantic checks parts as they are read."""
    return [list(message["content"]) for message in messages]


def test_labels_of_any_type_pass() -> None:
    from mirl_server.vllm import endpoints

    body = {"messages": [], "user": 3, "session_id": [], "prompt_cache_key": {}}
    assert endpoints._parsed(body, endpoints.ChatCompletionRequest).user is None
