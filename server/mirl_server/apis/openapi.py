"""The routes' request and response bodies and statuses, as `/openapi.json` documents them.

Routes read and send plain JSON without these models; fuzzing the real server holds the two together
(tests/contract/test_fuzzing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mirl_client import Budget, Description, Evidence, Stage

Json = dict[str, Any]
Responses = dict[int | str, Json]


def json_body(schema: Json, example: Json) -> Json:
    """Return a route's `openapi_extra`, which documents its request's body."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


class _Document(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class OpenAIErrorDetail(_Document):
    """An error."""

    message: str
    type: str
    param: str | None = None
    """The field at fault."""
    code: str | int | None = None
    """A word from MIRL, the status from vLLM."""


class OpenAIErrorBody(_Document):
    """An error in OpenAI's form."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(_Document):
    """An error."""

    type: str
    message: str


class AnthropicErrorBody(_Document):
    """An error in Anthropic's form."""

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
    """Tokens; every sampled token counts once."""

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
    """The score of one description; nats."""

    index: int
    text: str
    tokens: int
    logprob: float
    """log p of the description with the image."""
    marginal: float
    """log p of the description without the image."""
    mi: float
    mi_per_token: float
    token_mi: list[float] | None = None
    """MI of each token, where the request asks for it."""
    token_pmi: list[float] | None = None
    """MI of each token at λ = 1, not clipped, beside `token_mi`."""
    token_texts: list[str] | None = None
    """Text of each token, beside `token_mi`."""


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
    """λ of the scores."""
    data: list[Score]
    usage: ScoreUsage


class DescribeUsage(ChatUsage):
    """Tokens; every sampled token counts once."""

    scored_tokens: int


class DescribeAnswer(_Document):
    """Descriptions of an image, kept or not."""

    id: str
    object: Literal["mirl.describe"]
    created: int
    model: str
    mi_weight: float | None
    """λ of the scores; null where no description was scored."""
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
    """Every served name."""

    object: Literal["list"]
    data: list[ServedModel]


_BEFORE_ROUTES: dict[int, str] = {
    401: "The API key is missing or unknown",
    408: "The body did not arrive in time",
    413: "The body, or an image in it, is over the operator's limit",
    429: "The key's limits are used up, or there is no room; Retry-After says when to try again",
}
OPEN_GET_ERRORS = {status: _BEFORE_ROUTES[status] for status in (408, 413)}
"""Errors of a GET that needs no key: it may carry a body too."""
GET_ERRORS = {401: _BEFORE_ROUTES[401], **OPEN_GET_ERRORS}
"""Errors of any other GET; limits on requests do not apply to reading."""
MODEL_ERRORS = {
    400: "A field or an image is wrong; error.param names it",
    404: "The model is not served",
    **_BEFORE_ROUTES,
    500: "The engine failed on this request",
    503: "The engine is gone, or the server is shutting down",
}
"""Errors of a request to the model."""
DEADLINE_ERRORS = {**MODEL_ERRORS, 504: "mirl.timeout passed with nothing to return"}
"""Errors of a request that may have a deadline."""
BACKEND_ERRORS = {**DEADLINE_ERRORS, 501: "vLLM does not support the request for this model"}
"""Errors of a request that may go to the backend."""


def documented(
    answer: type[BaseModel] | None,
    refusals: Mapping[int, str],
    error: type[BaseModel] = OpenAIErrorBody,
    stream: Json | None = None,
) -> Responses:
    """Return a route's `responses`.

    Args:
        answer: the model of a 200's body; None: no body.
        refusals: the cause by status.
        error: the model of an error's body.
        stream: the media type object of a 200's stream of events; None: a 200 is no stream.
    """
    success: Json = {"description": "The answer"}
    if answer is not None:
        success["model"] = answer
    if stream is not None:
        success["content"] = {"text/event-stream": stream}
    errors: Responses = {
        status: {"description": text, "model": error} for status, text in sorted(refusals.items())
    }
    return {200: success, **errors}
