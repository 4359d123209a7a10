"""vLLM's own endpoints: the handlers that requests are handed on to, and what to know of the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from vllm.entrypoints.anthropic.api_router import create_messages
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.api_router import create_chat_completion
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.api_router import create_responses
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from mirl_core.errors import EngineDeadError, RequestError
from mirl_server.handling.lifetime import ENGINE_DEAD
from mirl_server.handling.service import service_of
from mirl_server.http.errors import error_response
from mirl_server.observability.request_observer import refuse

SCALING = ("/scale_elastic_ep", "/is_scaling_elastic_ep")
"""Of vLLM's endpoints, those that do nothing without --enable-elastic-ep."""
GENERATING = (
    "/v1/completions", "/v1/chat/completions/batch", "/generative_scoring", "/v1/systemone", "/invocations",
    "/cohere/v2/chat", "/v1/audio/transcriptions", "/v1/audio/translations",
)  # fmt: skip
"""vLLM's endpoints that generate, without a route of MIRL's in their place; a test holds vLLM's app to it.

Not `/inference/v1/generate`: it is there with `--enable-scale-out` alone, for gateways and trainers, which
bound what they ask for themselves and bring their tenants' salts.
"""


async def delegate(body: dict[str, Any], request: Request) -> Response:
    """vLLM's own handler of chat completions."""
    return await _handed(body, request, ChatCompletionRequest, create_chat_completion)


async def delegate_responses(body: dict[str, Any], request: Request) -> Response:
    """vLLM's own handler of the Responses API."""
    return await _handed(body, request, ResponsesRequest, create_responses)


async def delegate_messages(body: dict[str, Any], request: Request) -> Response:
    """vLLM's own handler of the Anthropic API."""
    return await _handed(body, request, AnthropicMessagesRequest, create_messages)


async def _handed(
    body: dict[str, Any],
    request: Request,
    model: type[BaseModel],
    handler: Callable[[Any, Request], Awaitable[Response | None]],
) -> Response:
    """What a handler of vLLM's answers, reached as its own route would reach it."""
    try:
        parsed = model.model_validate(body)
    except ValidationError as error:
        # What FastAPI raises for a body of the wrong shape; vLLM's app turns it into its 400.
        problems = error.errors(include_url=False)
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        raise RequestValidationError(located) from error
    except (TypeError, AttributeError, LookupError) as error:
        # Validators of vLLM's take a field for what it should be before anybody has looked.
        raise RequestError("a field is of another type than it must be; check them all") from error
    for name, value in parsed:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RequestError(f"{name} must be a number of 64 bits", param=name)
    response = await handler(parsed, request)
    # None: the client is gone.
    return Response(status_code=499) if response is None else response


async def too_deep(request: Request, error: Exception) -> Response:
    """A body that one of vLLM's handlers, or JSON's, could not get to the bottom of."""
    return error_response(RequestError("the body is nested too deeply"))


async def engine_dead(request: Request, error: Exception) -> Response:
    """vLLM's own handler says 500, and ends the server before a health check has seen anything."""
    return refuse(service_of(request), request, EngineDeadError(ENGINE_DEAD))
