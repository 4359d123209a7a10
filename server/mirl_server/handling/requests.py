"""A gated request's fields: every one is honoured, inert by nature, or refused by name. None is dropped.

The body is read here rather than by vLLM's request model, so that the gateway reads it the same way without
vLLM. A test holds the tables against every field of vLLM's model and of the OpenAI SDK's call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json
from starlette.requests import Request

from mirl_core.config import MIRLOptions, first_problem
from mirl_core.engines.base import Sampling
from mirl_core.errors import RequestError
from mirl_core.types import Conversation
from mirl_server.apis.openapi import (
    EXAMPLE_KNOBS,
    EXAMPLE_PNG,
    a_part,
    a_turn,
    an_object,
    some,
    text_or_parts,
)
from mirl_server.handling.effort import Effort
from mirl_server.handling.response_format import ResponseFormat, StructuredOutputs
from mirl_server.handling.tools import Tool, ToolChoice, template_tools
from mirl_server.media.images import Images, is_remote

DIRECT = ":direct"
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
"""OpenAI's, and vLLM's `--max-logprobs` unless it is set."""
TEMPLATE_RESERVED = ("chat_template", "tokenize", "tools", "add_generation_prompt", "continue_final_message")
"""Template arguments that would change what is rendered, or bring a template of the caller's own."""
_N = TypeVar("_N", int, float)
_PLAIN = "leave it out, or ask the model's ':direct' name"
_IMAGE_PARTS = ("image", "image_url", "image_pil", "image_embeds", "input_image")

_CONTENT = text_or_parts(
    a_part("text", text={"type": "string"}),
    a_part("image_url", image_url=an_object(["url"], url={"type": "string"})),
)

RemoteImage = tuple[str, str, Callable[[str], None]]
"""URL, content part, and how to put another URL there."""

REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    # field: (values that ask for nothing, the remedy)
    "logit_bias": (({},), _PLAIN),
    "functions": (([],), "send them as tools"),
    "function_call": (("none",), "send tool_choice"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "prediction": ((), "leave it out"),
    "verbosity": ((), "leave it out"),
    "web_search_options": ((), "leave it out"),
    "moderation": ((), "leave it out"),
    "service_tier": (("auto", "default"), "leave it out"),
    "store": ((False,), "nothing is stored here"),
    "best_of": ((1,), "set mirl.descriptions and mirl.forks"),
    "use_beam_search": ((False,), _PLAIN),
    "length_penalty": ((1.0,), _PLAIN),
    "early_stopping": ((False,), "leave it out"),
    "watermarking": ((False,), _PLAIN),
    "thinking_token_budget": ((), "set max_completion_tokens"),
    "stop_token_ids": (([],), _PLAIN),
    "include_stop_str_in_output": ((False,), _PLAIN),
    "ignore_eos": ((False,), _PLAIN),
    "min_tokens": ((0,), _PLAIN),
    "skip_special_tokens": ((True,), _PLAIN),
    "spaces_between_special_tokens": ((True,), _PLAIN),
    "truncate_prompt_tokens": ((), _PLAIN),
    "truncation_side": ((), _PLAIN),
    "prompt_logprobs": ((), _PLAIN),
    "logprob_token_ids": (([],), _PLAIN),
    "allowed_token_ids": ((), _PLAIN),
    "bad_words": (([],), _PLAIN),
    "echo": ((False,), _PLAIN),
    "add_generation_prompt": ((True,), _PLAIN),
    "continue_final_message": ((False,), _PLAIN),
    "add_special_tokens": ((False,), _PLAIN),
    "documents": (([],), _PLAIN),
    "chat_template": ((), _PLAIN),
    "media_io_kwargs": (({},), _PLAIN),
    "mm_processor_kwargs": (({},), _PLAIN),
    "return_tokens_as_token_ids": ((False,), _PLAIN),
    "return_token_ids": ((False,), _PLAIN),
    "return_token_offsets": ((False,), _PLAIN),
    "return_prompt_text": ((False,), _PLAIN),
    "routed_experts_prompt_start": ((0,), _PLAIN),
    "mm_payload": (("tensors",), _PLAIN),
    "return_mm_kwargs": ((True,), _PLAIN),
    "kv_transfer_params": ((), _PLAIN),
    "ec_transfer_params": ((), _PLAIN),
    "vllm_xargs": (({},), _PLAIN),
    "repetition_detection": ((), _PLAIN),
}
"""Fields that a gated request can't honour yet."""

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
"""Fields that never change an answer: accepted, and without effect by their nature."""


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatRequest(BaseModel):
    """What a gated request may say. A null is as good as nothing."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, title="ChatRequest"
    )

    messages: Annotated[
        list[dict[str, Any]], Field(min_length=1), WithJsonSchema(some(a_turn(ROLES, _CONTENT)))
    ]
    """The conversation. The newest message is the user's and carries images: data URLs, or http(s) URLs of
    hosts that the operator allows."""
    model: str | None = None
    """A served name, answered through the gate; with `:direct` behind it, plainly by vLLM."""
    mirl: dict[str, Any] | None = None
    """MIRL's knobs (MIRLOptions)."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of one trajectory, description and chain together."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of `max_completion_tokens`."""
    reasoning_effort: Effort | None = None
    """A budget in one word, relative to the model's own (`medium`); N, k and m in `mirl` win."""
    n: Annotated[int, Field(ge=1)] | None = None
    """How many voted answers to give, independent of each other."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 or -1: all tokens."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: str | list[str] | None = None
    """Ends the answer; descriptions and reasoning are not affected."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | None = None
    """Tell the answer's tokens and their log-probabilities: the model's own, before temperature."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """How many of the likeliest tokens to tell at each of their positions."""
    response_format: ResponseFormat | None = None
    """The form of answers: `text`, `json_object` or `json_schema`. Descriptions and reasoning stay free."""
    structured_outputs: StructuredOutputs | None = None
    """vLLM's own words for it: `json`, `json_object` or `choice`."""
    tools: list[Tool] | None = None
    """What answers may call."""
    tool_choice: ToolChoice | None = None
    """Whether they may (`auto`), must (`required`, or a tool by name) or must not (`none`) call."""
    parallel_tool_calls: bool | None = None
    """False: at most one call an answer."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include_reasoning: bool | None = None
    """False leaves description and reasoning out of the message."""
    chat_template_kwargs: dict[str, Any] | None = None
    priority: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    request_id: Annotated[str, Field(max_length=128)] | None = None

    def sampling(self, temperature: float, longest: int) -> Sampling:
        """How to sample; `temperature` and `longest` (tokens) hold where the request is silent."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=min(limit or longest, longest),
            temperature=_or(self.temperature, temperature),
            top_p=_or(self.top_p, 1.0),
            top_k=max(_or(self.top_k, 0), 0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            stop=stops,
            seed=self.seed,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


async def read_body(request: Request) -> dict[str, Any]:
    """A request's body as a JSON object."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise RequestError("the content type must be application/json")
    return read_json(await request.body())


def read_json(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. NaN, infinities and bottomless nesting are refused."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    return value


def brings_image(messages: object) -> bool:
    """Whether the newest message is a user's and carries an image, before anything is validated."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user" or not isinstance(last.get("content"), list):
        return False
    return any(
        isinstance(part, dict) and (part.get("type") in _IMAGE_PARTS or "image_url" in part)
        for part in last["content"]
    )


def read_request(body: Mapping[str, Any]) -> ChatRequest:
    """The request of a body that goes through the gate.

    Raises:
        RequestError: a field is unknown, wrong, or can't be honoured; `param` names it.
    """
    for name, value in body.items():
        neutral, remedy = REFUSED.get(name, ((), ""))
        if remedy and value is not None and value not in neutral:
            raise RequestError(f"{name} is not supported for gated requests; {remedy}", param=name)
        if not remedy and name not in INERT and name not in ChatRequest.model_fields:
            raise RequestError(f"unknown field '{name[:64]}'; leave it out", param=name[:64])
    try:
        request = ChatRequest.model_validate(
            {name: body[name] for name in body if name in ChatRequest.model_fields}
        )
    except ValidationError as error:
        message, where = first_problem(error, ChatRequest)
        raise RequestError(message, param=where) from error
    for name in request.chat_template_kwargs or {}:
        if name in TEMPLATE_RESERVED:
            where = f"chat_template_kwargs.{name}"
            raise RequestError(f"{where} is the server's to set; leave it out", param=where)
    if request.stream_options is not None:
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


def remote_images(messages: object) -> list[RemoteImage]:
    """The images that a handler would have to fetch.

    Wherever vLLM looks for one: `image_url` in a part of any type, as text or as an object.
    """
    found: list[RemoteImage] = []
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            holder, key = (part, "image_url") if isinstance(part, dict) else ({}, "")
            if isinstance(holder.get(key), dict):
                holder, key = holder[key], "url"
            url = holder.get(key)
            if isinstance(url, str) and is_remote(url):
                found.append((url, f"messages[{i}].content[{j}]", partial(holder.__setitem__, key)))
    return found


async def read_conversation(request: ChatRequest, images: Images) -> Conversation:
    """The conversation with its images fetched and decoded.

    Raises:
        RequestError: a message or content part is malformed, or of a kind that isn't taken.
        ImageError, RequestTooLargeError: an image can't be taken; `param` is `messages[i].content[j]`.
    """
    urls: list[tuple[str, str]] = []
    for i, message in enumerate(request.messages):
        _check_message(message, f"messages[{i}]")
        if isinstance(message.get("content"), list):
            urls += _image_urls(message["content"], f"messages[{i}].content")
    decoded = iter(await images.decode(urls))
    messages: list[Mapping[str, Any]] = []
    for message in request.messages:
        content = message.get("content")
        if isinstance(content, list):
            content = [
                part if part["type"] == "text" else {"type": "image", "image": next(decoded)}
                for part in content
            ]
        messages.append({**message, "content": content})
    tools = template_tools(request.tools, request.tool_choice)
    return Conversation(tuple(messages), request.chat_template_kwargs or {}, tuple(tools))


def _check_message(message: Mapping[str, Any], where: str) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise RequestError(f"{where}.role must be one of {', '.join(ROLES)}", param=f"{where}.role")
    if content is not None and not isinstance(content, str | list):
        raise RequestError(f"{where}.content must be text or a list of parts", param=f"{where}.content")
    if content is None and not message.get("tool_calls"):
        raise RequestError(f"{where}.content is missing", param=f"{where}.content")


def _image_urls(parts: Sequence[object], where: str) -> list[tuple[str, str]]:
    urls = []
    for j, part in enumerate(parts):
        place = f"{where}[{j}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise RequestError(f"{place} must be an object with a type", param=place)
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise RequestError(f"{place}.text must be text", param=f"{place}.text")
        elif kind == "image_url":
            given = part.get("image_url")
            url = given.get("url") if isinstance(given, dict) else given
            if not isinstance(url, str):
                raise RequestError(f"{place}.image_url.url is missing", param=f"{place}.image_url")
            urls.append((url, place))
        else:
            raise RequestError(
                f"{place}: parts of type '{kind[:40]}' can't go through the gate; send text and image_url",
                param=place,
            )
    return urls


def request_schema() -> dict[str, Any]:
    """The gated request's JSON schema, for `/docs`. Open: the backend's own handler takes more fields."""
    schema = ChatRequest.model_json_schema()
    schema.pop("additionalProperties")
    definitions = schema.pop("$defs", {})
    schema["properties"]["mirl"] = MIRLOptions.model_json_schema()
    inlined: dict[str, Any] = _inlined(schema, definitions)
    return inlined


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in place: an OpenAPI document has its definitions elsewhere."""
    if isinstance(node, list):
        return [_inlined(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(one, definitions) for name, one in node.items()}


def request_example() -> dict[str, Any]:
    """A gated request that any model can answer."""
    return {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{EXAMPLE_PNG}"}},
                    {"type": "text", "text": "What colour is this?"},
                ],
            }
        ],
        "max_tokens": 200,
        "mirl": EXAMPLE_KNOBS,
    }


def _or(value: _N | None, default: _N) -> _N:
    return default if value is None else value
