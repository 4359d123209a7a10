"""What the gate takes, vLLM's own handlers take in the form in which it is handed to them, and read the same.

Generated turns have every shape that the gate takes: nulls, text of all kinds, no parts, images everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirl_server.apis.chat.request import ChatApi
from mirl_server.apis.messages.request import MessagesApi
from mirl_server.apis.responses.request import ResponsesApi
from mirl_server.handling.api import Api
from mirl_server.handling.reading.messages import read_message
from tests.unit.server.harness import make_harness

SERVICE = make_harness().service
URLS = ("data:image/png;base64,AAAA", "data:image;base64,BBBB", "data:;base64,CCCC")
TEXTS = st.sampled_from(["", "x", "two\nlines", "été"])
CALL = {"name": "f", "arguments": '{"a": 1}'}
Turn = dict[str, Any]


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values).map(deepcopy)


@st.composite
def extended(draw: st.DrawFn, base: st.SearchStrategy[Any], **extra: tuple[Any, ...]) -> Any:
    """Draw an object of `base`, with some of the extra fields and values."""
    drawn = draw(base)
    for name, values in extra.items():
        if name not in drawn and draw(st.booleans()):
            drawn[name] = deepcopy(draw(st.sampled_from(values)))
    return drawn


def text_part(kind: str, name: str = "text") -> st.SearchStrategy[Any]:
    return TEXTS.map(lambda text: {"type": kind, name: text})


def having(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw an object with one field."""
    return values.map(lambda value: {name: value})


# Chat completions.
CHAT_TEXT = extended(
    st.one_of(
        *map(text_part, ("text", "input_text", "output_text")), text_part("refusal", "refusal"),
        text_part("thinking", "thinking"),
    ),
    cache_control=(None, {"type": "ephemeral"}), annotations=(None, []), frob=(1,),
)  # fmt: skip
CHAT_IMAGE = st.one_of(
    st.builds(
        lambda url, detail: {"type": "image_url", "image_url": {"url": url, **detail}},
        one_of(*URLS),
        one_of({}, *({"detail": detail} for detail in (None, "auto", "low", "high", "original", "", 3, {}))),
    ),
    st.builds(lambda kind, url: {**kind, "image_url": url}, one_of({"type": "image_url"}, {}), one_of(*URLS)),
    st.builds(
        lambda url, detail: {"type": "input_image", "image_url": url, **detail},
        one_of(*URLS, {"url": URLS[0]}), one_of({}, {"detail": None}, {"detail": "auto"}, {"detail": "x"}),
    ),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}, "uuid": None}, one_of(*URLS)),
)  # fmt: skip
CHAT_CONTENT = st.one_of(TEXTS, st.lists(st.one_of(CHAT_TEXT, CHAT_IMAGE), max_size=3))
CALLS = st.lists(
    st.builds(
        lambda identity, kind, arguments: {**identity, **kind, "function": {"name": "f", **arguments}},
        one_of({}, {"id": None}, {"id": "c1"}),
        one_of({}, {"type": None}, {"type": "function"}, {"type": "function", "index": 0}),
        one_of(
            {}, *({"arguments": arguments} for arguments in (None, "", "{}", "no JSON", {}, {"a": 1}, [1]))
        ),
    ),
    min_size=1,
    max_size=2,
)
ABSENT = {
    "name": (None, "n"),
    "refusal": (None,),
    "audio": (None,),
    "function_call": (None,),
    "annotations": (None, []),
}
CHAT_TURN = st.one_of(
    extended(
        st.builds(lambda role, content: {"role": role, "content": content},
                  one_of("user", "system", "developer", "tool"), CHAT_CONTENT),
        tool_call_id=(None, "c1"), tools=(None,), **ABSENT,
    ),
    extended(
        st.builds(lambda content, calls: {"role": "assistant", **content, **calls},
                  st.one_of(one_of({}, {"content": None}), having("content", CHAT_CONTENT)),
                  st.one_of(st.just({}), having("tool_calls", st.one_of(st.none(), st.just([]), CALLS)))),
        reasoning=(None, "so"), reasoning_content=(None, "so"), tool_call_id=(None,), **ABSENT,
    ),
)  # fmt: skip

