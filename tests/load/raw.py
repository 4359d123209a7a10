"""Requests over bare sockets, which can do what no client library does: stop reading, end one side, reset."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import httpx

from tests.helpers.servers import RunningServer

CHAT = "/v1/chat/completions"


def head(path: str, length: int, key: str = "") -> bytes:
    """A request's head, for a body of a length."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: t",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    ]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, "", ""]).encode()


def dial(server: RunningServer, window: int | None = None) -> socket.socket:
    """A connection; `window`: bytes that the client's side holds unread, about."""
    url = httpx.URL(server.url)
    connection = socket.socket()
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(60)
    connection.connect((url.host, url.port))
    return connection


def connect(
    server: RunningServer, body: dict[str, Any], path: str = CHAT, key: str = "", window: int | None = None
) -> socket.socket:
    """A connection on which a request was sent."""
    content = json.dumps(body).encode()
    connection = dial(server, window)
    connection.sendall(head(path, len(content), key) + content)
    return connection


def drop(connection: socket.socket, how: str) -> None:
    """End a connection: `close` it, or `reset` it, as a client does that crashed."""
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def rest(connection: socket.socket) -> bytes:
    """All that is still to come, to the end of the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass  # cut
    return b"".join(parts)
