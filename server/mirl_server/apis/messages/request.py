"""Requests of the Anthropic API: its content blocks as chat's parts, its fields as chat's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError, RequestError
from mirl_server.apis.evidence import budget_of
from mirl_server.apis.messages.response import MessagesWriter
from mirl_server.apis.translation.api import TranslatedApi
from mirl_server.apis.translation.fields import Fields, Turns, object_of, text_of
from mirl_server.apis.translation.tools import messages_tools
from mirl_server.handling.reading.fields import PLAIN_MODEL, check_refused
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import BackendHandler, Service
from mirl_server.handling.streaming import ResponseWriter
from mirl_server.http.errors import anthropic_error_response
from mirl_server.media.rules import REMEDY as DATA_URL

ROLES = ("user", "assistant", "system")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)
_THINKING = ("adaptive", "disabled", "enabled")
_DISPLAYS = ("summarized", "omitted", "updates")

FIELDS = Fields(
    own=frozenset({"messages", "system", "thinking", "output_config", "tools", "tool_choice"}),
    same=frozenset(
        {
            "model", "max_tokens", "mirl", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
            "presence_penalty", "frequency_penalty", "seed", "stream", "chat_template_kwargs", "priority",
            "cache_salt", "request_id", "watermarking", "mm_payload", "return_mm_kwargs",
            "kv_transfer_params", "ec_transfer_params", "vllm_xargs",
        }
    ),
    renamed={"stop_sequences": "stop"},
    refused={
        "output_format": ((), "send output_config.format"),
        "mcp_servers": (([],), PLAIN_MODEL),
        "container": ((), PLAIN_MODEL),
        "context_management": (({},), "shorten the messages"),
        "service_tier": (("auto", "standard_only"), "leave it out"),
        "speed": (("standard",), "leave it out"),
        "inference_geo": ((), "leave it out"),
        "diagnostics": ((), "leave it out"),
    },
    inert=frozenset({"metadata", "cache_control", "user_profile_id", "workspace_id"}),
)  # fmt: skip
_NAMES = {chat: name for name, chat in FIELDS.renamed.items()} | {
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "thinking_token_budget": "thinking.budget_tokens",
}
_WORDS = {
    "'required'": "'any'",
    "max_completion_tokens": "max_tokens",
    DATA_URL: "send it in base64 (source.type 'base64')",
}


class MessagesApi(TranslatedApi):
    """A request of the Anthropic API."""

    operation = "messages"
    field_names = _NAMES
    remedy_words = _WORDS

    def brings_image(self) -> bool:
        messages = self.body.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        if not isinstance(last, dict) or last.get("role") != "user":
            return False
        content = last.get("content")
        parts = content if isinstance(content, list) else []
        # A list: a type may be of any kind, unhashable too.
        kinds = [part.get("type") for part in parts if isinstance(part, dict)]
        # A tool's result comes in a user's message, but the turn is the tool's.
        return "image" in kinds and "tool_result" not in kinds

    def chat_fields(self) -> dict[str, Any]:
        chat = FIELDS.in_chat(self.body)
        if chat.get("max_tokens") is None:
            raise RequestError("max_tokens is missing: the most tokens of one answer", param="max_tokens")
        chat |= _thinking_fields(self.body.get("thinking")) | _output_fields(self.body.get("output_config"))
        chat |= messages_tools(self.body.get("tools"), self.body.get("tool_choice"))
        return chat

    def writer(
        self, service: Service, request: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        return MessagesWriter(
            context.request_id,
            service.response_name(request.model),
            reasoning=request.include_reasoning is not False,
            stops=request.sampling(1.0, 1).stop,
            budget=budget_of(options),
            tags=service.engine_pipeline().settings.tags,
            rename_error=self.rename_error,
        )

    def backend_handler(self, service: Service) -> BackendHandler:
        return service.handler("messages")

    @staticmethod
    def error_response(error: MIRLError) -> JSONResponse:
        return anthropic_error_response(error)

    def turns(self) -> Turns:
        """Return `system` and `messages` as chat's messages."""
        turns = Turns()
        if self.body.get("system") is not None:
            turns.add({"role": "system", "content": _text(self.body["system"], "system")}, "system")
        for i, value in enumerate(self.body["messages"]):
            path = f"messages[{i}]"
            message = object_of(value, path)
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise RequestError(f"{path}.role must be one of {', '.join(ROLES)}", param=f"{path}.role")
            if isinstance(content, str):
                turns.add({"role": role, "content": content}, path)
            elif isinstance(content, list):
                _add_blocks(turns, role, content, path)
            else:
                raise RequestError(
                    f"{path}.content must be text or a list of blocks", param=f"{path}.content"
                )
        return turns


