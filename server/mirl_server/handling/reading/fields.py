"""Every field of a gated request: honoured, inert, or refused by name. None is dropped.

MIRL reads the body itself rather than through vLLM's request model, so that no vLLM is needed to read it. A
test holds the tables against every field of vLLM's model and of the OpenAI SDK's call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mirl_core.config import first_problem
from mirl_core.errors import RequestError
from mirl_server.handling.reading.request import ChatRequest, StreamOptions

MAX_STOPS = 16
TEMPLATE_RESERVED = ("chat_template", "tokenize", "tools", "add_generation_prompt", "continue_final_message")
"""Template arguments that would change what is rendered, or bring a template of the caller's."""
PLAIN_MODEL = "leave it out, or ask the model's ':direct' name"
"""The remedy for a field that only a plain request can have."""
SMALLER_PICTURE = "send a smaller picture (the clients' max_pixels), or ask the model's ':direct' name"
Refusals = Mapping[str, tuple[tuple[object, ...], str]]
"""By field: the values that ask for nothing, and the remedy."""

REFUSED: Refusals = {
    "logit_bias": (({},), PLAIN_MODEL),
    "functions": (([],), "send them as tools"),
    "function_call": (("none",), "send tool_choice"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "prediction": ((), "leave it out"),
    "verbosity": (("medium",), "leave it out"),
    "web_search_options": ((), "leave it out"),
    "moderation": ((), "leave it out"),
    "service_tier": (("auto", "default"), "leave it out"),
    "store": ((False,), "nothing is stored here"),
    "best_of": ((1,), "set mirl.descriptions and mirl.forks"),
    "use_beam_search": ((False,), PLAIN_MODEL),
    "length_penalty": ((1.0,), PLAIN_MODEL),
    "early_stopping": ((False,), "leave it out"),
    "watermarking": ((False,), PLAIN_MODEL),
    "thinking_token_budget": ((), "set max_completion_tokens"),
    "stop_token_ids": (([],), PLAIN_MODEL),
    "include_stop_str_in_output": ((False,), PLAIN_MODEL),
    "ignore_eos": ((False,), PLAIN_MODEL),
    "min_tokens": ((0,), PLAIN_MODEL),
    "skip_special_tokens": ((True,), PLAIN_MODEL),
    "spaces_between_special_tokens": ((True,), PLAIN_MODEL),
    "truncate_prompt_tokens": ((), PLAIN_MODEL),
    "truncation_side": ((), PLAIN_MODEL),
    "prompt_logprobs": ((), PLAIN_MODEL),
    "logprob_token_ids": (([],), PLAIN_MODEL),
    "allowed_token_ids": ((), PLAIN_MODEL),
    "bad_words": (([],), PLAIN_MODEL),
    "echo": ((False,), PLAIN_MODEL),
    "add_generation_prompt": ((True,), PLAIN_MODEL),
    "continue_final_message": ((False,), PLAIN_MODEL),
    "add_special_tokens": ((False,), PLAIN_MODEL),
    "documents": (([],), PLAIN_MODEL),
    "chat_template": ((), PLAIN_MODEL),
    "media_io_kwargs": (({},), PLAIN_MODEL),
    "mm_processor_kwargs": (({},), SMALLER_PICTURE),
    "return_tokens_as_token_ids": ((False,), PLAIN_MODEL),
    "return_token_ids": ((False,), PLAIN_MODEL),
    "return_token_offsets": ((False,), PLAIN_MODEL),
    "return_prompt_text": ((False,), PLAIN_MODEL),
    "routed_experts_prompt_start": ((0,), PLAIN_MODEL),
    "mm_payload": (("tensors",), PLAIN_MODEL),
    "return_mm_kwargs": ((True,), PLAIN_MODEL),
    "kv_transfer_params": ((), PLAIN_MODEL),
    "ec_transfer_params": ((), PLAIN_MODEL),
    "vllm_xargs": (({},), PLAIN_MODEL),
    "repetition_detection": ((), PLAIN_MODEL),
}
"""Fields that a gated request can't honour."""

INERT: Mapping[str, str] = {
    "user": "a label for the caller's own use",
    "metadata": "a label for the caller's own use",
    "safety_identifier": "a label for the caller's own use",
    "session_id": "a label for the caller's own use",
    "prompt_cache_key": "a hint; caching needs none here",
    "prompt_cache_retention": "a hint; caching needs none here",
    "prompt_cache_options": "a hint; caching needs none here",
    "stream_interval": "bounds the size of chunks; an answer is one chunk",
}
"""Fields that never change an answer, and why: they are accepted and ignored."""


def read_request(body: Mapping[str, Any]) -> ChatRequest:
    """Return the gated request that a body holds.

    Raises:
        RequestError: a field is unknown, wrong, or can't be honoured; `param` names it.
    """
    for name, value in body.items():
        if name in REFUSED:
            check_refused(name, value, *REFUSED[name])
        elif name not in INERT and name not in ChatRequest.model_fields:
            raise unknown_field(name)
    try:
        request = ChatRequest.model_validate(
            {name: body[name] for name in body if name in ChatRequest.model_fields}
        )
    except ValidationError as error:
        message, path = first_problem(error, ChatRequest)
        raise RequestError(message, param=path) from error
    for name in request.chat_template_kwargs or {}:
        if name in TEMPLATE_RESERVED:
            path = f"chat_template_kwargs.{name}"
            raise RequestError(f"{path} is the server's to set; leave it out", param=path)
    if request.stream_options is not None and request.stream_options != StreamOptions():
        _check_stream_options(request)
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    if not isinstance(request.stop, str) and request.stop and len(request.stop) > MAX_STOPS:
        raise RequestError(f"stop takes at most {MAX_STOPS} strings", param="stop")
    if request.stop is not None and "" in ([request.stop] if isinstance(request.stop, str) else request.stop):
        raise RequestError("stop strings can't be empty", param="stop")
    return request


def _check_stream_options(request: ChatRequest) -> None:
    options = request.stream_options
    assert options is not None
    if not request.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    for name in ("include_obfuscation", "continuous_usage_stats"):
        if getattr(options, name):
            raise RequestError(f"stream_options.{name} is not supported", param=f"stream_options.{name}")


def check_refused(name: str, value: object, neutral: tuple[object, ...], remedy: str) -> None:
    """Raise RequestError where a field holds anything but null or one of the `neutral` values."""
    if value is not None and value not in neutral:
        raise RequestError(f"{name} is not supported for gated requests; {remedy}", param=name)


def unknown_field(name: str) -> RequestError:
    """Return the error of a field that no table names."""
    return RequestError(f"unknown field '{name[:64]}'; leave it out", param=name[:64])
