"""The gated request: the fields that it honours, and how to sample by them."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from mirl_core.engines.base import Sampling
from mirl_core.errors import RequestError
from mirl_server.handling.reading.effort import Effort
from mirl_server.handling.reading.json_schema import (
    content_schema,
    list_schema,
    message_schema,
    object_schema,
    part_schema,
)
from mirl_server.handling.reading.response_format import ResponseFormat, StructuredOutputs
from mirl_server.handling.reading.tools import Tool, ToolChoice

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_TOP_LOGPROBS = 20
"""OpenAI's limit, and the default of vLLM's `--max-logprobs`."""
LEAST_PENALTY, MOST_PENALTY = 1e-30, 1e30
"""Bounds of `repetition_penalty`: vLLM divides or multiplies logits by it in float32. Beyond the bounds
logits are infinite, and a request with a form ends in a 500."""
Number = TypeVar("Number", int, float)

_CONTENT = content_schema(
    part_schema("text", text={"type": "string"}),
    part_schema("image_url", image_url=object_schema(["url"], url={"type": "string"})),
)


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatRequest(BaseModel):
    """The fields of a gated request. A null counts as an absent field."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, title="ChatRequest"
    )

    messages: Annotated[
        list[dict[str, Any]],
        Field(min_length=1),
        WithJsonSchema(list_schema(message_schema(ROLES, _CONTENT))),
    ]
    """The conversation. The newest message is the user's and carries images: data URLs, or http(s) URLs of
    hosts that the operator allows."""
    model: str | None = None
    """A served name, answered through the gate; with `:direct` behind it, plainly by vLLM."""
    mirl: dict[str, Any] | None = None
    """MIRL's options (MIRLOptions)."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of one trajectory, description and chain together."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of `max_completion_tokens`."""
    reasoning_effort: Effort | None = None
    """The budget relative to the model's own (`medium`); N, k and m in `mirl` override it."""
    n: Annotated[int, Field(ge=1)] | None = None
    """How many voted answers to give, independent of each other."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 or -1: all tokens."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=LEAST_PENALTY, le=MOST_PENALTY)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: str | list[str] | None = None
    """Ends the answer; descriptions and reasoning are not affected."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | None = None
    """Return the answer's tokens with the model's log-probabilities, before temperature."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """The number of likeliest tokens to return at each position of the answer."""
    response_format: ResponseFormat | None = None
    """The form of answers: `text`, `json_object` or `json_schema`. Descriptions and reasoning stay free."""
    structured_outputs: StructuredOutputs | None = None
    """vLLM's field for the form of answers: `json`, `json_object` or `choice`."""
    tools: list[Tool] | None = None
    """The tools that answers may call."""
    tool_choice: ToolChoice | None = None
    """Whether they may (`auto`), must (`required`, or a tool by name) or must not (`none`) call."""
    parallel_tool_calls: bool | None = None
    """False: at most one call in an answer."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include_reasoning: bool | None = None
    """False leaves description and reasoning out of the message."""
    chat_template_kwargs: dict[str, Any] | None = None
    priority: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    request_id: Annotated[str, Field(max_length=128)] | None = None

    @field_validator("structured_outputs")
    @classmethod
    def _choices_stay_whole(
        cls, structured: StructuredOutputs | None, info: ValidationInfo
    ) -> StructuredOutputs | None:
        for stop in _strings(info.data.get("stop")):
            for choice in (structured and structured.choice) or ():
                if stop and stop in choice:
                    raise PydanticCustomError(
                        "stop",
                        "{stop} in stop would cut the choice {choice}; leave it out",
                        {"stop": repr(stop), "choice": repr(choice)},
                    )
        return structured

    def sampling(self, temperature: float, longest: int) -> Sampling:
        """Return how to sample.

        Args:
            temperature: the default.
            longest: most tokens of one trajectory; the default too.
        """
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return Sampling(
            max_tokens=min(limit or longest, longest),
            temperature=_or(self.temperature, temperature),
            top_p=_or(self.top_p, 1.0),
            top_k=max(_or(self.top_k, 0), 0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            stop=_strings(self.stop),
            seed=self.seed,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


def _strings(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def check_penalty(penalty: object) -> None:
    """Raise RequestError where a plain request's `repetition_penalty` is beyond the bounds.

    What is no number, or not above 0, is the backend's to refuse.
    """
    try:
        number = float(penalty)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        return
    if number > 0 and not LEAST_PENALTY <= number <= MOST_PENALTY:
        raise RequestError(
            f"repetition_penalty must be from {LEAST_PENALTY:g} to {MOST_PENALTY:g}",
            param="repetition_penalty",
        )
