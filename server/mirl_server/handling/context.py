"""The engine's context of a request: its id, its tenant's salt in the prefix cache, its trace."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

from fastapi import Request

from mirl_core.engines.base import RequestContext
from mirl_server.access.authentication import caller_of
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.observability.logs import sane_id

_HASHED = re.compile(r"(?=.*[@/\\\0]|.{129}).{1,1024}", re.DOTALL)
"""Salts that the gate takes and vLLM's handlers do not."""


def request_context(http_request: Request, request: ChatRequest) -> RequestContext:
    """Return the engine's context of a gated request.

    The id is the client's (`x-request-id`, or the body's) with a suffix, because clients repeat theirs;
    without one, the id of the request's line in the log.
    """
    client_id = sane_id(http_request.headers.get("x-request-id") or request.request_id)
    unique = uuid.uuid4().hex
    return RequestContext(
        request_id=(
            f"{client_id}-{unique[:8]}" if client_id else getattr(http_request.state, "request_id", unique)
        ),
        cache_salt=cache_salt(caller_of(http_request).tenant, request.cache_salt),
        priority=request.priority or 0,
        trace_headers=tuple(
            (name, value)
            for name in ("traceparent", "tracestate")
            if (value := http_request.headers.get(name))
        ),
    )


def add_salt(body: dict[str, Any], tenant: str | None) -> bool:
    """Put the tenant's salt into a body for the backend; return whether the body has changed.

    A salt that is not text is the backend's to refuse.
    """
    request_salt = body.get("cache_salt")
    salt = cache_salt(tenant, request_salt) if request_salt is None or isinstance(request_salt, str) else None
    if salt is None or salt == request_salt:
        return False
    body["cache_salt"] = salt
    return True


def cache_salt(tenant: str | None, request_salt: str | None) -> str | None:
    """Return the salt in the prefix cache, by which timing reveals nothing of other tenants' requests.

    A hash of the caller's `tenant`, which is a digest of the key and as secret, together with the request's
    own salt if there is one; without a key, the request's own salt, hashed where vLLM's handlers would refuse
    it.
    """
    if not tenant and (not request_salt or not _HASHED.fullmatch(request_salt)):
        return request_salt
    salt = hashlib.blake2b((tenant or "").encode(), digest_size=24, person=b"mirl cache salt")
    salt.update(b"\0" + (request_salt or "").encode())
    return salt.hexdigest()
