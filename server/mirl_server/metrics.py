"""MIRL's Prometheus metrics, beside vLLM's own on /metrics. Label values are bounded, never a user's text."""

from __future__ import annotations

import functools
import time
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from mirl_core.errors import BusyError, DeadlineError, MIRLError, RequestError
from mirl_core.events import Event, Finished
from mirl_core.types import Result

Outcome = Literal["answered", "partial", "fallback", "refused", "deadline", "failed", "cancelled"]
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The metrics of one process.

    Args:
        registry: where they are registered; the process's own is what vLLM's /metrics shows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "mirl_requests", "Gated requests, by how they ended.", ["outcome"], registry=registry
        )
        self.running = Gauge(
            "mirl_requests_in_flight", "Gated requests being worked on.", registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.seconds = Histogram(
            "mirl_request_seconds", "Seconds from a gated request's arrival to its answer.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "mirl_stage_seconds", "Seconds of one stage of a gated request.", ["stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "mirl_tokens", "Tokens by stage: generated, or scored.", ["stage", "kind"], registry=registry
        )
        self.descriptions = Counter(
            "mirl_descriptions", "Descriptions: kept, or dropped by reason.", ["fate"], registry=registry
        )
        self.chains = Counter("mirl_chains", "Chains by finish reason.", ["finish_reason"], registry=registry)

    def track(self) -> Tracker:
        """Follow one gated request."""
        return Tracker(self)

    def observe(self, result: Result) -> None:
        """Count what an answered request cost."""
        for stage in result.stages:
            self.stage_seconds.labels(stage.stage).observe(stage.seconds)
            if stage.generated_tokens:
                self.tokens.labels(stage.stage, "generated").inc(stage.generated_tokens)
            if stage.scored_tokens:
                self.tokens.labels(stage.stage, "scored").inc(stage.scored_tokens)
        for description in result.descriptions:
            self.descriptions.labels("kept" if description.kept else description.reason or "gate").inc()
        for chain in result.chains:
            self.chains.labels(chain.finish_reason).inc()


class Tracker:
    """One gated request, from arrival to its one outcome. Without any other it was cancelled."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._outcome: Outcome = "cancelled"
        self._started = time.perf_counter()
        self._closed = False
        metrics.running.inc()

    def event(self, event: Event) -> None:
        """Hear of a pipeline event."""
        if not isinstance(event, Finished):
            return
        result = event.result
        self._outcome = "partial" if result.partial else "fallback" if result.fallback else "answered"
        self._metrics.seconds.observe(time.perf_counter() - self._started)
        self._metrics.observe(result)

    def failed(self, error: MIRLError) -> None:
        """Hear that the request failed."""
        self._outcome = (
            "deadline" if isinstance(error, DeadlineError)
            else "refused" if isinstance(error, RequestError | BusyError)
            else "failed"
        )  # fmt: skip

    def close(self) -> None:
        """Count the request; further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._metrics.running.dec()
            self._metrics.requests.labels(self._outcome).inc()


@functools.cache
def process_metrics() -> Metrics:
    """The metrics in the process's own registry: made once, since a name can be registered once."""
    return Metrics(REGISTRY)
