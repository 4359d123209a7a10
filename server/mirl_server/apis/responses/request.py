"""The Responses API (`/v1/responses`): its input items as messages, its fields as chat's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import RequestError
from mirl_server.apis.base import TranslatedApi
from mirl_server.apis.protocol import budget
from mirl_server.apis.responses.response import ResponsesWriter
from mirl_server.apis.translation.fields import PLAIN, Fields, Turns, check_refused, object_of, text_of
from mirl_server.apis.translation.tools import responses_tools
from mirl_server.handling.requests import ChatRequest
from mirl_server.handling.service import Delegate, Service
from mirl_server.handling.streaming import ResponseWriter

ROLES = ("user", "assistant", "system", "developer")
_NOTHING_STORED = "nothing is stored here: send the earlier turns in input"
_DETAILS = ("auto", "low", "high", "original")

FIELDS = Fields(
    own=frozenset({"input", "instructions", "reasoning", "text", "tools", "tool_choice"}),
    same=frozenset(
        {
            "model", "mirl", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
            "presence_penalty", "frequency_penalty", "stop", "seed", "stream", "stream_options",
            "include_reasoning", "chat_template_kwargs", "priority", "cache_salt", "request_id", "logit_bias",
            "service_tier", "moderation", "watermarking", "stop_token_ids", "include_stop_str_in_output",
            "ignore_eos", "skip_special_tokens", "media_io_kwargs", "mm_processor_kwargs", "mm_payload",
            "return_mm_kwargs", "kv_transfer_params", "ec_transfer_params", "vllm_xargs",
            "structured_outputs", "parallel_tool_calls",
        }
    ),
    renamed={"max_output_tokens": "max_completion_tokens"},
    refused={
        "background": ((False,), "gated requests are answered at once; leave it out"),
        "background_options": ((), "leave it out"),
        "store": ((False,), _NOTHING_STORED),
        "previous_response_id": ((), _NOTHING_STORED),
        "conversation": ((), _NOTHING_STORED),
        "prompt": ((), "send the prompt's text in input"),
        "previous_input_messages": (([],), "send the earlier turns in input"),
        "include": (([],), PLAIN),
        "top_logprobs": ((0,), PLAIN),
        "truncation": (("disabled",), "shorten the input"),
        "context_management": (([],), "shorten the input"),
        "access_programs": ((), "leave it out"),
        "image": ((), "leave it out"),
        "enable_response_messages": ((False,), PLAIN),
    },
    inert=frozenset(
        {
            "user", "metadata", "safety_identifier", "session_id", "prompt_cache_key",
            "prompt_cache_retention", "prompt_cache_options", "max_tool_calls",
        }
    ),
)  # fmt: skip
_NAMES = {chat: own for own, chat in FIELDS.renamed.items()} | {
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
_WORDS = {"max_completion_tokens": "max_output_tokens"}


class ResponsesApi(TranslatedApi):
    """A request of the Responses API."""

    operation = "responses"
    names = _NAMES
    words = _WORDS

    def brings_image(self) -> bool:
        given = self.body.get("input")
        last = given[-1] if isinstance(given, list) and given else None
        if (
            not isinstance(last, dict)
            or last.get("role") != "user"
            or last.get("type", "message") != "message"
        ):
            return False
        content = last.get("content")
        return isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type") == "input_image" for part in content
        )

    def chat_fields(self) -> dict[str, Any]:
        chat = FIELDS.in_chat(self.body)
        chat |= _reasoning_fields(self.body.get("reasoning")) | _text_fields(self.body.get("text"))
        chat |= responses_tools(self.body.get("tools"), self.body.get("tool_choice"))
        return chat

    def voice(
        self, service: Service, asked: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        sampling = asked.sampling(service.engine_pipeline().settings.temperature, 1)
        return ResponsesWriter(
            self.body,
            context.request_id,
            asked.model or service.names[0],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            budget=budget(options),
            reasoning=asked.include_reasoning is not False,
            named=self.named,
        )

    def delegate(self, service: Service) -> Delegate:
        return service.handler("responses")

    def turns(self) -> Turns:
        """`instructions` and `input` as chat messages."""
        turns = Turns()
        if self.body.get("instructions") is not None:
            content = text_of(self.body["instructions"], "instructions")
            turns.add({"role": "system", "content": content}, "instructions")
        reasoning: list[str] = []
        for i, given in enumerate(self.body["input"]):
            where = f"input[{i}]"
            item = object_of(given, where)
            if item.get("type") == "reasoning":
                reasoning += _reasoning_texts(item, where)
                continue
            message = _message(item, where)
            if message["role"] == "assistant" and reasoning:
                message["reasoning"] = "\n\n".join(reasoning)
            reasoning = []
            if _continues(message, turns.messages):
                last = turns.messages[-1]
                last["tool_calls"] = last.get("tool_calls", []) + message["tool_calls"]
            else:
                turns.add(message, where)
        return turns


def _continues(message: dict[str, Any], messages: Sequence[dict[str, Any]]) -> bool:
    """Whether a tool call belongs to the assistant's turn before it: chat has them in one message."""
    return "tool_calls" in message and bool(messages) and messages[-1]["role"] == "assistant"


