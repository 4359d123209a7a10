"""Choice of a server: by load alone, or by a key within a bounded difference in load."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Choosable(Protocol):
    """What the choice needs to know of a server."""

    @property
    def name(self) -> str:
        """Unique among the servers, and the same in every process."""
        ...

    @property
    def in_flight(self) -> int:
        """Sequences that the server works on."""
        ...

    picked: int
    """How often the server was chosen."""


C = TypeVar("C", bound=Choosable)


def choose(servers: Sequence[C], key: str | None, slack: int) -> C:
    """Return the server for new work.

    Without a key, it is the least loaded server; among equals, the server that was chosen least often. With a
    key, it is the server with the highest rendezvous hash among those with at most `slack` sequences more
    than the least loaded. So every process sends a key to the same server while that server has room. When a
    server joins or leaves, only its own keys move.

    Args:
        servers: at least one.
        key: the common prefix of requests that should reach the same server.
        slack: sequences.
    """
    least = min(server.in_flight for server in servers)
    if key is None:
        return min(
            (server for server in servers if server.in_flight == least), key=lambda server: server.picked
        )
    candidates = (server for server in servers if server.in_flight <= least + slack)
    return max(candidates, key=lambda server: _weight(key, server.name))


def _weight(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()
