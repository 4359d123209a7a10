"""MIRL's Prometheus metrics, beside vLLM's own on /metrics. Label values are bounded, never a user's text.

Names follow Prometheus's conventions: base units (seconds, tokens, nats, ratios), `_total` on counters. In
prometheus's multiprocess mode (several API servers) gauges of the processes add up; MI histograms have no
sum, as their values can be negative.
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
FATES = ("kept", "truncated", "empty", "unparsable", "duplicate", "gate")
STAGES = ("describe", "score", "fork", "plain")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
NATS = (-20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)
NATS_PER_TOKEN = (-1, -0.5, -0.2, -0.1, 0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
WATCHED: Mapping[str, str] = {
    "queue_requests": "Requests that wait for admission.",
    "queue_sequences": "Sequences that the requests waiting for admission will start.",
    "admitted_sequences": "Sequences of the requests that are admitted.",
    "admitted_tokens": "Tokens that the admitted requests may still take.",
    "admission_limit_sequences": "Most sequences that are admitted at once.",
    "admission_limit_tokens": "Most tokens that are admitted at once.",
}
"""Gauges that others know the value of (`Metrics.watch`); `mirl_` comes before each."""


class Metrics:
    """The metrics of one process.

    Args:
        registry: where they are registered; the process's own is what vLLM's /metrics shows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"mirl_{name}", says, labels, registry=registry)

        def gauge(
            name: str, says: str, *labels: str, mode: Literal["livesum", "livemax"] = "livesum"
        ) -> Gauge:
            return Gauge(f"mirl_{name}", says, labels, registry=registry, multiprocess_mode=mode)

        def histogram(name: str, says: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"mirl_{name}", says, labels, buckets=buckets, registry=registry)

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
        self._watched = {name: gauge(name, says) for name, says in WATCHED.items()}
        self._reads: list[tuple[Gauge, Callable[[], float]]] = []
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.build.labels(__version__).set(1)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Every series that there can be exists from the start, so that a first failure is an increase."""
        for outcome in get_args(Outcome):
            self.requests.labels(outcome)
        for end in get_args(FetchOutcome):
            self.image_fetches.labels(end)
        for fate in FATES:
            self.descriptions.labels(fate)
        for reason in get_args(Cancelled):
            self.chains_cancelled.labels(reason)
        for error in STATUSES:
            counts, reason = self._count_of(error)
            counts.labels(reason)

    def watch(self, **reads: Callable[[], float]) -> None:
        """Show what others know, by name of `WATCHED`; each is read when metrics are, so it must be cheap.

        Raises:
            KeyError: a name is none of `WATCHED`.
        """
        for name, read in reads.items():
            self._follow(self._watched[name], read)

    def watch_engine(self, state: Callable[[], EngineState]) -> None:
        """Show the engine's state."""
        for one in get_args(EngineState):
            self._follow(self.engine_state.labels(one), functools.partial(_is, state, one))

    def _follow(self, gauge: Gauge, read: Callable[[], float]) -> None:
        gauge.set(read())
        if self._several:
            self._reads.append((gauge, read))
        else:
            gauge.set_function(read)

    def refresh(self) -> None:
        """Write down what `watch` follows. Needed where several processes share their metrics: another one's
        callables can't be asked. Called often, and cheap."""
        for gauge, read in self._reads:
            gauge.set(read())

    def refused(self, error: MIRLError) -> None:
        """Count a request that ends with this error, whatever the route."""
        counts, reason = self._count_of(type(error))
        counts.labels(reason).inc()

    def _count_of(self, error: type[MIRLError]) -> tuple[Counter, str]:
        status, _, code = STATUSES[error]
        return (self.refusals if status < 500 else self.failures), code or "invalid_request"

    @contextmanager
    def time_images(self, step: ImageStep) -> Iterator[None]:
        """Time one step of one request's images; what fails is timed too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.image_seconds.labels(step).observe(time.perf_counter() - started)

    def fetched(self, outcome: FetchOutcome) -> None:
        """Count an image by URL."""
        self.image_fetches.labels(outcome).inc()

    def described(self, descriptions: tuple[Description, ...]) -> None:
        """Count what became of a request's descriptions."""
        for one in descriptions:
            reason = one.reason if one.reason in FATES else "gate"
            fate = "kept" if one.kept else reason
            self.descriptions.labels(fate).inc()
            if one.mi is not None and one.mi_per_token is not None:
                self.information.labels(fate).observe(one.mi)
                self.information_per_token.labels(fate).observe(one.mi_per_token)


def _is(state: Callable[[], EngineState], one: EngineState) -> float:
    return float(state() == one)


@functools.cache
def process_metrics() -> Metrics:
    """The metrics in the process's own registry: made once, since a name can be registered once."""
    return Metrics(REGISTRY)
