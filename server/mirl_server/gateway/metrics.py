"""The gateway's own metrics, beside MIRL's: its engines, and the requests that it passes on."""

from __future__ import annotations

import functools
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class GatewayMetrics:
    """The metrics of one process's gateway. Engines are labelled by their URLs, which hold no key."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.engines = Gauge(
            "mirl_gateway_engines", "The gateway's engines, by state.", ["state"], registry=registry
        )
        self.passed = Counter(
            "mirl_gateway_requests",
            "Plain requests that were passed on, by engine and status class.",
            ["engine", "status"],
            registry=registry,
        )
        self.running = Gauge(
            "mirl_gateway_requests_in_flight",
            "Plain requests that an engine answers.",
            ["engine"],
            registry=registry,
        )
        self.retries = Counter(
            "mirl_gateway_retries",
            "Plain requests that were sent to a further engine, since the first answered nothing.",
            registry=registry,
        )
        self.errors = Counter(
            "mirl_gateway_upstream_errors",
            "Failures of engines on plain requests, by engine and kind.",
            ["engine", "kind"],
            registry=registry,
        )

    def watch(self, ready: Callable[[], int], total: Callable[[], int]) -> None:
        """Show the number of engines by state.

        Args:
            ready, total: called whenever the metrics are read.
        """
        self.engines.labels("ready").set_function(ready)
        self.engines.labels("down").set_function(lambda: total() - ready())


@functools.cache
def process_gateway_metrics() -> GatewayMetrics:
    """Return the metrics in the process's own registry, created once: a name can be registered only once."""
    return GatewayMetrics(REGISTRY)
