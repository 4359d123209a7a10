"""The observer of one request, which reports its events to metrics, trace and log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.errors import MIRLError
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Result
from mirl_server.http.errors import STATUSES, error_response
from mirl_server.observability.logs import note
from mirl_server.observability.metrics import Metrics
from mirl_server.observability.request_metrics import RequestMetrics

if TYPE_CHECKING:
    from mirl_server.observability.tracing import Tracing


class Instruments(Protocol):
    """The instruments that requests are recorded with."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def tracing(self) -> Tracing | None:
        """None on a server without traces."""
        ...


class RequestObserver:
    """The observer of one request, from arrival to its end. Always `close` it.

    Args:
        operation: `chat`, `responses`, `messages`, `score` or `describe`.
        gated: whether the request passes the gate and counts among the gated requests.
    """

    def __init__(self, service: Instruments, request: Request, operation: str, *, gated: bool = True) -> None:
        self._scope = request.scope
        self._metrics = RequestMetrics(service.metrics) if gated else None
        self._trace = service.tracing.request(operation, request.headers) if service.tracing else None
        note(self._scope, endpoint=operation, trace_id=self._trace.trace_id if self._trace else None)

    def begin(
        self,
        pipeline: Pipeline,
        model: str,
        options: MIRLOptions,
        sampling: Sampling | None,
        context: RequestContext,
        stream: bool = False,
        n: int = 1,
    ) -> Pipeline:
        """Record the request's parameters; return the pipeline to run, which is traced if tracing is on."""
        if self._metrics is not None:
            self._metrics.planned(options)
        note(self._scope, id=context.request_id, model=model, stream=stream)
        if self._trace is None:
            return pipeline
        self._trace.begin(model, options, sampling, context, n)
        return pipeline.over(self._trace.through(pipeline.engine))

    async def events(self, source: AsyncGenerator[ChoiceEvent, None]) -> AsyncGenerator[ChoiceEvent, None]:
        """Yield the same events, each recorded first."""
        async with aclosing(source):
            async for event in source:
                if self._metrics is not None:
                    self._metrics.event(event)
                if self._trace is not None:
                    self._trace.event(event)
                if event.results is not None:
                    note(self._scope, **_log_fields(event.results))
                yield event

    def failed(self, error: MIRLError) -> None:
        """Record that the request failed."""
        if self._metrics is not None:
            self._metrics.failed(error)
        if self._trace is not None:
            self._trace.failed(error)

    def close(self) -> None:
        """Count the request and end its spans; further calls do nothing."""
        if self._metrics is not None:
            self._metrics.close()
            note(self._scope, outcome=self._metrics.outcome)
        if self._trace is not None:
            self._trace.close(self._metrics.outcome if self._metrics is not None else None)
            self._trace = None


def refuse(service: Instruments, request: Request, error: MIRLError) -> JSONResponse:
    """Return the response to a refused request; count the error and add it to the request's line."""
    count_error(service, request, error)
    return error_response(error)


def count_error(service: Instruments, request: Request, error: MIRLError) -> None:
    """Count an error that a client receives, and add it to the request's line."""
    service.metrics.refused(error)
    note(request.scope, error=STATUSES[type(error)][2] or type(error).__name__)


def _log_fields(results: Sequence[Result]) -> dict[str, object]:
    """Return the log fields of all choices together; the vote's share is that of a single choice only."""
    vote = results[0].vote if len(results) == 1 else None
    seconds: dict[str, float] = {}
    for stage in (stage for result in results for stage in result.stages):
        seconds[stage.stage] = seconds.get(stage.stage, 0) + stage.seconds
    return {
        "prompt_tokens": results[0].prompt_tokens,
        "completion_tokens": sum(result.completion_tokens for result in results),
        "scored_tokens": sum(result.scored_tokens for result in results),
        "descriptions": sum(len(result.descriptions) for result in results),
        "kept": sum(description.kept for result in results for description in result.descriptions),
        "chains": sum(len(result.chains) for result in results),
        "vote_share": round(vote.share, 4) if vote else None,
        "stages": {stage: round(duration, 4) for stage, duration in seconds.items()},
    }
