"""MIRL's Prometheus metrics, beside vLLM's own on /metrics. Label values are bounded, never a user's text.

Names follow Prometheus's conventions: base units (seconds, tokens, nats, ratios), `_total` on counters. In
Prometheus's multiprocess mode (several API servers) the processes' gauges add up; MI histograms have no sum,
because their values can be negative.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from mirl_core import __version__
from mirl_core.errors import MIRLError
from mirl_core.types import Description
from mirl_server.http.errors import STATUSES
from mirl_server.media.rules import FetchOutcome

Outcome = Literal["answered", "partial", "fallback", "refused", "deadline", "failed", "cancelled"]
EngineState = Literal["ready", "draining", "dead"]
ImageStep = Literal["fetch", "decode"]
Cancelled = Literal["decided", "deadline", "disconnected", "failed"]
FATES = ("kept", "truncated", "empty", "unparsable", "duplicate", "gate", "stopped")
STAGES = ("describe", "score", "fork", "plain")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
NATS = (-20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)
NATS_PER_TOKEN = (-1, -0.5, -0.2, -0.1, 0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
WATCHED: Mapping[str, str] = {
    "queue_requests": "Requests that wait for admission.",
    "queue_sequences": "Sequences that the requests waiting for admission will start.",
    "admitted_sequences": "Sequences of the requests that are admitted.",
    "admitted_tokens": "Most tokens that the admitted requests may sample.",
    "admission_limit_sequences": "Most sequences that are admitted at once.",
    "admission_limit_tokens": "Most tokens that are admitted at once.",
}
"""Gauges whose values other parts of the server provide (`Metrics.watch`), without the prefix `mirl_`."""


class Metrics:
    """The metrics of one process.

    Args:
        registry: where the metrics are registered; vLLM's /metrics shows the process's own registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mirl_{name}", text, labels, registry=registry)

        def gauge(
            name: str, text: str, *labels: str, mode: Literal["livesum", "livemax"] = "livesum"
        ) -> Gauge:
            return Gauge(f"mirl_{name}", text, labels, registry=registry, multiprocess_mode=mode)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"mirl_{name}", text, labels, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Gated requests, by how they ended.", "outcome")
        self.running = gauge("requests_in_flight", "Gated requests being worked on.")
        self.seconds = histogram(
            "request_seconds", "Seconds from a gated request's arrival to its answer.", SECONDS
        )
        self.decision_seconds = histogram(
            "decision_seconds", "Seconds from a gated request's arrival until its vote is decided.", SECONDS
        )
        self.stage_seconds = histogram(
            "stage_seconds", "Seconds of one stage of a gated request.", SECONDS, "stage"
        )
        self.tokens = counter(
            "tokens",
            "Tokens by stage: prompt (rendered once a request), sampled, or scored.",
            "stage",
            "kind",
        )
        self.descriptions = counter("descriptions", "Descriptions: kept, or dropped by reason.", "fate")
        self.information = histogram(
            "description_information_nats", "MI of a description with its image.", NATS, "fate"
        )
        self.information_per_token = histogram(
            "description_information_nats_per_token",
            "MI of a description with its image, per content token.",
            NATS_PER_TOKEN,
            "fate",
        )
        self.chains_started = counter("chains_started", "Reasoning chains started.")
        self.chains_finished = counter(
            "chains_finished", "Chains that ended by themselves or by length.", "finish_reason"
        )
        self.chains_cancelled = counter("chains_cancelled", "Chains cancelled before their end.", "reason")
        self.vote_share = histogram("vote_share_ratio", "The winning answer's share of the vote.", SHARES)
        self.sequences = gauge("sequences_in_flight", "Descriptions and chains being sampled.")
        self.refusals = counter("refusals", "Requests refused with a 4xx status, by error code.", "reason")
        self.failures = counter("failures", "Requests failed with a 5xx status, by error code.", "reason")
        self.queue_seconds = histogram(
            "queue_seconds", "Seconds that a request waited for admission.", SECONDS
        )
        self.image_seconds = histogram(
            "image_seconds", "Seconds of fetching or decoding the images of one request.", SECONDS, "step"
        )
        self.image_fetches = counter("image_fetches", "Images by URL, by how their fetch ended.", "outcome")
        self.engine_state = gauge(
            "engine_state", "1 for the state that the engine is in.", "state", mode="livemax"
        )
        self.build = gauge("build_info", "MIRL's version.", "version", mode="livemax")
        self._watched = {name: gauge(name, text) for name, text in WATCHED.items()}
        self._followed: list[tuple[Gauge, Callable[[], float]]] = []
        self._multi_process = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.build.labels(__version__).set(1)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create every possible series at the start, so that a first failure is an increase."""
        for outcome in get_args(Outcome):
            self.requests.labels(outcome)
        for fetch_outcome in get_args(FetchOutcome):
            self.image_fetches.labels(fetch_outcome)
        for fate in FATES:
            self.descriptions.labels(fate)
        for reason in get_args(Cancelled):
            self.chains_cancelled.labels(reason)
        for error in STATUSES:
            counts, reason = self._count_of(error)
            counts.labels(reason)

    def watch(self, **reads: Callable[[], float]) -> None:
        """Show values of other parts of the server.

        Args:
            reads: a callable for each name of `WATCHED`, called whenever the metrics are read: it must be
            cheap.

        Raises:
            KeyError: a name is not in `WATCHED`.
        """
        for name, read in reads.items():
            self._follow(self._watched[name], read)

    def watch_engine(self, state: Callable[[], EngineState]) -> None:
        """Show the engine's state."""
        for value in get_args(EngineState):
            self._follow(self.engine_state.labels(value), functools.partial(_is, state, value))

    def _follow(self, gauge: Gauge, read: Callable[[], float]) -> None:
        gauge.set(read())
        if self._multi_process:
            self._followed.append((gauge, read))
        else:
            gauge.set_function(read)

    def refresh(self) -> None:
        """Write the current values of `watch`, in multiprocess mode only; called often, and cheap.

        A process that reads the metrics of all processes can't call the other processes' callables.
        """
        for gauge, read in self._followed:
            gauge.set(read())

    def refused(self, error: MIRLError) -> None:
        """Count a request that ends with this error, on any route."""
        counts, reason = self._count_of(type(error))
        counts.labels(reason).inc()

    def _count_of(self, error: type[MIRLError]) -> tuple[Counter, str]:
        status, _, code = STATUSES[error]
        return (self.refusals if status < 500 else self.failures), code or "invalid_request"

    @contextmanager
    def time_images(self, step: ImageStep) -> Iterator[None]:
        """Time a step of one request's images, failed steps too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.image_seconds.labels(step).observe(time.perf_counter() - started)

    def fetched(self, outcome: FetchOutcome) -> None:
        """Count the fetch of an image by its outcome."""
        self.image_fetches.labels(outcome).inc()

    def described(self, descriptions: tuple[Description, ...]) -> None:
        """Count a request's descriptions by fate, and observe their MI."""
        for description in descriptions:
            reason = description.reason if description.reason in FATES else "gate"
            fate = "kept" if description.kept else reason
            self.descriptions.labels(fate).inc()
            if description.mi is not None and description.mi_per_token is not None:
                self.information.labels(fate).observe(description.mi)
                self.information_per_token.labels(fate).observe(description.mi_per_token)


def _is(state: Callable[[], EngineState], value: EngineState) -> float:
    return float(state() == value)


@functools.cache
def process_metrics() -> Metrics:
    """Return the metrics in the process's own registry, created once: a name can be registered only once."""
    return Metrics(REGISTRY)
