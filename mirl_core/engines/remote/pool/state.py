"""What is known of a server, as a value for `/ready` and metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mirl_core.engines.remote.pool.breaker import BreakerState
from mirl_core.engines.remote.server import Counters, Server

Status = Literal["up", "refused", "down", "left"]


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server at one moment. `last_error` may quote the server, never a request."""

    name: str
    """Unique: the URL, with the address where a name stands for several servers."""
    url: str
    address: str | None
    status: Status
    """`refused`: it answers, but is not what the engine needs; `left`: its name no longer stands for it."""
    vllm_version: str | None
    weights_version: str | None
    in_flight: int
    """Sequences."""
    breaker: BreakerState
    failures: int
    """Consecutive ones."""
    retry_in: float | None
    """Seconds until it is checked again; None where it is up."""
    last_error: str | None
    counters: Counters

    @property
    def ready(self) -> bool:
        """Whether requests go to it."""
        return self.status == "up"


def state_of(server: Server, now: float) -> ServerState:
    """Return a server's state; `now` is the event loop's time, seconds."""
    if server.up:
        status: Status = "up"
    elif server.left:
        status = "left"
    else:
        status = "refused" if server.refused else "down"
    waits = server.breaker.state == "open" and not server.left
    return ServerState(
        name=server.name,
        url=server.url,
        address=server.address,
        status=status,
        vllm_version=server.vllm_version,
        weights_version=server.weights_version,
        in_flight=server.in_flight,
        breaker=server.breaker.state,
        failures=server.breaker.failures,
        retry_in=max(0.0, server.breaker.retry_at - now) if waits else None,
        last_error=None if server.up else server.reason,
        counters=replace(server.counters),
    )