# The Responses API.
INPUT_PART = st.one_of(
    st.builds(lambda kind, text: {"type": kind, "text": text}, one_of("input_text", "output_text"), TEXTS),
    TEXTS.map(lambda text: {"type": "refusal", "refusal": text}),
)
INPUT_IMAGE = extended(
    st.builds(lambda url: {"type": "input_image", "image_url": url}, one_of(*URLS)),
    detail=(None, "auto", "low", "high", "original"), file_id=(None,), frob=(1,),
)  # fmt: skip
ITEM_FIELDS: dict[str, tuple[Any, ...]] = {
    "id": (None, "x", 3),
    "status": (None, "completed", "frob"),
    "phase": (None,),
}
INPUTS = st.lists(st.one_of(INPUT_PART, INPUT_IMAGE), max_size=3)


def message_item(*roles: str, content: st.SearchStrategy[Any]) -> st.SearchStrategy[Turn]:
    return extended(
        st.builds(lambda kind, role, content: {**kind, "role": role, "content": content},
                  one_of({}, {"type": "message"}), one_of(*roles), content),
        **ITEM_FIELDS,
    )  # fmt: skip


REASONING = extended(
    st.one_of(
        st.lists(TEXTS, max_size=2).map(lambda texts: {"type": "reasoning", "summary": [
            {"type": "summary_text", "text": text} for text in texts]}),
        st.lists(TEXTS, min_size=1, max_size=2).map(lambda texts: {"type": "reasoning", "content": [
            {"type": "reasoning_text", "text": text} for text in texts]}),
    ),
    encrypted_content=(None,), summary=([], None), content=(None, []), **ITEM_FIELDS,
)  # fmt: skip
OUTPUT = extended(
    st.builds(lambda output: {"type": "function_call_output", "call_id": "c1", "output": output},
              st.one_of(TEXTS, INPUTS)),
    **ITEM_FIELDS,
)  # fmt: skip
CALL_ITEM = extended(
    st.just({"type": "function_call", "call_id": "c1", **CALL}).map(dict), namespace=(None,), **ITEM_FIELDS
)
ASSISTANT = message_item("assistant", content=st.one_of(TEXTS, st.lists(INPUT_PART, max_size=3)))


@st.composite
def response_items(draw: st.DrawFn) -> list[Turn]:
    items: list[Turn] = []
    for _ in range(draw(st.integers(0, 3))):
        items.append(draw(st.one_of(
            message_item("user", content=st.one_of(TEXTS, INPUTS)),
            message_item("system", "developer", content=st.one_of(TEXTS, st.lists(INPUT_PART, max_size=2))),
        )))  # fmt: skip
        items += draw(st.lists(REASONING, max_size=2))
        items += draw(st.lists(ASSISTANT, max_size=1)) + draw(st.lists(CALL_ITEM, max_size=2))
        items += draw(st.lists(OUTPUT, max_size=2))
    return items


# The Anthropic API.
BLOCK_FIELDS: dict[str, tuple[Any, ...]] = {
    "cache_control": (None, {}), "citations": (None,), "id": (None, 3), "content": (None, 3), "data": (3,),
    "is_error": (None, "x"), "signature": (3,), "source": (3,),
}  # fmt: skip
NULL_TEXTS = st.one_of(TEXTS, st.none())
TEXT_BLOCK = extended(NULL_TEXTS.map(lambda text: {"type": "text", "text": text}), **BLOCK_FIELDS)
IMAGE_BLOCK = st.builds(
    lambda kind, media: {"type": "image", "source": {**kind, **media, "data": "AAAA"}},
    one_of({}, {"type": "base64"}),
    one_of({}, {"media_type": None}, {"media_type": "image/png"}, {"media_type": "image/*"}),
)
RESULT = extended(
    st.builds(
        lambda content: {"type": "tool_result", "tool_use_id": "t1", **content},
        st.one_of(one_of({}, {"content": None}), having("content", TEXTS),
                  having("content", st.lists(st.one_of(TEXT_BLOCK, IMAGE_BLOCK), max_size=3))),
    ),
    is_error=(None, True, "x"), cache_control=(None,), name=(3,),
)  # fmt: skip
USE = extended(
    st.builds(lambda tool_input: {"type": "tool_use", "id": "t1", "name": "f", "input": tool_input},
              one_of({}, {"a": 1}, {"é": [None]}, None)),
    cache_control=(None,), is_error=(3,), caller=(None,),
)  # fmt: skip
THOUGHT = st.one_of(
    extended(TEXTS.map(lambda text: {"type": "thinking", "thinking": text}), signature=(None, "", "x", 3)),
    st.just({"type": "redacted_thinking", "data": "x"}).map(dict),
)


