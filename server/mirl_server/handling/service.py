"""The service behind the routes: pipeline, served names, admission, backend handlers; independent of vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response

from mirl_core.config import DIRECT, MIRLOptions
from mirl_core.engines.base import Engine
from mirl_core.errors import EngineDeadError, RequestError
from mirl_core.pipeline.run import Pipeline
from mirl_server.access.authentication import Caller
from mirl_server.handling.admission import Admission, Kind
from mirl_server.handling.reading.request import MAX_TOP_LOGPROBS
from mirl_server.handling.reading.tools import ToolParser
from mirl_server.http.errors import draining_error
from mirl_server.media.images import Images
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings

if TYPE_CHECKING:
    from mirl_server.observability.tracing import Tracing

BackendHandler = Callable[[dict[str, Any], Request], Awaitable[Response]]
"""Answers a request's body plainly, as the backend's own route would."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service of one app, in `app.state.mirl`."""

    pipeline: Pipeline | None
    """None on a server without an engine, or while no engine is ready: it can gate nothing."""
    options: MIRLOptions
    """The options of a request that sets none."""
    settings: ServerSettings
    names: tuple[str, ...]
    """Served names that go through the gate."""
    cards: Callable[[], Awaitable[list[dict[str, Any]]]]
    """Return the backend's entries of /v1/models: served names and adapters."""
    delegate: BackendHandler
    """The backend's own handler of chat completions."""
    metrics: Metrics
    images: Images
    """Reads the images of requests."""
    tracing: Tracing | None = None
    """The exporter of spans; None: no spans."""
    admission: Admission = field(default_factory=Admission)
    draining: Callable[[], bool] = lambda: False
    max_top_logprobs: int = MAX_TOP_LOGPROBS
    """Most of the likeliest tokens that the engine returns at a position."""
    tool_parser: ToolParser | None = None
    """The parser of tool calls in text; None: this server has none."""
    priorities: bool = False
    """Whether the engine schedules by priority."""
    handlers: Mapping[str, BackendHandler] = field(default_factory=dict)
    """The backend's own handlers of other APIs (`responses`, `messages`), where it has them."""
    checks_plain_forms: bool = True
    """Whether the engine holds answers to plain requests as it holds those of the gate, so that the gate's
    check of a form is right for both."""
    no_engine: Callable[[], str] = lambda: "this server has no engine: it can't answer questions about images"
    """Return why there is no pipeline."""
    engines: Callable[[], list[dict[str, Any]]] | None = None
    """Return each engine's state, for `/ready`, on a gateway; None: the engine is in process."""
    force_usage: bool = False
    """Whether every stream ends with its usage (vLLM's `--enable-force-include-usage`)."""

    def engine_pipeline(self) -> Pipeline:
        """Return the pipeline; raise EngineDeadError on a server without an engine."""
        if self.pipeline is None:
            raise EngineDeadError(self.no_engine())
        return self.pipeline

    def form_checker(self) -> Engine | None:
        """Return the engine that checks the forms of plain requests; None: the backend alone does."""
        return self.pipeline.engine if self.pipeline is not None and self.checks_plain_forms else None

    def check_priority(self, priority: int | None) -> None:
        """Raise RequestError where a request has a priority and the engine schedules by none."""
        if priority and not self.priorities:
            raise RequestError(
                "priority needs a server that was started with --scheduling-policy priority; "
                "on a gateway also the setting engine.priorities",
                param="priority",
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
        """Wait for the caller's turn and hold it to the end of the context; yield the wait in seconds.

        Args: as `Admission.admit`.

        Raises:
            BusyError: as `Admission.admit`.
            DrainingError: the server is shutting down.
        """
        if self.draining():
            raise draining_error()
        name, weight = caller.name, caller.limits.weight
        async with self.admission.admit(
            name, sequences, tokens, deadline, kind=kind, weight=weight
        ) as waited:
            self.metrics.queue_seconds.observe(waited)
            yield waited

    def check_top_logprobs(self, top: int | None) -> None:
        """Raise RequestError where a request asks for more likeliest tokens than the engine returns."""
        if top is not None and top > self.max_top_logprobs:
            raise RequestError(
                f"top_logprobs is {top}; this server was started with --max-logprobs {self.max_top_logprobs}",
                param="top_logprobs",
            )

    def handler(self, api: str) -> BackendHandler:
        """Return the backend's own handler of an API; raise RequestError where it has none."""
        if api not in self.handlers:
            raise RequestError(
                f"this server answers /v1/{api} only where the newest message brings an image to a gated "
                "model; send others to /v1/chat/completions"
            )
        return self.handlers[api]

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest sequence that the engine takes; 0 without an engine."""
        return self.pipeline.engine.max_model_len if self.pipeline is not None else 0

    def response_name(self, model: str | None) -> str:
        """Return the model's name in a gated response: the request's, or else the first served name."""
        return model or self.names[0]

    def backend_name(self, model: str) -> str:
        """Return the backend's name of a model: without `:direct`, unless a served name ends with it."""
        # A bare `:direct` stays: vLLM would take an empty name for its own model.
        return model if model in self.names else model.removesuffix(DIRECT) or model


def service_of(request: Request) -> Service:
    """Return the service of a request's app."""
    service: Service = request.app.state.mirl
    return service
