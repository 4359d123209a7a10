"""What the routes know: the pipeline, the served names, and how to hand a request on. Nothing of vLLM."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import DrainingError, EngineDeadError, RequestError
from mirl_core.pipeline.run import Pipeline
from mirl_server.access.authentication import Caller, caller_of
from mirl_server.handling.admission import Admission, Kind
from mirl_server.handling.requests import DIRECT, MAX_TOP_LOGPROBS
from mirl_server.handling.tools import ToolParser
from mirl_server.media.images import Images
from mirl_server.observability.logs import sane_id
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings

if TYPE_CHECKING:
    from mirl_server.observability.tracing import Tracing

Delegate = Callable[[dict[str, Any], Request], Awaitable[Response]]


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
    images: Images
    """Reads the images of requests."""
    tracing: Tracing | None = None
    """Where spans go; None: nowhere."""
    admission: Admission = field(default_factory=Admission)
    """Whose turn it is."""
    draining: Callable[[], bool] = lambda: False
    max_top_logprobs: int = MAX_TOP_LOGPROBS
    """How many likeliest tokens the engine tells at a position."""
    tool_parser: ToolParser | None = None
    """Finds tool calls in text; None: this server can't."""
    priorities: bool = False
    """Whether the engine schedules by priority."""
    handlers: Mapping[str, Delegate] = field(default_factory=dict)
    """The backend's own handlers of its other APIs (`responses`, `messages`), where it has them."""
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

    @asynccontextmanager
    async def admit(
        self,
        caller: Caller,
        sequences: int,
        tokens: int = 0,
        deadline: float | None = None,
        kind: Kind = "gated",
    ) -> AsyncIterator[float]:
        """Wait for the caller's turn, and hold it to the end of the context; see `Admission.admit`.

        Raises:
            BusyError: as there.
            DrainingError: the server is shutting down.
        """
        if self.draining():
            raise DrainingError("the server is shutting down; send the request again", 5)
        name, weight = caller.name, caller.limits.weight
        async with self.admission.admit(
            name, sequences, tokens, deadline, kind=kind, weight=weight
        ) as waited:
            self.metrics.queue_seconds.observe(waited)
            yield waited

    def check_top_logprobs(self, top: int | None) -> None:
        """RequestError where a request asks for more likeliest tokens than the engine tells."""
        if top is not None and top > self.max_top_logprobs:
            raise RequestError(
                f"top_logprobs is {top}; this server was started with --max-logprobs {self.max_top_logprobs}",
                param="top_logprobs",
            )

    def handler(self, api: str) -> Delegate:
        """The backend's own handler of an API; RequestError where it has none."""
        if api not in self.handlers:
            raise RequestError(
                f"this server answers /v1/{api} only where the newest message brings an image to a gated "
                "model; send others to /v1/chat/completions"
            )
        return self.handlers[api]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the engine takes; 0 without one."""
        return self.pipeline.engine.max_model_len if self.pipeline is not None else 0

    def backend_name(self, asked: str) -> str:
        """The name that the backend knows: without `:direct`, unless a model is really called so."""
        # Without a name before it the suffix is none: vLLM takes an empty name for its own.
        return asked if asked in self.names else asked.removesuffix(DIRECT) or asked


def service_of(request: Request) -> Service:
    """The service of a request's app."""
    service: Service = request.app.state.mirl
    return service


def request_context(
    request: Request, own_id: str | None, own_salt: str | None, priority: int
) -> RequestContext:
    """What the engine learns about a request besides its text.

    The id is the caller's (`x-request-id`, or the body's) with a suffix, because callers repeat theirs; or
    else the one that the request's line in the log has.
    """
    given = sane_id(request.headers.get("x-request-id") or own_id)
    unique = uuid.uuid4().hex
    return RequestContext(
        request_id=f"{given}-{unique[:8]}" if given else getattr(request.state, "request_id", unique),
        cache_salt=cache_salt(caller_of(request).tenant, own_salt),
        priority=priority,
        trace_headers=tuple(
            (name, value) for name in ("traceparent", "tracestate") if (value := request.headers.get(name))
        ),
    )


def add_salt(body: dict[str, Any], tenant: str | None) -> bool:
    """Put the tenant's salt into a body for the backend; whether it is another body now.

    A salt that isn't text is left for the backend to refuse.
    """
    own = body.get("cache_salt")
    salt = cache_salt(tenant, own) if own is None or isinstance(own, str) else None
    if salt is None or salt == own:
        return False
    body["cache_salt"] = salt
    return True


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