def _add_blocks(turns: Turns, role: str, blocks: list[Any], path: str) -> None:
    """Add a message of blocks; a tool's result becomes a separate message before the user's."""
    parts: dict[str, dict[str, Any]] = {}
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for j, value in enumerate(blocks):
        block_path = f"{path}.content[{j}]"
        block = object_of(value, block_path)
        kind = block.get("type")
        if kind == "text":
            parts[block_path] = {"type": "text", "text": text_of(block.get("text"), f"{block_path}.text")}
        elif kind == "image" and role == "user":
            parts[block_path] = _image(block.get("source"), block_path)
        elif kind == "tool_result" and role == "user":
            turns.add(_tool_result(block, block_path), block_path)
        elif kind == "tool_use" and role == "assistant":
            calls.append(_tool_use(block, block_path))
        elif kind == "thinking" and role == "assistant":
            thoughts.append(text_of(block.get("thinking"), f"{block_path}.thinking"))
        elif kind != "redacted_thinking" or role != "assistant":  # it is encrypted
            raise RequestError(
                f"{block_path}: blocks of type '{str(kind)[:40]}' from the {role} can't go through the gate; "
                "send text and images",
                param=block_path,
            )
    if role == "user":
        if parts:
            turns.add({"role": role, "content": list(parts.values())}, path, list(parts))
        return
    # Templates take an assistant's or system's turn as text.
    text = "".join(part["text"] for part in parts.values())
    message: dict[str, Any] = {"role": role, "content": text if text or not calls else None}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning": "".join(thoughts)} if thoughts else {}
    turns.add(message, path)


def _thinking_fields(value: object) -> dict[str, Any]:
    """Return the fields of `thinking`; `disabled` or a display of `omitted` leaves the thinking block out."""
    if value is None:
        return {}
    thinking = object_of(value, "thinking")
    kind, display = thinking.get("type"), thinking.get("display")
    if kind not in _THINKING:
        raise RequestError(f"thinking.type must be one of {', '.join(_THINKING)}", param="thinking.type")
    if display is not None and display not in _DISPLAYS:
        raise RequestError(
            f"thinking.display must be one of {', '.join(_DISPLAYS)}", param="thinking.display"
        )
    for name in thinking:
        if name not in ("type", "display", "budget_tokens"):
            check_refused(f"thinking.{name[:64]}", thinking[name], (), "leave it out")
    fields: dict[str, Any] = {"thinking_token_budget": thinking.get("budget_tokens")}
    return fields | ({"include_reasoning": False} if kind == "disabled" or display == "omitted" else {})


def _output_fields(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    config = object_of(value, "output_config")
    for name in config:
        if name not in ("effort", "format"):
            check_refused(f"output_config.{name[:64]}", config[name], (), PLAIN_MODEL)
    fields = {"reasoning_effort": config.get("effort")}
    if config.get("format") is None:
        return fields
    form = object_of(config["format"], "output_config.format")
    if form.get("type") != "json_schema":
        raise RequestError("output_config.format.type must be json_schema", param="output_config.format.type")
    schema = {name: entry for name, entry in form.items() if name != "type"}
    return fields | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _text(value: object, path: str, separator: str = "") -> str:
    """Return a text, or the joined texts of text blocks."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RequestError(f"{path} must be text or a list of text blocks", param=path)
    texts = []
    for j, item in enumerate(value):
        block = object_of(item, f"{path}[{j}]")
        if block.get("type") != "text":
            raise RequestError(f"{path}[{j}] must be a text block", param=f"{path}[{j}]")
        texts.append(text_of(block.get("text"), f"{path}[{j}].text"))
    return separator.join(texts)


def _image(value: object, path: str) -> dict[str, Any]:
    source = object_of(value, f"{path}.source")
    kind = source.get("type")
    if kind == "url":
        url = text_of(source.get("url"), f"{path}.source.url")
    elif kind == "base64":
        media_type = text_of(source.get("media_type"), f"{path}.source.media_type")
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise RequestError(
                f"{path}.source.media_type must be one like image/png", param=f"{path}.source.media_type"
            )
        url = f"data:{media_type};base64,{text_of(source.get('data'), f'{path}.source.data')}"
    else:
        raise RequestError(f"{path}.source.type must be base64 or url", param=f"{path}.source.type")
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_use(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    arguments = json.dumps(object_of(block.get("input"), f"{path}.input"), ensure_ascii=False)
    function = {"name": text_of(block.get("name"), f"{path}.name"), "arguments": arguments}
    return {"id": text_of(block.get("id"), f"{path}.id"), "type": "function", "function": function}


def _tool_result(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    content = block.get("content")
    return {
        "role": "tool",
        "tool_call_id": text_of(block.get("tool_use_id"), f"{path}.tool_use_id"),
        "content": "" if content is None else _text(content, f"{path}.content", "\n"),
    }
