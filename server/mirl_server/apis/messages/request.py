"""The Anthropic API (`/v1/messages`): its content blocks as chat's parts, its fields as chat's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError, RequestError
from mirl_server.apis.base import TranslatedApi
from mirl_server.apis.messages.response import MessagesWriter
from mirl_server.apis.protocol import budget, error_response, error_status
from mirl_server.apis.translation.fields import PLAIN, Fields, Turns, check_refused, object_of, text_of
from mirl_server.apis.translation.tools import messages_tools
from mirl_server.handling.requests import ChatRequest
from mirl_server.handling.service import Delegate, Service
from mirl_server.handling.streaming import ResponseWriter
from mirl_server.media.rules import REMEDY as DATA_URL
from mirl_server.middleware.error_shapes import messages_error

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
        "mcp_servers": (([],), PLAIN),
        "container": ((), PLAIN),
        "context_management": (({},), "shorten the messages"),
        "service_tier": (("auto", "standard_only"), "leave it out"),
        "speed": (("standard",), "leave it out"),
        "inference_geo": ((), "leave it out"),
        "diagnostics": ((), "leave it out"),
    },
    inert=frozenset({"metadata", "cache_control", "user_profile_id", "workspace_id"}),
)  # fmt: skip
_NAMES = {chat: own for own, chat in FIELDS.renamed.items()} | {
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
    names = _NAMES
    words = _WORDS

    def brings_image(self) -> bool:
        given = self.body.get("messages")
        last = given[-1] if isinstance(given, list) and given else None
        if not isinstance(last, dict) or last.get("role") != "user":
            return False
        content = last.get("content")
        parts = content if isinstance(content, list) else []
        # A list: a type may be anything, of which not all can be in a set.
        kinds = [part.get("type") for part in parts if isinstance(part, dict)]
        # A tool's result comes as the user's message: the turn is the tool's.
        return "image" in kinds and "tool_result" not in kinds

    def chat_fields(self) -> dict[str, Any]:
        chat = FIELDS.in_chat(self.body)
        if chat.get("max_tokens") is None:
            raise RequestError("max_tokens is missing: the most tokens of one answer", param="max_tokens")
        chat |= _thinking_fields(self.body.get("thinking")) | _output_fields(self.body.get("output_config"))
        chat |= messages_tools(self.body.get("tools"), self.body.get("tool_choice"))
        return chat

    def voice(
        self, service: Service, asked: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        return MessagesWriter(
            context.request_id,
            asked.model or service.names[0],
            reasoning=asked.include_reasoning is not False,
            stops=asked.sampling(1.0, 1).stop,
            budget=budget(options),
            tags=service.engine_pipeline().settings.tags,
            named=self.named,
        )

    def delegate(self, service: Service) -> Delegate:
        return service.handler("messages")

    @staticmethod
    def refusal(error: MIRLError) -> JSONResponse:
        headers = error_response(error).headers.items()
        kept = {name: value for name, value in headers if not name.startswith("content-")}
        return JSONResponse(messages_error(error), error_status(error), kept)

    def turns(self) -> Turns:
        """`system` and `messages` as chat messages."""
        turns = Turns()
        if self.body.get("system") is not None:
            turns.add({"role": "system", "content": _text(self.body["system"], "system")}, "system")
        for i, given in enumerate(self.body["messages"]):
            where = f"messages[{i}]"
            message = object_of(given, where)
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise RequestError(f"{where}.role must be one of {', '.join(ROLES)}", param=f"{where}.role")
            if isinstance(content, str):
                turns.add({"role": role, "content": content}, where)
            elif isinstance(content, list):
                _add_blocks(turns, role, content, where)
            else:
                raise RequestError(
                    f"{where}.content must be text or a list of blocks", param=f"{where}.content"
                )
        return turns


def _add_blocks(turns: Turns, role: str, blocks: list[Any], where: str) -> None:
    """One message of blocks; a tool's result is a message of its own in chat, before the user's."""
    parts: dict[str, dict[str, Any]] = {}
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for j, given in enumerate(blocks):
        place = f"{where}.content[{j}]"
        block = object_of(given, place)
        kind = block.get("type")
        if kind == "text":
            parts[place] = {"type": "text", "text": text_of(block.get("text"), f"{place}.text")}
        elif kind == "image" and role == "user":
            parts[place] = _image(block.get("source"), place)
        elif kind == "tool_result" and role == "user":
            turns.add(_tool_result(block, place), place)
        elif kind == "tool_use" and role == "assistant":
            calls.append(_tool_use(block, place))
        elif kind == "thinking" and role == "assistant":
            thoughts.append(text_of(block.get("thinking"), f"{place}.thinking"))
        elif kind != "redacted_thinking" or role != "assistant":  # nobody here could read that one
            raise RequestError(
                f"{place}: blocks of type '{str(kind)[:40]}' from the {role} can't go through the gate; "
                "send text and images",
                param=place,
            )
    if role == "user":
        if parts:
            turns.add({"role": role, "content": list(parts.values())}, where, list(parts))
        return
    # Templates take an assistant's or system's turn as text.
    text = "".join(part["text"] for part in parts.values())
    message: dict[str, Any] = {"role": role, "content": text if text or not calls else None}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning": "".join(thoughts)} if thoughts else {}
    turns.add(message, where)


def _thinking_fields(given: object) -> dict[str, Any]:
    """The thinking block is there unless it is disabled, or not to be shown."""
    if given is None:
        return {}
    thinking = object_of(given, "thinking")
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


def _output_fields(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    config = object_of(given, "output_config")
    for name in config:
        if name not in ("effort", "format"):
            check_refused(f"output_config.{name[:64]}", config[name], (), PLAIN)
    fields = {"reasoning_effort": config.get("effort")}
    if config.get("format") is None:
        return fields
    form = object_of(config["format"], "output_config.format")
    if form.get("type") != "json_schema":
        raise RequestError("output_config.format.type must be json_schema", param="output_config.format.type")
    schema = {name: value for name, value in form.items() if name != "type"}
    return fields | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _text(given: object, where: str, between: str = "") -> str:
    """A text, or the texts of text blocks."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise RequestError(f"{where} must be text or a list of text blocks", param=where)
    texts = []
    for j, one in enumerate(given):
        block = object_of(one, f"{where}[{j}]")
        if block.get("type") != "text":
            raise RequestError(f"{where}[{j}] must be a text block", param=f"{where}[{j}]")
        texts.append(text_of(block.get("text"), f"{where}[{j}].text"))
    return between.join(texts)


def _image(given: object, where: str) -> dict[str, Any]:
    source = object_of(given, f"{where}.source")
    kind = source.get("type")
    if kind == "url":
        url = text_of(source.get("url"), f"{where}.source.url")
    elif kind == "base64":
        media_type = text_of(source.get("media_type"), f"{where}.source.media_type")
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise RequestError(
                f"{where}.source.media_type must be one like image/png", param=f"{where}.source.media_type"
            )
        url = f"data:{media_type};base64,{text_of(source.get('data'), f'{where}.source.data')}"
    else:
        raise RequestError(f"{where}.source.type must be base64 or url", param=f"{where}.source.type")
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_use(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = json.dumps(object_of(block.get("input"), f"{where}.input"), ensure_ascii=False)
    function = {"name": text_of(block.get("name"), f"{where}.name"), "arguments": arguments}
    return {"id": text_of(block.get("id"), f"{where}.id"), "type": "function", "function": function}


def _tool_result(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    content = block.get("content")
    return {
        "role": "tool",
        "tool_call_id": text_of(block.get("tool_use_id"), f"{where}.tool_use_id"),
        "content": "" if content is None else _text(content, f"{where}.content", "\n"),
    }