def _reasoning_fields(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    reasoning = object_of(given, "reasoning")
    for name in reasoning:
        # A summary is always given, in full.
        if name not in ("effort", "summary", "generate_summary"):
            check_refused(f"reasoning.{name[:64]}", reasoning[name], (), "leave it out")
    return {"reasoning_effort": reasoning["effort"]} if reasoning.get("effort") is not None else {}


def _text_fields(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    text = object_of(given, "text")
    for name, value in text.items():
        if name not in ("format", "verbosity"):
            check_refused(f"text.{name[:64]}", value, (), "leave it out")
    fields = {"verbosity": text["verbosity"]} if text.get("verbosity") not in (None, "medium") else {}
    if text.get("format") is None:
        return fields
    form = object_of(text["format"], "text.format")
    # Here what chat has in an object of its own stands beside the type.
    schema = {name: value for name, value in form.items() if name != "type"}
    kind = {"type": form.get("type")}
    return fields | {"response_format": kind | ({"json_schema": schema} if schema else {})}


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in ROLES:
            raise RequestError(f"{where}.role must be one of {', '.join(ROLES)}", param=f"{where}.role")
        content = _content(item.get("content"), f"{where}.content", images=role == "user")
        if role != "user" and isinstance(content, list):
            # Templates take an assistant's or system's turn as text.
            content = "".join(part["text"] for part in content)
        return {"role": role, "content": content}
    if kind == "function_call":
        function = {name: text_of(item.get(name), f"{where}.{name}") for name in ("name", "arguments")}
        call = {
            "id": text_of(item.get("call_id"), f"{where}.call_id"),
            "type": "function",
            "function": function,
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        content = _content(item.get("output"), f"{where}.output", images=False)
        return {
            "role": "tool",
            "tool_call_id": text_of(item.get("call_id"), f"{where}.call_id"),
            "content": content,
        }
    if kind == "item_reference":
        raise RequestError(f"{where}: {_NOTHING_STORED}", param=where)
    raise RequestError(
        f"{where}: items of type '{str(kind)[:40]}' can't go through the gate; send messages, reasoning and "
        "function calls with their outputs",
        param=where,
    )


def _content(given: object, where: str, images: bool = True) -> str | list[dict[str, Any]]:
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise RequestError(f"{where} must be text or a list of parts", param=where)
    return [_part(one, f"{where}[{j}]", images) for j, one in enumerate(given)]


def _part(given: object, where: str, images: bool) -> dict[str, Any]:
    part = object_of(given, where)
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": text_of(part.get("text"), f"{where}.text")}
    if kind == "refusal":
        return {"type": "text", "text": text_of(part.get("refusal"), f"{where}.refusal")}
    if kind == "input_image" and images:
        if part.get("file_id") is not None:
            raise RequestError(
                f"{where}.file_id: no files are kept here; send image_url", param=f"{where}.file_id"
            )
        if part.get("detail", "auto") not in (*_DETAILS, None):
            raise RequestError(
                f"{where}.detail must be one of {', '.join(_DETAILS)}", param=f"{where}.detail"
            )
        url = part.get("image_url")
        if not isinstance(url, str):
            raise RequestError(f"{where}.image_url must be a URL as text", param=f"{where}.image_url")
        return {"type": "image_url", "image_url": {"url": url}}
    raise RequestError(
        f"{where}: parts of type '{str(kind)[:40]}' can't go through the gate; send input_text"
        f"{' and input_image' if images else ''}",
        param=where,
    )


def _reasoning_texts(item: dict[str, Any], where: str) -> list[str]:
    """The texts of an earlier turn's reasoning: its own words, or else their summary."""
    if item.get("encrypted_content") is not None:
        raise RequestError(
            f"{where}.encrypted_content can't be read here; leave it out", param=f"{where}.encrypted_content"
        )
    name = "content" if item.get("content") else "summary"
    parts = item.get(name) or []
    if not isinstance(parts, list):
        raise RequestError(f"{where}.{name} must be a list", param=f"{where}.{name}")
    places = [
        (object_of(part, f"{where}.{name}[{j}]"), f"{where}.{name}[{j}].text") for j, part in enumerate(parts)
    ]
    return [text_of(part.get("text"), place) for part, place in places]
