"""Requests of the Responses API: its input items as chat's messages, its fields as chat's fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import RequestError
from mirl_server.apis.evidence import budget_of
from mirl_server.apis.responses.response import ResponsesWriter
from mirl_server.apis.translation.api import TranslatedApi
from mirl_server.apis.translation.fields import Fields, Turns, object_of, text_of
from mirl_server.apis.translation.tools import responses_tools
from mirl_server.handling.reading.fields import PLAIN_MODEL, check_refused
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import BackendHandler, Service
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
        "include": (([],), PLAIN_MODEL),
        "top_logprobs": ((0,), PLAIN_MODEL),
        "truncation": (("disabled",), "shorten the input"),
        "context_management": (([],), "shorten the input"),
        "access_programs": ((), "leave it out"),
        "image": ((), "leave it out"),
        "enable_response_messages": ((False,), PLAIN_MODEL),
    },
    inert=frozenset(
        {
            "user", "metadata", "safety_identifier", "session_id", "prompt_cache_key",
            "prompt_cache_retention", "prompt_cache_options", "max_tool_calls",
        }
    ),
)  # fmt: skip
_NAMES = {chat: name for name, chat in FIELDS.renamed.items()} | {
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
_WORDS = {"max_completion_tokens": "max_output_tokens"}


class ResponsesApi(TranslatedApi):
    """A request of the Responses API."""

    operation = "responses"
    field_names = _NAMES
    remedy_words = _WORDS

    def brings_image(self) -> bool:
        items = self.body.get("input")
        last = items[-1] if isinstance(items, list) and items else None
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

    def writer(
        self, service: Service, request: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        sampling = request.sampling(service.engine_pipeline().settings.temperature, 1)
        return ResponsesWriter(
            self.body,
            context.request_id,
            service.response_name(request.model),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            budget=budget_of(options),
            reasoning=request.include_reasoning is not False,
            rename_error=self.rename_error,
        )

    def backend_handler(self, service: Service) -> BackendHandler:
        return service.handler("responses")

    def turns(self) -> Turns:
        """Return `instructions` and `input` as chat's messages."""
        turns = Turns()
        if self.body.get("instructions") is not None:
            content = text_of(self.body["instructions"], "instructions")
            turns.add({"role": "system", "content": content}, "instructions")
        reasoning: list[str] = []
        for i, value in enumerate(self.body["input"]):
            path = f"input[{i}]"
            item = object_of(value, path)
            if item.get("type") == "reasoning":
                reasoning += _reasoning_texts(item, path)
                continue
            message = _message(item, path)
            if message["role"] == "assistant" and reasoning:
                message["reasoning"] = "\n\n".join(reasoning)
            reasoning = []
            if _continues(message, turns.messages):
                last = turns.messages[-1]
                last["tool_calls"] = last.get("tool_calls", []) + message["tool_calls"]
            else:
                turns.add(message, path)
        return turns


def _continues(message: dict[str, Any], messages: Sequence[dict[str, Any]]) -> bool:
    """Return whether a tool call belongs to the assistant's turn before it: chat has both in one message."""
    return "tool_calls" in message and bool(messages) and messages[-1]["role"] == "assistant"


def _reasoning_fields(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    reasoning = object_of(value, "reasoning")
    for name in reasoning:
        # A response always has its summary, in full.
        if name not in ("effort", "summary", "generate_summary"):
            check_refused(f"reasoning.{name[:64]}", reasoning[name], (), "leave it out")
    return {"reasoning_effort": reasoning["effort"]} if reasoning.get("effort") is not None else {}


def _text_fields(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    text = object_of(value, "text")
    for name in text:
        if name not in ("format", "verbosity"):
            check_refused(f"text.{name[:64]}", text[name], (), "leave it out")
    fields = {"verbosity": text["verbosity"]} if text.get("verbosity") not in (None, "medium") else {}
    if text.get("format") is None:
        return fields
    form = object_of(text["format"], "text.format")
    # Chat nests these fields in an object; here they stand beside the type.
    schema = {name: entry for name, entry in form.items() if name != "type"}
    kind = {"type": form.get("type")}
    return fields | {"response_format": kind | ({"json_schema": schema} if schema else {})}


def _message(item: dict[str, Any], path: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in ROLES:
            raise RequestError(f"{path}.role must be one of {', '.join(ROLES)}", param=f"{path}.role")
        content = _content(item.get("content"), f"{path}.content", images=role == "user")
        if role != "user" and isinstance(content, list):
            # Templates take an assistant's or system's turn as text.
            content = "".join(part["text"] for part in content)
        return {"role": role, "content": content}
    if kind == "function_call":
        function = {name: text_of(item.get(name), f"{path}.{name}") for name in ("name", "arguments")}
        call = {
            "id": text_of(item.get("call_id"), f"{path}.call_id"),
            "type": "function",
            "function": function,
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        content = _content(item.get("output"), f"{path}.output", images=False)
        return {
            "role": "tool",
            "tool_call_id": text_of(item.get("call_id"), f"{path}.call_id"),
            "content": content,
        }
    if kind == "item_reference":
        raise RequestError(f"{path}: {_NOTHING_STORED}", param=path)
    raise RequestError(
        f"{path}: items of type '{str(kind)[:40]}' can't go through the gate; send messages, reasoning and "
        "function calls with their outputs",
        param=path,
    )


def _content(value: object, path: str, images: bool = True) -> str | list[dict[str, Any]]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RequestError(f"{path} must be text or a list of parts", param=path)
    return [_part(part, f"{path}[{j}]", images) for j, part in enumerate(value)]


def _part(value: object, path: str, images: bool) -> dict[str, Any]:
    part = object_of(value, path)
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": text_of(part.get("text"), f"{path}.text")}
    if kind == "refusal":
        return {"type": "text", "text": text_of(part.get("refusal"), f"{path}.refusal")}
    if kind == "input_image" and images:
        if part.get("file_id") is not None:
            raise RequestError(
                f"{path}.file_id: no files are kept here; send image_url", param=f"{path}.file_id"
            )
        if part.get("detail", "auto") not in (*_DETAILS, None):
            raise RequestError(f"{path}.detail must be one of {', '.join(_DETAILS)}", param=f"{path}.detail")
        url = part.get("image_url")
        if not isinstance(url, str):
            raise RequestError(f"{path}.image_url must be a URL as text", param=f"{path}.image_url")
        return {"type": "image_url", "image_url": {"url": url}}
    raise RequestError(
        f"{path}: parts of type '{str(kind)[:40]}' can't go through the gate; send input_text"
        f"{' and input_image' if images else ''}",
        param=path,
    )


def _reasoning_texts(item: dict[str, Any], path: str) -> list[str]:
    """Return the texts of an earlier turn's reasoning: its content, or else its summary."""
    if item.get("encrypted_content") is not None:
        raise RequestError(
            f"{path}.encrypted_content can't be read here; leave it out", param=f"{path}.encrypted_content"
        )
    name = "content" if item.get("content") else "summary"
    parts = item.get(name) or []
    if not isinstance(parts, list):
        raise RequestError(f"{path}.{name} must be a list", param=f"{path}.{name}")
    entries = [
        (object_of(part, f"{path}.{name}[{j}]"), f"{path}.{name}[{j}].text") for j, part in enumerate(parts)
    ]
    return [text_of(part.get("text"), text_path) for part, text_path in entries]
