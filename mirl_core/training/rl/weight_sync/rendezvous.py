"""Where servers meet the first rank: an address of this machine and a port that is free on it."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from mirl_core.errors import ConfigError

__all__ = ["ADDRESS", "rendezvous_address"]

ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)?(?::(?P<port>\d{1,5}))?")
"""`HOST`, `HOST:PORT` or `:PORT`; IPv4 or a name, since vLLM's rendezvous knows no other."""
_KEY = "rollout.weights_address"


def rendezvous_address(address: str | None, urls: Sequence[str]) -> tuple[str, int]:
    """Host and port. Blocks while names are looked up; sends nothing.

    Args:
        address: as of `ADDRESS`; None: neither is given.
        urls: of the servers.

    Raises:
        ConfigError: there is no such address here, or none by which this machine reaches all of them.
    """
    given = ADDRESS.fullmatch(address or "")
    host, port = (given["host"], int(given["port"] or 0)) if given else (None, 0)
    host = host or _own_address(urls)
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


def _own_address(urls: Sequence[str]) -> str:
    """The address from which this machine reaches all servers."""
    found: dict[str, None] = {}
    for url in urls:
        parts = urlsplit(url)
        try:
            # Connecting a datagram socket sends nothing; it only chooses a way.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((parts.hostname or "", parts.port or 80))
                found[probe.getsockname()[0]] = None
        except OSError as error:
            raise ConfigError(
                f"{_KEY}: how this machine reaches {parts.hostname} can't be told ({error}); name an address "
                "at which the servers reach the first rank",
                param=_KEY,
            ) from error
    # Servers on this machine reach it by any of its addresses.
    outside = [one for one in found if not one.startswith("127.")]
    if len(outside) > 1:
        raise ConfigError(
            f"{_KEY}: this machine reaches the servers from {' and '.join(outside)}; name the address at "
            "which all of them reach it",
            param=_KEY,
        )
    return (outside or list(found))[0]
