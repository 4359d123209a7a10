"""The engines' other endpoints: which of them a gateway passes on, and how. All others are a 404.

An allow list: an endpoint that a later vLLM adds is closed until it is added here. Endpoints that administer
a server (weights, adapters, caches, sleep, scaling, profiling) or serve other processes (`/inference/…`,
`…/render`) are never passed on, with any key.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from mirl_core.errors import MIRLError, RequestError
from mirl_server.gateway.media import check_media
from mirl_server.gateway.upstream import Engine, Upstream
from mirl_server.handling.plain import check_plain
from mirl_server.handling.service import service_of
from mirl_server.handling.streaming import ClientGone
from mirl_server.http.bodies import is_json, read_json
from mirl_server.observability.request_observer import refuse

GENERATING = (
    "/v1/completions", "/v1/chat/completions/batch", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank",
    "/v2/rerank",
)  # fmt: skip
"""Paths whose POST requests need the model's time, and wait for admission."""
_FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations")
PASSED: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(GENERATING, ("POST",)),
    "/tokenize": ("POST",),
    "/detokenize": ("POST",),
    "/v1/responses/{response_id}": ("GET",),
    "/v1/responses/{response_id}/cancel": ("POST",),
}
"""Methods by path. Chat, responses, messages, their token counts and models have routes of MIRL's own."""
_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}([0-9a-f]{8})")
_SAFE_ID = re.compile(r"resp[A-Za-z0-9_-][A-Za-z0-9_.-]{0,255}")
"""vLLM takes ids that begin with `resp`, and no others."""


@dataclass(frozen=True, slots=True)
class StoredAt:
    """The id of a stored response, which names the engine that stores it."""

    mark: str

    def __call__(self, engine: Engine) -> bool:
        """Return whether this engine stores it."""
        return mark_of(engine) == self.mark


def mark_of(engine: Engine) -> str:
    """Return an engine's mark in the ids of its stored responses, the same in every gateway."""
    return hashlib.blake2b(engine.name.encode(), digest_size=4).hexdigest()


def stored_at(response_id: object) -> StoredAt | None:
    """Return the test for the engine that an id names; None where no gateway has given the id."""
    match = _RESPONSE_ID.fullmatch(response_id) if isinstance(response_id, str) else None
    return StoredAt(match[1]) if match else None


def new_response_id(engine: Engine) -> str:
    """Return the id of a response that this engine will store."""
    return f"resp_{uuid.uuid4().hex}{mark_of(engine)}"


def make_pass_through(upstream: Upstream) -> APIRouter:
    """Return the router of the endpoints that are passed on."""
    router = APIRouter()
    for path, methods in PASSED.items():
        router.add_api_route(
            path,
            _endpoint(upstream, path),
            # A path with an id would hide others (`/v1/responses/render`) behind a 405.
            methods=["GET", "POST"] if "{" in path else list(methods),
            response_class=Response,
            include_in_schema=False,
        )
    return router


def _endpoint(upstream: Upstream, template: str) -> Callable[[Request], Any]:
    async def pass_on(request: Request) -> Response:
        service = service_of(request)
        try:
            response_id = request.path_params.get("response_id")
            if response_id is not None and not (
                request.method in PASSED[template] and _SAFE_ID.fullmatch(response_id)
            ):
                raise HTTPException(404)
            content = await request.body()
            if content and template not in _FORMS and "{" not in template:
                content = await _checked(request, content)
            if response_id is None:
                return await upstream.send(request, template, content)
            return await _stored(
                upstream, request, template.replace("{response_id}", response_id), response_id
            )
        except MIRLError as error:
            return refuse(service, request, error)
        except (ClientGone, ClientDisconnect):
            return Response(status_code=499)  # nobody reads it

    return pass_on


async def _stored(upstream: Upstream, request: Request, path: str, response_id: str) -> Response:
    """Return what the engine that stores a response answers.

    An id that a client chose, or that was given before engines joined or left, is looked for at each.
    """
    tried: set[str] = set()
    stores = stored_at(response_id)
    while True:
        engine = upstream.choose(tried, stores)
        chosen = StoredAt(mark_of(engine)) if engine is not None else None
        response = await upstream.send(request, path, await request.body(), chosen)
        if engine is not None:
            tried.add(engine.name)
        if response.status_code != 404 or upstream.choose(tried, None) is None:
            return response


async def _checked(request: Request, content: bytes) -> bytes:
    """Return a body whose images have been checked, and fetched where they are URLs.

    Raises:
        RequestError: the body is no JSON object, or the request is over a limit.
    """
    if not is_json(request):
        # An engine would read it as JSON all the same, images and all.
        raise RequestError("the content type must be application/json")
    service, body = service_of(request), read_json(content)
    check_plain(body, service.settings.limits)
    changed = await check_media(service.images, body, request.receive)
    return json.dumps(body, separators=(",", ":")).encode() if changed else content
