"""Requests of the Responses API: its input items as chat's messages, its fields as chat's fields."""

from __future__ import annotations

from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_server.apis.evidence import budget_of
from mirl_server.apis.responses.items import NOTHING_STORED, fit_items, read_items, remote_images
from mirl_server.apis.responses.response import ResponsesWriter
from mirl_server.apis.translation.api import TranslatedApi
from mirl_server.apis.translation.fields import Fields, Turns, object_of, text_of
from mirl_server.apis.translation.tools import responses_tools
from mirl_server.handling.reading.conversation import RemoteImage
from mirl_server.handling.reading.fields import PLAIN_MODEL, check_refused
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import BackendHandler, Service
from mirl_server.handling.streaming import ResponseWriter

_SUMMARIES = ("auto", "concise", "detailed")

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
        "store": ((False,), NOTHING_STORED),
        "previous_response_id": ((), NOTHING_STORED),
        "conversation": ((), NOTHING_STORED),
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

    def remote_images(self) -> list[RemoteImage]:
        return remote_images(self.body.get("input"))

    def fit_to_backend(self, service: Service) -> None:
        super().fit_to_backend(service)
        if "input" in self.body:
            self.body["input"] = fit_items(self.body["input"])
        reasoning = self.body.get("reasoning")
        if isinstance(reasoning, dict):
            # The gate returns every summary in full, whatever is asked for.
            self.body["reasoning"] = {
                name: value
                for name, value in reasoning.items()
                if name not in ("summary", "generate_summary") or value in _SUMMARIES
            }

    def backend_handler(self, service: Service) -> BackendHandler:
        return service.handler("responses")

    def turns(self) -> Turns:
        """Return `instructions` and `input` as chat's messages."""
        turns = Turns()
        if self.body.get("instructions") is not None:
            content = text_of(self.body["instructions"], "instructions")
            turns.add({"role": "system", "content": content}, "instructions")
        read_items(turns, self.body["input"])
        return turns


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
