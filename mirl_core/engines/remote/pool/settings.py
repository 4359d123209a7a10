"""Settings of the pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """When servers are left out, checked and looked up; seconds."""

    failures: int = 3
    """How many consecutive failures leave a server out, if it passes its health check meanwhile."""
    first_wait: float = 1.0
    """First wait before a server that was left out is checked again; it doubles each time."""
    longest_wait: float = 30.0
    """Longest such wait."""
    slack: int = 16
    """By how many sequences a server may be busier than the least busy one and still get a request whose
    prefix it may have cached. About the fan-out of one request."""
    check_seconds: float = 10.0
    """Time between two health checks of a server that is up; 0: none."""
    resolve_seconds: float | None = None
    """Time between two lookups of the servers' names; None: a name is one server."""
    stall_seconds: float = 60.0
    """How long a server may answer nothing, though it has work, before it is probed. If the probe has no
    answer for that long either, the server's requests end as lost."""
    tick: float = 0.5
    """Time between two looks at what is due."""
