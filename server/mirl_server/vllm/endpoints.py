"""vLLM's own endpoints: the handlers that MIRL delegates requests to, and the paths of the others."""

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
from mirl_server.apis.protocol import error_response
from mirl_server.handling.lifetime import DEAD
from mirl_server.handling.service import service_of
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


async def delegate(body: dict[str, Any], request: Request) -> Response:
    """Answer a chat completion by vLLM's own handler."""
    return await _delegate_to(body, request, ChatCompletionRequest, create_chat_completion)


async def delegate_responses(body: dict[str, Any], request: Request) -> Response:
    """Answer a request of the Responses API by vLLM's own handler."""
    return await _delegate_to(body, request, ResponsesRequest, create_responses)


async def delegate_messages(body: dict[str, Any], request: Request) -> Response:
    """Answer a request of the Anthropic API by vLLM's own handler."""
    return await _delegate_to(body, request, AnthropicMessagesRequest, create_messages)


async def _delegate_to(
    body: dict[str, Any],
    request: Request,
    model: type[BaseModel],
    handler: Callable[[Any, Request], Awaitable[Response | None]],
) -> Response:
    """Return the response of a handler of vLLM's, called as its own route calls it.

    Raises:
        RequestValidationError: the body does not fit the handler's model.
        RequestError: a validator of vLLM's fails on a field's type, or a number exceeds 64 bits.
    """
    try:
        parsed = model.model_validate(body)
    except ValidationError as error:
        # FastAPI raises this for a body of the wrong shape; vLLM's app turns it into its 400.
        problems = error.errors(include_url=False)
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        raise RequestValidationError(located) from error
    except (TypeError, AttributeError, LookupError) as error:
        # Some of vLLM's validators use a field before its type is checked.
        raise RequestError("a field is of another type than it must be; check them all") from error
    for name, value in parsed:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RequestError(f"{name} must be a number of 64 bits", param=name)
    response = await handler(parsed, request)
    # None: the client has disconnected.
    return Response(status_code=499) if response is None else response


async def too_deep(request: Request, error: Exception) -> Response:
    """Answer a body whose nesting exceeds the recursion limit of vLLM's handlers or the JSON parser."""
    return error_response(RequestError("the body is nested too deeply"))


async def engine_dead(request: Request, error: Exception) -> Response:
    """vLLM's own handler says 500, and ends the server before a health check has seen anything."""
    return refuse(service_of(request), request, EngineDeadError(DEAD))
