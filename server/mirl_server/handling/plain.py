"""A plain request: handed to the backend's own handler, at its turn.

Of the body only four things change: the model's name, the tenant's cache salt, images by URL (fetched here by
MIRL's rules), and fields in a form that the gate accepts and the handler would refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from mirl_core.config import Limits
from mirl_core.errors import RequestError
from mirl_server.access.authentication import caller_of
from mirl_server.handling.api import Api
from mirl_server.handling.context import add_salt
from mirl_server.handling.cost import plain_cost
from mirl_server.handling.reading.body_schemas import hold_schemas
from mirl_server.handling.reading.request import check_penalty
from mirl_server.handling.reading.response_format import check_sizes
from mirl_server.handling.service import BackendHandler, Service
from mirl_server.handling.streaming import HeldResponse, unless_gone
from mirl_server.media.images import check_processing
from mirl_server.observability.logs import note
from mirl_server.settings.server import request_options


async def answer_plain(service: Service, request: Request, api: Api) -> Response:
    """Return the answer of the backend's own handler, under the model name that the request asks for.

    A stream holds the request's turn until it ends.

    Raises:
        MIRLError: the request is refused.
        ClientGone: the client left before its turn.
    """
    note(request.scope, endpoint=f"{api.operation}:direct")
    body, handler = api.body, api.backend_handler(service)
    model = body.get("model")
    # A name that is not text is the backend's to refuse.
    backend_model = service.backend_name(model) if isinstance(model, str) else model
    options = body.pop("mirl", None)
    if options is not None:
        # A client may send its options with every turn, follow-ups too: they are checked, and not used.
        request_options(options, service.options, service.settings.limits)
        if model != backend_model:
            raise RequestError(
                f"'{model}' is not gated: leave mirl out, or ask '{backend_model}'", param="mirl"
            )
    if model != backend_model:
        body["model"] = backend_model
    caller = caller_of(request)
    add_salt(body, caller.tenant)
    check_plain(body, service.settings.limits)
    api.fit_to_backend(service)
    await hold_schemas(body, service.form_checker())
    service.admission.check_queue(caller.name, "plain")
    await _inline_images(service, request, api)
    async with AsyncExitStack() as turn:
        await take_turn(service, request, turn, *plain_cost(body, service.max_model_len))
        response = await handler(body, request)
        if model != backend_model:
            response = rename_model(response, str(model), {str(backend_model), *service.names})
        if isinstance(response, StreamingResponse):
            return HeldResponse(response, turn.pop_all().aclose)
        return response


async def count_tokens(service: Service, request: Request, api: Api, handler: BackendHandler) -> Response:
    """Return the backend's count of a prompt's tokens, from the body of the request to be counted.

    Raises: as `answer_plain`.
    """
    body = api.body
    if isinstance(model := body.get("model"), str):
        body["model"] = service.backend_name(model)
    check_plain(body, service.settings.limits)
    api.fit_to_backend(service)
    await _inline_images(service, request, api)
    return await handler(body, request)


async def _inline_images(service: Service, request: Request, api: Api) -> None:
    """Replace the images by URL in a body with data URLs: the backend would fetch by its own rules."""
    if not (images := api.remote_images()):
        return
    urls = [(url, path) for url, path, _ in images]
    inlined = await unless_gone(request.receive, service.images.inline(urls))
    for (_, _, replace_url), url in zip(images, inlined, strict=True):
        replace_url(url)


async def take_turn(
    service: Service, request: Request, turn: AsyncExitStack, sequences: int, tokens: int
) -> None:
    """Wait for a plain request's turn, and hold it until `turn` is closed. Its body must have been read.

    Raises:
        BusyError, DrainingError: as `Admission.admit`.
        ClientGone: the client left before its turn.
    """
    caller = caller_of(request)
    admitted = turn.enter_async_context(service.admit(caller, sequences, tokens, kind="plain"))
    # A task that watches for the client costs time, and without a wait there is nothing to watch.
    at_once = service.admission.has_room(sequences, tokens, "plain")
    await (admitted if at_once else unless_gone(request.receive, admitted))


def check_plain(body: Mapping[str, Any], limits: Limits) -> None:
    """Refuse a body that would keep the backend busy for long or break it, at any of its endpoints.

    Raises:
        RequestError, RequestTooLargeError: the answers' form or the images' processed size is over the
            limits, the type of a content part is not text, or the repetition penalty is beyond its bounds.
    """
    check_sizes(body)
    _check_part_types(body.get("messages"))
    check_processing(body.get("mm_processor_kwargs"), limits)
    check_penalty(body.get("repetition_penalty"))


def _check_part_types(messages: object) -> None:
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and not isinstance(part.get("type", ""), str):
                path = f"messages[{i}].content[{j}]"
                raise RequestError(f"{path}: its type must be text, like 'image_url'", param=path)


def rename_model(response: Response, model: str, backend_names: Iterable[str]) -> Response:
    """Replace a backend name in the answer's `model` field with `model`."""
    # In compact JSON an unescaped key can't occur inside a string, so the first match is the field itself.
    names = "|".join(re.escape(json.dumps(name, ensure_ascii=False)) for name in sorted(backend_names))
    pattern = re.compile(f'"model":(?:{names})')
    field = f'"model":{json.dumps(model, ensure_ascii=False)}'
    if isinstance(response, StreamingResponse):
        response.body_iterator = _rename_in_chunks(response.body_iterator, pattern, field)
    elif response.status_code == 200:
        response.body = pattern.sub(lambda _: field, bytes(response.body).decode(), count=1).encode()
        response.headers["content-length"] = str(len(response.body))
    return response


async def _rename_in_chunks(
    chunks: AsyncIterable[str | bytes | memoryview], pattern: re.Pattern[str], field: str
) -> AsyncGenerator[str, None]:
    async for chunk in chunks:
        text = chunk if isinstance(chunk, str) else bytes(chunk).decode()
        yield pattern.sub(lambda _: field, text, count=1)
