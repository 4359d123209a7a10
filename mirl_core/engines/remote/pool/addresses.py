"""Names that stand for several servers: their addresses, looked up again and again."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(name, port) → the addresses of all servers of that name. Raises OSError if the lookup fails."""


async def addresses_of(name: str, port: int) -> tuple[str, ...]:
    """Return all addresses of a name, sorted.

    Only IPv4 addresses if there are any: a server with an address in both families would count twice.

    Raises:
        OSError: the lookup fails.
    """
    loop = asyncio.get_running_loop()
    entries = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, address in entries:
        by_family.setdefault(int(family), set()).add(str(address[0]))
    return tuple(sorted(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ()))


def is_address(host: str) -> bool:
    """Return whether a URL's host is an address, which needs no lookup."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
