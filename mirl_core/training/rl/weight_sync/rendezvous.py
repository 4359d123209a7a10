"""The rendezvous of servers and first rank: an address of this machine and a free port."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from mirl_core.errors import ConfigError

__all__ = ["ADDRESS", "rendezvous_address"]

ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)?(?::(?P<port>\d{1,5}))?")
"""`HOST`, `HOST:PORT` or `:PORT`; IPv4 or a name, since vLLM's rendezvous supports no other."""
_KEY = "rollout.weights_address"


def rendezvous_address(address: str | None, urls: Sequence[str]) -> tuple[str, int]:
    """Return host and port of the rendezvous. Blocks while names are resolved; sends nothing.

    Args:
        address: in the form of `ADDRESS`; None: neither host nor port is set.
        urls: of the servers.

    Raises:
        ConfigError: this machine has no such address, or no single address from which it reaches all servers.
    """
    match = ADDRESS.fullmatch(address or "")
    host, port = (match["host"], int(match["port"] or 0)) if match else (None, 0)
    host = host or _local_address(urls)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{_KEY}: this machine can't be met at {host}:{port} ({error}); name an address of its own",
                param=_KEY,
            ) from error
        return host, int(listener.getsockname()[1])


def _local_address(urls: Sequence[str]) -> str:
    """Return the address from which this machine reaches all servers."""
    addresses: dict[str, None] = {}
    for url in urls:
        parts = urlsplit(url)
        try:
            # Connecting a datagram socket sends nothing; it only chooses a route.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((parts.hostname or "", parts.port or 80))
                addresses[probe.getsockname()[0]] = None
        except OSError as error:
            raise ConfigError(
                f"{_KEY}: how this machine reaches {parts.hostname} can't be told ({error}); name an address "
                "at which the servers reach the first rank",
                param=_KEY,
            ) from error
    # Servers on this machine reach it by any of its addresses, so loopback decides nothing.
    outside = [address for address in addresses if not address.startswith("127.")]
    if len(outside) > 1:
        raise ConfigError(
            f"{_KEY}: this machine reaches the servers from {' and '.join(outside)}; name the address at "
            "which all of them reach it",
            param=_KEY,
        )
    return (outside or list(addresses))[0]
