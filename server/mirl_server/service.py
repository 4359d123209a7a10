"""What the routes know: the pipeline, the served names, and how to hand a request on. Nothing of vLLM."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import DrainingError, EngineDeadError, RequestError
from mirl_core.pipeline import Pipeline
from mirl_server.admission import Admission, Kind
from mirl_server.auth import Caller, caller_of
from mirl_server.metrics import Metrics
from mirl_server.requests import DIRECT
from mirl_server.settings import ServerSettings

Delegate = Callable[[dict[str, Any], Request], Awaitable[Response]]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Service:
    """One app's service, in `app.state.mirl`."""

    pipeline: Pipeline | None
    """None on a server without an engine: nothing can be gated there."""
    options: MIRLOptions
    """The knobs of a request that gives none."""
    settings: ServerSettings
    names: tuple[str, ...]
    """Served names that go through the gate."""
    cards: Callable[[], Awaitable[list[dict[str, Any]]]]
    """What the backend lists under /v1/models: served names and adapters."""
    delegate: Delegate
    """Answers a plain chat completion: the backend's own handler."""
    metrics: Metrics
    admission: Admission = field(default_factory=Admission)
    draining: Callable[[], bool] = lambda: False
    priorities: bool = False
    """Whether the engine schedules by priority."""
    force_usage: bool = False
    """Streams end with usage whether asked to or not (vLLM's `--enable-force-include-usage`)."""

    def engine_pipeline(self) -> Pipeline:
        """The pipeline; EngineDeadError on a server without an engine."""
        if self.pipeline is None:
            raise EngineDeadError("this server has no engine: it can't answer questions about images")
        return self.pipeline

    def check_priority(self, priority: int | None) -> None:
        """RequestError where a request asks for a priority that the engine does not know."""
        if priority and not self.priorities:
            raise RequestError(
                "priority needs a server that was started with --scheduling-policy priority", param="priority"
            )

    def admit(
        self,
        caller: Caller,
        sequences: int,
        tokens: int = 0,
        deadline: float | None = None,
        kind: Kind = "gated",
    ) -> AbstractAsyncContextManager[float]:
        """Wait for the caller's turn, and hold it; see `Admission.admit`.

        Raises:
            DrainingError: the server is shutting down.
        """
        if self.draining():
            raise DrainingError("the server is shutting down; send the request again", 5)
        return self.admission.admit(
            caller.name, sequences, tokens, deadline, kind=kind, weight=caller.limits.weight
        )

    def backend_name(self, asked: str) -> str:
        """The name that the backend knows: without `:direct`, unless a model is really called so."""
        return asked if asked in self.names else asked.removesuffix(DIRECT)


def service_of(request: Request) -> Service:
    """The service of a request's app."""
    service: Service = request.app.state.mirl
    return service


def request_context(
    request: Request, own_id: str | None, own_salt: str | None, priority: int
) -> RequestContext:
    """What the engine learns about a request besides its text.

    The id is the caller's (`x-request-id`, or the body's) with a suffix, because callers repeat theirs.
    """
    given = request.headers.get("x-request-id") or own_id or ""
    unique = uuid.uuid4().hex
    return RequestContext(
        request_id=f"{given}-{unique[:8]}" if _REQUEST_ID.fullmatch(given) else unique,
        cache_salt=cache_salt(caller_of(request).tenant, own_salt),
        priority=priority,
        trace_headers=tuple(
            (name, value) for name in ("traceparent", "tracestate") if (value := request.headers.get(name))
        ),
    )


def cache_salt(tenant: str | None, own: str | None) -> str | None:
    """The tenant's salt in the prefix cache, so that timing tells nobody what others asked.

    A hash of the caller's `tenant`, which is a digest of the key and as secret, together with the request's
    own salt if it has one; without a key the request's own.
    """
    if not tenant:
        return own
    salt = hashlib.blake2b(tenant.encode(), digest_size=24, person=b"mirl cache salt")
    salt.update(b"\0" + (own or "").encode())
    return salt.hexdigest()
