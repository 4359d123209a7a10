"""What the routes take and answer, as `/openapi.json` documents it: bodies, and every status that can come.

Routes read and send plain JSON and never go through these models; fuzzing the real server holds the two
together (tests/contract/test_fuzzing.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mirl_client import Budget, Description, Evidence, Stage

Json = dict[str, Any]
Responses = dict[int | str, Json]

EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8ISfHgA0wMeAAg1MCANDKARQfGKMRAAAAAElFTkSuQmCC"
)
"""A red square, in base64."""
EXAMPLE_KNOBS = {"descriptions": 4, "keep": 2, "forks": 1}


def an_object(required: Sequence[str] = (), **properties: Json) -> Json:
    """The schema of an object that may have more than these properties."""
    return {"type": "object", "required": list(required), "properties": properties}


OTHER = an_object(["type"], type={"type": "string"})
"""The schema of a content part, or an item, of another type: the backend's own handler knows more."""


def text_or_parts(*parts: Json) -> Json:
    """The schema of a message's content: text, or a list of parts of these and of other types."""
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [*parts, OTHER]}}]}


def a_part(kind: str, **properties: Json) -> Json:
    """The schema of a content part, all of whose properties are required."""
    return an_object(["type", *properties], type={"const": kind}, **properties)


def a_turn(roles: Sequence[str], content: Json) -> Json:
    """The schema of a message."""
    return an_object(["role"], role={"enum": list(roles)}, content=content)


def some(item: Json) -> Json:
    """The schema of a list that is not empty."""
    return {"type": "array", "minItems": 1, "items": item}


def json_body(schema: Json, example: Json) -> Json:
    """A route's `openapi_extra` that documents its request's body."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


class _Document(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class OpenAIErrorDetail(_Document):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    """The field at fault."""
    code: str | int | None = None
    """A word where MIRL refuses, the status where vLLM does."""


class OpenAIErrorBody(_Document):
    """An error as OpenAI tells it."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(_Document):
    """What went wrong."""

    type: str
    message: str


class AnthropicErrorBody(_Document):
    """An error as Anthropic tells it."""

    type: Literal["error"]
    error: AnthropicErrorDetail


class ChoicesEvidence(_Document):
    """The evidence of several answers."""

    budget: Budget
    choices: list[Evidence]


class ChatMessage(_Document):
    """One answer."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str | None = None
    """Description and reasoning of the chain."""
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(_Document):
    """One of `n` answers."""

    index: int
    message: ChatMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatUsage(_Document):
    """Tokens; every sampled one counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(_Document):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    mirl: Evidence | ChoicesEvidence | None = None
    """The evidence, where the request was gated."""


class ResponsesAnswer(_Document):
    """A response of the Responses API."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None = None
    mirl: Evidence | None = None
    """The evidence, where the request was gated."""


class MessagesAnswer(_Document):
    """A message of the Anthropic API."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any]
    mirl: Evidence | None = None
    """The evidence, where the request was gated."""


class Score(_Document):
    """How one description was scored; nats."""

    index: int
    text: str
    tokens: int
    logprob: float
    """log p of the description with the image."""
    marginal: float
    """The same without the image."""
    mi: float
    mi_per_token: float
    token_mi: list[float] | None = None


class ScoreUsage(_Document):
    """Tokens."""

    prompt_tokens: int
    scored_tokens: int
    completion_tokens: int


class ScoreAnswer(_Document):
    """The scores of a call's descriptions."""

    object: Literal["mirl.score"]
    model: str
    mi_weight: float | None
    """λ that was used."""
    data: list[Score]
    usage: ScoreUsage


class DescribeUsage(ChatUsage):
    """Tokens; every sampled one counts once."""

    scored_tokens: int


class DescribeAnswer(_Document):
    """Descriptions of an image, kept or not."""

    id: str
    object: Literal["mirl.describe"]
    created: int
    model: str
    mi_weight: float | None
    """λ that was used; null where no description was scored."""
    data: list[Description]
    stages: list[Stage]
    usage: DescribeUsage


class ServedModel(_Document):
    """A name that requests may ask for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None = None
    """For `NAME:direct` the gated name, for an adapter its base."""


class ServedModels(_Document):
    """Every such name."""

    object: Literal["list"]
    data: list[ServedModel]


_GUARD: dict[int, str] = {
    401: "The API key is missing or unknown",
    408: "The body did not arrive in time",
    413: "The body, or an image in it, is over the operator's limit",
    429: "The key's limits are used up, or there is no room; Retry-After says when to try again",
}
OPEN = {status: _GUARD[status] for status in (408, 413)}
"""What can refuse a GET that needs no key: it may carry a body too."""
READING = {401: _GUARD[401], **OPEN}
"""What can refuse any other GET; limits on requests are not for reading."""
ASKING = {
    400: "A field or an image is wrong; error.param names it",
    404: "The model is not served",
    **_GUARD,
    500: "The engine failed on this request",
    503: "The engine is gone, or the server is shutting down",
}
"""What can refuse a request to the model."""
TIMED = {**ASKING, 504: "mirl.timeout passed with nothing to return"}
"""And one that may bring its own deadline."""
HANDED_ON = {**TIMED, 501: "vLLM can't do for this model what was asked"}
"""And one that may be the backend's to answer."""


def documented(
    answer: type[BaseModel] | None,
    refusals: Mapping[int, str],
    error: type[BaseModel] = OpenAIErrorBody,
    stream: bool = False,
) -> Responses:
    """A route's `responses`.

    Args:
        answer: the body of a 200; None: it has none.
        refusals: status: when.
        error: their body.
        stream: whether a 200 may be a stream of events as well.
    """
    good: Json = {"description": "The answer"}
    if answer is not None:
        good["model"] = answer
    if stream:
        good["content"] = {"text/event-stream": {}}
    bad: Responses = {
        status: {"description": text, "model": error} for status, text in sorted(refusals.items())
    }
    return {200: good, **bad}
