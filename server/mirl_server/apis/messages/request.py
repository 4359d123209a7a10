"""Requests of the Anthropic API: its content blocks as chat's parts, its fields as chat's fields."""

from __future__ import annotations

from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import RequestError
from mirl_server.apis.evidence import budget_of
from mirl_server.apis.messages.blocks import (
    add_message,
    fit_messages,
    fit_system,
    remote_images,
    text_of_blocks,
)
from mirl_server.apis.messages.response import MessagesWriter
from mirl_server.apis.translation.api import TranslatedApi
from mirl_server.apis.translation.fields import Fields, Turns, object_of
from mirl_server.apis.translation.tools import messages_tools
from mirl_server.handling.reading.conversation import RemoteImage
from mirl_server.handling.reading.fields import PLAIN_MODEL, check_refused
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import BackendHandler, Service
from mirl_server.handling.streaming import ResponseWriter
from mirl_server.media.rules import REMEDY as DATA_URL

ROLES = ("user", "assistant", "system")
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

    def remote_images(self) -> list[RemoteImage]:
        return remote_images(self.body.get("messages"))

    def fit_to_backend(self, service: Service) -> None:
        super().fit_to_backend(service)
        if not self.body.get("model"):
            self.body["model"] = service.names[0]
        fit_system(self.body.get("system"))
        fit_messages(self.body.get("messages"))
        _fit_fields(self.body)

    def backend_handler(self, service: Service) -> BackendHandler:
        return service.handler("messages")

    def turns(self) -> Turns:
        """Return `system` and `messages` as chat's messages."""
        turns = Turns()
        if self.body.get("system") is not None:
            turns.add({"role": "system", "content": text_of_blocks(self.body["system"], "system")}, "system")
        for i, value in enumerate(self.body["messages"]):
            add_message(turns, value, f"messages[{i}]", ROLES)
        return turns


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


def _fit_fields(body: dict[str, Any]) -> None:
    """Change fields that the gate takes, in place, into the form in which vLLM takes them."""
    thinking, config = body.get("thinking"), body.get("output_config")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and not thinking.get("budget_tokens"):
        # Without a budget the model thinks as long as it wants.
        body["thinking"] = {"type": "adaptive"}
    if isinstance(config, dict) and config.get("effort") in ("none", "minimal"):
        body["output_config"] = {**config, "effort": "low"}
    if isinstance(body.get("stop_sequences"), str):
        body["stop_sequences"] = [body["stop_sequences"]]
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if (
            isinstance(tool, dict)
            and tool.get("type") in (None, "custom")
            and tool.get("input_schema") is None
        ):
            tool["input_schema"] = {"type": "object", "properties": {}}
