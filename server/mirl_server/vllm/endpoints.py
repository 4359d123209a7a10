"""vLLM's own endpoints: the handlers that MIRL delegates requests to, and the paths of the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from vllm.entrypoints.anthropic.api_router import count_tokens, create_messages
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.api_router import create_chat_completion
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.api_router import create_responses
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param

from mirl_core.errors import EngineDeadError, RequestError
from mirl_server.apis.messages.request import FIELDS as MESSAGES_FIELDS
from mirl_server.apis.responses.request import FIELDS as RESPONSES_FIELDS
from mirl_server.handling.lifetime import ENGINE_DEAD
from mirl_server.handling.reading.fields import INERT
from mirl_server.handling.service import service_of
from mirl_server.http.errors import error_response
from mirl_server.observability.request_observer import refuse

SCALING = ("/scale_elastic_ep", "/is_scaling_elastic_ep")
"""vLLM's endpoints that do nothing without --enable-elastic-ep."""
GENERATING = (
    "/v1/completions", "/v1/chat/completions/batch", "/generative_scoring", "/v1/systemone", "/invocations",
    "/cohere/v2/chat", "/v1/audio/transcriptions", "/v1/audio/translations",
)  # fmt: skip
"""vLLM's endpoints that generate and that no route of MIRL's replaces; a test compares them with vLLM's app.

Without `/inference/v1/generate`: it exists with `--enable-scale-out` only, for gateways and trainers, which
limit their own requests and send their tenants' cache salts.
"""


_LABELS = frozenset(INERT) | MESSAGES_FIELDS.inert | RESPONSES_FIELDS.inert
"""Fields that never change an answer; the gate takes them whatever they hold."""


async def delegate(body: dict[str, Any], request: Request) -> Response:
    """Answer a chat completion by vLLM's own handler."""
    return await _delegate_to(body, request, ChatCompletionRequest, create_chat_completion)


async def delegate_responses(body: dict[str, Any], request: Request) -> Response:
    """Answer a request of the Responses API by vLLM's own handler."""
    return await _delegate_to(body, request, ResponsesRequest, create_responses)


async def delegate_messages(body: dict[str, Any], request: Request) -> Response:
    """Answer a request of the Anthropic API by vLLM's own handler."""
    return await _delegate_to(body, request, AnthropicMessagesRequest, create_messages)


async def delegate_count(body: dict[str, Any], request: Request) -> Response:
    """Count the tokens of a prompt of the Anthropic API by vLLM's own handler."""
    return await _delegate_to(body, request, AnthropicCountTokensRequest, count_tokens)


async def _delegate_to(
    body: dict[str, Any],
    request: Request,
    model: type[BaseModel],
    handler: Callable[[Any, Request], Awaitable[Response | None]],
) -> Response:
    """Return the response of a handler of vLLM's, called as its own route calls it.

    Raises:
        RequestError: the body does not fit the handler's model, a validator of vLLM's fails on a field's
            type, or a number exceeds 64 bits.
    """
    try:
        parsed = _parsed(body, model)
    except ValidationError as error:
        raise _refusal(error) from error
    except (TypeError, AttributeError, LookupError) as error:
        # Some of vLLM's validators use a field before its type is checked.
        raise RequestError("a field is of another type than it must be; check them all") from error
    for name, value in parsed:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RequestError(f"{name} must be a number of 64 bits", param=name)
    response = await handler(parsed, request)
    # None: the client has disconnected.
    return Response(status_code=499) if response is None else response


def _parsed(body: dict[str, Any], model: type[BaseModel]) -> Any:
    """Return the body as vLLM's model, without labels that are of another type than vLLM's.

    Raises:
        ValidationError: it does not fit.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors(include_input=False) if problem["loc"]}
        if not wrong or not wrong <= _LABELS:
            raise
    return model.model_validate({name: value for name, value in body.items() if name not in wrong})


def _refusal(error: ValidationError) -> RequestError:
    """Return the error of a body that does not fit, which names the field and quotes nothing of it."""
    problems = error.errors(include_url=False, include_input=False)
    # Of the members of a union, the one that got furthest is most likely the one that was meant.
    problem = max(problems, key=lambda problem: len(problem["loc"]))
    # vLLM's validators name the field in their errors, pydantic's in the place of the problem.
    param = getattr(problem.get("ctx", {}).get("error"), "parameter", None)
    if param is None and problem["loc"]:
        param = clean_loc_for_param(problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return RequestError(message if param is None else f"{param}: {message}", param=param)


async def too_deep(request: Request, error: Exception) -> Response:
    """Answer a body whose nesting exceeds the recursion limit of vLLM's handlers or the JSON parser."""
    return error_response(RequestError("the body is nested too deeply"))


async def engine_dead(request: Request, error: Exception) -> Response:
    """Answer 503. vLLM's own handler answers 500 and ends the server before health checks fail."""
    return refuse(service_of(request), request, EngineDeadError(ENGINE_DEAD))
