"""TCP ports for servers in other processes, without a gap in which somebody else can take the port."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import psutil


def listening_port(process: int) -> int | None:
    """Return the TCP port on which a process listens; None before it does.

    A server that is started with port 0 binds once, to a port that the kernel chooses. The kernel also knows
    which: neither vLLM's log (its level and form are under test) nor an option of vLLM says so.

    Raises:
        RuntimeError: the process listens on several ports.
    """
    try:
        sockets = psutil.Process(process).net_connections("tcp")
    except psutil.Error:
        return None
    ports = {connection.laddr.port for connection in sockets if connection.status == psutil.CONN_LISTEN}
    if len(ports) > 1:
        raise RuntimeError(f"process {process} listens on ports {sorted(ports)}")
    return ports.pop() if ports else None


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a loopback port that is held while the context is open.

    For programs that must be given a number: torchrun's rendezvous, whose nodes all need it beforehand, and
    servers of third parties. The socket here is bound and never listens. Linux then lets a server bind and
    listen on the same port if it sets SO_REUSEADDR, as uvicorn, werkzeug and torch's store do, and gives the
    port to nobody who asks for any free one.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port
