"""The gateway's own metrics, beside MIRL's: its engines, and the requests that it passes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from mirl_core.engines.remote.server import Server

REMOTE = {
    "requests": "Requests of the gate for rendering or tokens, by engine.",
    "failures": "Requests of the gate that failed by the engine's fault.",
    "moved": "Requests of the gate that were sent to another engine after they failed at this one.",
    "openings": "How often an engine was left out because it failed.",
    "stalls": "How often an engine was left out because it stopped answering.",
}
"""The remote engine's counters of a server, without the prefix `mirl_gateway_engine_`."""


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

        self._remote = _RemoteCounters()
        registry.register(self._remote)

    def watch(
        self, ready: Callable[[], int], total: Callable[[], int], servers: Callable[[], Sequence[Server]]
    ) -> None:
        """Show the number of engines by state, and the gate's requests to each.

        Args:
            ready, total, servers: called whenever the metrics are read.
        """
        self._remote.servers = servers
        self.engines.labels("ready").set_function(ready)
        self.engines.labels("down").set_function(lambda: total() - ready())


class _RemoteCounters(Collector):
    """The counters that the remote engine keeps of each of its servers."""

    def __init__(self) -> None:
        self.servers: Callable[[], Sequence[Server]] = tuple

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, text in REMOTE.items():
            family = CounterMetricFamily(f"mirl_gateway_engine_{name}", text, labels=["engine"])
            for server in self.servers():
                family.add_metric([server.name], getattr(server.counters, name))
            yield family


@functools.cache
def process_gateway_metrics() -> GatewayMetrics:
    """Return the metrics in the process's own registry, created once: a name can be registered only once."""
    return GatewayMetrics(REGISTRY)
