"""A real uvicorn on a free port, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from mirl_server.http.uvicorn_protocol import http_protocol
from mirl_server.settings.limits import HTTPSettings


class _Server(uvicorn.Server):
    """The signals of a test run are pytest's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, limits: HTTPSettings | None = None, **how: Any) -> AsyncIterator[int]:
    """The port of a server of `app`; it is gone afterwards."""
    config = uvicorn.Config(
        app,
        http=http_protocol(limits or HTTPSettings()),
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=1,
        **how,
    )
    server = _Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        try:
            yield port
        finally:
            server.should_exit = True
            await running


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader, seconds: float = 5) -> tuple[int, bytes]:
    """Status and body of the answer, up to the end of the connection."""
    async with asyncio.timeout(seconds):
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), await reader.read()
