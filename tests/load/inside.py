"""What a server under test looks like inside: memory, files and threads by /proc, tasks by a middleware."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass

import httpx
import psutil
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.helpers.servers import RunningServer

TASKS, OBJECTS = "x-asyncio-tasks", "x-python-objects"


class Counting:
    """ASGI middleware that reports with the answer of /health how many tasks and objects the process has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/health":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                gc.collect()
                headers = MutableHeaders(scope=message)
                headers[TASKS] = str(len(asyncio.all_tasks()))
                headers[OBJECTS] = str(len(gc.get_objects()))
            await send(message)

        await self.app(scope, receive, counted)


@dataclass(frozen=True, slots=True)
class Inside:
    """A server's processes at one moment."""

    server_bytes: int
    """Resident memory of the API server; bytes."""
    engine_bytes: int
    """Resident memory of its engine's processes; bytes."""
    files: int
    """Open files and sockets of the API server."""
    threads: int
    tasks: int
    objects: int

    @classmethod
    def of(cls, server: RunningServer) -> Inside:
        """Look at a server that was started with `--middleware tests.load.inside.Counting`."""
        counted = httpx.get(f"{server.url}/health").headers
        process = psutil.Process(server.process.pid)
        engine = sum(child.memory_info().rss for child in process.children(recursive=True))
        return cls(
            process.memory_info().rss, engine, process.num_fds(), process.num_threads(),
            int(counted[TASKS]), int(counted[OBJECTS]),
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"API server {self.server_bytes / 1e6:.1f} MB, engine {self.engine_bytes / 1e6:.1f} MB, "
            f"{self.files} files, {self.threads} threads, {self.tasks} tasks, {self.objects} objects"
        )
