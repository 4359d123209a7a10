"""The events of streams, as `/openapi.json` documents them: the JSON of an event's data, by API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from mirl_client import Budget, Chain, Description, Evidence, Representative, Vote
from mirl_server.apis.openapi import (
    AnthropicErrorBody,
    ChatUsage,
    Json,
    MessagesAnswer,
    OpenAIErrorBody,
    ResponsesAnswer,
)


class _Document(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class StartedStage(_Document):
    """The server has read the request."""

    event: Literal["started"]
    prompt_tokens: int
    budget: Budget


class DescribedStage(_Document):
    """One description is complete: sampled and not yet scored, or decoded."""

    event: Literal["described"]
    description: Description


class GatedStage(_Document):
    """All descriptions are scored, and each is kept or dropped."""

    event: Literal["gated"]
    descriptions: list[Description]
    mi_weight: float | None
    """λ of their MI; null where no description has one."""


class FellBackStage(_Document):
    """No description was usable; the answer is a plain one."""

    event: Literal["fell_back"]
    reason: str


class BranchedStage(_Document):
    """More descriptions or chains have started, where their number is not known from the beginning."""

    event: Literal["branched"]
    descriptions: int
    chains: int


class ChainStage(_Document):
    """One reasoning chain has ended, or was stopped."""

    event: Literal["chain"]
    chain: Chain


class DecidedStage(_Document):
    """The winner is final: no chain that still runs can change it."""

    event: Literal["decided"]
    vote: Vote | None
    representative: Representative
    """The chain whose answer wins."""
    outstanding: int
    """Chains that still run, and are stopped."""


class FinishedStage(Evidence):
    """The answer is complete; its evidence."""

    event: Literal["finished"]


Stage = StartedStage | DescribedStage | GatedStage | FellBackStage | BranchedStage | ChainStage | DecidedStage
"""A stage between the request and its answer."""


class ChunkDelta(_Document):
    """A piece of one answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    """Description and reasoning of the chain."""
    tool_calls: list[dict[str, Any]] | None = None


class ChunkChoice(_Document):
    """A piece of one of `n` answers."""

    index: int
    delta: ChunkDelta
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class ChatChunk(_Document):
    """A chunk of a chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    """Empty in the last chunk, which has the usage."""
    usage: ChatUsage | None = None
    mirl: Stage | FinishedStage | None = None
    """A stage of the choice, where the request is gated."""


class ResponsesEvent(_Document):
    """An event of the Responses API."""

    type: str
    sequence_number: int
    response: ResponsesAnswer | None = None
    """The response so far; the last one has the evidence, where the request is gated."""
    mirl: Stage | None = None
    """A stage, on `response.in_progress` of a gated request."""


class MessagesEvent(_Document):
    """An event of the Anthropic API."""

    type: str
    message: MessagesAnswer | None = None
    mirl: Stage | Evidence | None = None
    """A stage on `ping`, the evidence on `message_delta`, where the request is gated."""


def event_stream(kind: Any, error: type[BaseModel], done: bool = False) -> Json:
    """Return the media type object of a stream, in the form of OpenAPI 3.2.

    Args:
        kind: the type of an event's data.
        error: the type of its data after an error, which ends the stream.
        done: whether the data of the last event is `[DONE]`.
    """
    data: Json = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": TypeAdapter(kind | error).json_schema(mode="serialization"),
    }
    if done:
        data = {"anyOf": [{"const": "[DONE]"}, data]}
    return {"itemSchema": {"type": "object", "required": ["data"], "properties": {"data": data}}}


CHAT_STREAM = event_stream(ChatChunk, OpenAIErrorBody, done=True)
RESPONSES_STREAM = event_stream(ResponsesEvent, OpenAIErrorBody)
MESSAGES_STREAM = event_stream(MessagesEvent, AnthropicErrorBody)