def block_turn(role: str, *blocks: st.SearchStrategy[Any]) -> st.SearchStrategy[Turn]:
    contents = st.one_of(TEXTS.filter(bool), st.lists(st.one_of(blocks), max_size=4))
    return contents.map(lambda content: {"role": role, "content": content})


BLOCK_TURN = st.one_of(
    block_turn("user", TEXT_BLOCK, IMAGE_BLOCK, RESULT),
    block_turn("assistant", TEXT_BLOCK, USE, THOUGHT),
    block_turn("system", TEXT_BLOCK),
)

PICTURE: dict[str, Any] = {
    "chat": {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URLS[0]}}]},
    "responses": {"role": "user", "content": [{"type": "input_image", "image_url": URLS[0]}]},
    "messages": {
        "role": "user",
        "content": [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}],
    },
}
APIS: dict[str, tuple[type[Api], str]] = {
    "chat": (ChatApi, "messages"),
    "responses": (ResponsesApi, "input"),
    "messages": (MessagesApi, "messages"),
}
TURNS: dict[str, st.SearchStrategy[list[Turn]]] = {
    "chat": st.lists(CHAT_TURN, max_size=4), "responses": response_items(),
    "messages": st.lists(BLOCK_TURN, max_size=4),
}  # fmt: skip


def read_by_vllm(name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the chat messages that vLLM's handler makes of a body; it raises where it answers a 400."""
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.openai.responses.utils import construct_input_messages

    if name == "chat":
        return list(ChatCompletionRequest.model_validate(body).messages)
    if name == "messages":
        request = AnthropicMessagesRequest.model_validate(body)
        return list(AnthropicServingMessages.to_chat_completion_request(request).messages)
    parsed = ResponsesRequest.model_validate(body)
    return construct_input_messages(request_instructions=parsed.instructions, request_input=parsed.input)


def plain_form(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a message says, by vLLM's own reading of its parts."""
    from vllm.renderers.chat_utils import TEXT_PART_TYPES, _parse_chat_message_content_mm_part

    content: list[tuple[str, str]] = []
    sent = message.get("content")
    for part in [{"type": "text", "text": sent}] if isinstance(sent, str) else list(sent or ()):
        kind, value = _parse_chat_message_content_mm_part(part)
        if kind in TEXT_PART_TYPES and not value:
            continue
        # The declared type of a picture says nothing.
        content.append(("text", value) if kind in TEXT_PART_TYPES else ("image", value.partition(",")[2]))
    calls = [
        (call["id"], call["function"]["name"], _arguments(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]
    fields = {key: message.get(key) or None for key in ("reasoning", "tool_call_id", "name")}
    return {"role": message["role"], "content": content, "calls": calls, **fields}


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def said(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    forms = [plain_form(message) for message in messages]
    # A turn that says nothing is left out by one and kept by another.
    return [
        form for form in forms if any(form[key] for key in ("content", "calls", "reasoning", "tool_call_id"))
    ]


def assert_vllm_reads_what_the_gate_reads(name: str, turns: list[Turn]) -> None:
    api_class, field = APIS[name]
    body = {"model": "m", "max_tokens": 9} if name != "responses" else {"model": "m"}
    gated = api_class({**body, field: [*deepcopy(turns), PICTURE[name]]})
    request = gated.read_request()
    taken = [read_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    handed = api_class({**body, field: [*deepcopy(turns), deepcopy(PICTURE[name])]})
    handed.fit_to_backend(SERVICE)
    assert said(read_by_vllm(name, deepcopy(handed.body))) == said(taken)
    # A second reading changes nothing more.
    before = deepcopy(handed.body)
    handed.fit_to_backend(SERVICE)
    assert handed.body == before


@pytest.mark.parametrize("name", APIS)
def test_generated_turns(name: str) -> None:
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(TURNS[name])
    def holds(turns: list[Turn]) -> None:
        assert_vllm_reads_what_the_gate_reads(name, turns)

    holds()
