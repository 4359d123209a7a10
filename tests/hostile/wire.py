"""What is no HTTP, or two requests in the clothes of one; and paths and methods that nobody has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.hostile.bodies import VLLMS
from tests.hostile.case import CHAT, TARGETS, Case, Cases

PATH = b"/v1/chat/completions"
GOOD = json.dumps(CHAT.body()).encode()
HEAD = b"POST " + PATH + b" HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(GOOD)
CHUNKED = b"transfer-encoding: chunked\r\n"
QUIET = 0.3
"""Seconds after a response without another."""
# What a smuggler wants answered: it would be a second response.
HIDDEN = b"GET /v1/models HTTP/1.1\r\nhost: t\r\n\r\n"


@dataclass(frozen=True)
class Wire:
    """Bytes on a connection.

    Args:
        most: responses that may come back.
        harmless: it may be answered.
    """

    name: str
    sent: bytes
    most: int = 1
    harmless: bool = False

    @property
    def id(self) -> str:
        return f"wire: {self.name}"


def wires() -> list[Wire]:
    """Connections that are to end in one 4xx, or in silence."""
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    return [
        Wire("noise", bytes(range(256))),
        Wire("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        Wire("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        Wire("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Wire("HTTP/0.9", b"GET /\r\n\r\n", harmless=True),
        Wire("HTTP/9.9", b"GET / HTTP/9.9\r\n\r\n"),
        Wire("HTTP/1.0 without a host", b"GET /v1/nowhere HTTP/1.0\r\n\r\n"),
        Wire("lines without end", b"\r\n" * 50_000),
        Wire("a line without a version", b"POST /v1/chat/completions\r\n\r\n"),
        Wire("two spaces", b"GET  /health HTTP/1.1\r\nhost: t\r\n\r\n", harmless=True),
        Wire("a tab for a space", b"GET\t/health\tHTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("a method of letters", b"FROB /health HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("a method in lower case", b"get /health HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("CONNECT", b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("a path of bytes", b"GET /\xff\xfe HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("a path without a slash", b"GET health HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("everything", b"OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("another server's path", b"GET http://evil.example/v1/nowhere HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("a long path", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: t\r\n\r\n"),
        Wire("a header without a colon", HEAD + b"nonsense\r\n\r\n"),
        Wire("a header without a name", HEAD + b": x\r\n\r\n"),
        Wire("a space in a name", HEAD + b"a b: x\r\n\r\n"),
        Wire("a NUL in a name", HEAD + b"a\0b: x\r\n\r\n"),
        Wire("a NUL in a value", HEAD + b"a: x\0y\r\n\r\n"),
        Wire("a line break in a value", HEAD + b"a: x\ry\r\n\r\n"),
        Wire("a folded header", HEAD + LENGTH + b"a: x\r\n y\r\n\r\n" + GOOD, harmless=True),
        Wire("200 headers", HEAD + b"".join(b"h%d: x\r\n" % n for n in range(200)) + b"\r\n"),
        Wire("a large header", HEAD + b"h: " + b"x" * 80_000 + b"\r\n\r\n"),
        Wire("line feeds alone", b"GET /v1/nowhere HTTP/1.1\nhost: t\n\n"),
        Wire("a length that is none", HEAD + b"content-length: many\r\n\r\n" + GOOD),
        Wire("a length below nothing", HEAD + b"content-length: -1\r\n\r\n" + GOOD),
        Wire("a length with a sign", HEAD + b"content-length: +5\r\n\r\n" + GOOD),
        Wire("a length in hex", HEAD + b"content-length: 0x5\r\n\r\n" + GOOD),
        Wire("a length of 30 digits", HEAD + b"content-length: " + b"9" * 30 + b"\r\n\r\n" + GOOD),
        Wire("a length over the limit", HEAD + b"content-length: 99999999999\r\n\r\n" + GOOD),
        Wire("two lengths", HEAD + LENGTH + b"content-length: 1\r\n\r\n" + GOOD + HIDDEN),
        Wire("two lengths in one", HEAD + b"content-length: 5, 5\r\n\r\n" + GOOD),
        Wire("a length before its colon", HEAD + b"content-length : 5\r\n\r\n" + GOOD),
        Wire("a length too short", HEAD + b"content-length: 5\r\n\r\n" + GOOD, most=2),
        Wire("chunks and a length", HEAD + CHUNKED + b"content-length: 4\r\n\r\n0\r\n\r\n" + HIDDEN),
        Wire("a length and chunks", HEAD + LENGTH + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN),
        Wire("chunks in another coding", HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN),
        Wire("chunks twice", HEAD + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN),
        Wire(
            "chunks, then identity", HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN
        ),
        Wire(
            "chunks after a vertical tab", HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN
        ),
        Wire("chunks before a colon", HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN),
        Wire("a chunk without a size", HEAD + CHUNKED + b"\r\nzz\r\nx\r\n0\r\n\r\n"),
        Wire("a chunk of endless size", HEAD + CHUNKED + b"\r\n" + b"f" * 40 + b"\r\nx"),
        Wire("a chunk below nothing", HEAD + CHUNKED + b"\r\n-1\r\nx\r\n0\r\n\r\n"),
        Wire("a chunk that is longer", HEAD + CHUNKED + b"\r\n1\r\nxyz\r\n0\r\n\r\n" + HIDDEN),
        Wire("a chunk's endless extension", HEAD + CHUNKED + b"\r\n1;" + b"x" * 200_000),
        Wire(
            "endless trailers",
            HEAD + CHUNKED + b"\r\n0\r\n" + b"".join(b"t%d: x\r\n" % n for n in range(300)),
        ),
        Wire("chunks that are good", HEAD + CHUNKED + b"\r\n" + chunk, harmless=True),
        Wire("waiting for a word", HEAD + b"expect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n"),
        Wire("waiting for another word", HEAD + b"expect: nonsense\r\ncontent-length: 2\r\n\r\n{}"),
        Wire(
            "an upgrade to HTTP/2",
            HEAD + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}",
        ),
        Wire(
            "a web socket",
            b"GET " + PATH + b" HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        ),
        Wire("a good one, then noise", HEAD + LENGTH + b"\r\n" + GOOD + b"\0\0\0", most=2, harmless=True),
        Wire("ten empty ones", (HEAD + b"content-length: 2\r\n\r\n{}") * 10, most=10),
        Wire("two hosts", HEAD + b"host: evil.example\r\ncontent-length: 2\r\n\r\n{}"),
    ]


def paths() -> Cases:
    """Paths that nobody has, and methods that a path has not."""
    for path in (
        "/", "/v1", "/v1/", "/v2/chat/completions", "/v1/chat", "/v1/chat/completion",
        "/v1/chat/completions/x",
        "//v1/chat/completions", "/v1//chat/completions", "/V1/CHAT/COMPLETIONS", "/v1/chat/completions;x=1",
        "/v1/chat/completions%00", "/v1/chat/completions%2f", "/%2e%2e/%2e%2e/etc/passwd", "/v1/mirl",
        "/v1/mirl/",
        "/v1/mirl/score/x", "/.env", "/.git/config", "/admin", "/metrics/../v1", "/static/../../etc/passwd",
        "/v1/messages/nowhere", "/v1/models/" + "x" * 5000, "/" + "a" * 8000, "/?" + "a=1&" * 3000,
    ):  # fmt: skip
        for method in ("POST", "GET"):
            body = GOOD if method == "POST" else b""
            # `/` is the start page.
            page = method == "GET" and path.partition("?")[0] == "/"
            yield Case("paths", path[:50], path, body, method=method, harmless=page or path.endswith("2f"))
    for path in sorted({target.path for target in TARGETS}):
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FROB", "PROPFIND"):
            yield Case("methods", method, path, GOOD, method=method)
    for path in (*VLLMS, "/health", "/metrics", "/ready", "/docs", "/openapi.json", "/version", "/v1/models"):
        for method in ("GET", "PUT", "DELETE", "FROB"):
            yield Case("methods", method, path, b"", method=method, harmless=True)


async def answers(port: int, sent: bytes, seconds: float = 5.0) -> list[tuple[int, bytes]]:
    """Status and body of each response, up to the end of the connection, or until nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(sent)
        wait = seconds
        while True:
            async with asyncio.timeout(wait):
                part = await reader.read(2**20)
            if not part:
                break
            received, wait = received + part, QUIET
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return list(_responses(received))


def _responses(received: bytes) -> Iterator[tuple[int, bytes]]:
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        length = re.search(rb"\ncontent-length: (\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else 0
        if status >= 200:  # not a mere "go on"
            yield status, received[:size]
        received = received[size:]
