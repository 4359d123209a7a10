"""The pool of vLLM servers of one model: takes turns, leaves failing servers out and readmits them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from mirl_core.engines.common.concurrency import cancel_and_wait
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, MIRLError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Wait before a server that is down is checked again."""


class Pool:
    """Hands out servers in turn; a server that fails is left out until it passes `admit` again.

    Args:
        servers: at least one.
        admit: checks that a server lives and serves the model; raises ConnectionLost or MIRLError.
    """

    def __init__(self, servers: Sequence[Server], admit: Callable[[Server], Awaitable[None]]) -> None:
        self.servers = tuple(servers)
        self.version: str | None = None
        """The weight version that a server must have; None: any."""
        self._admit = admit
        self._turn = 0
        self._closed = False
        self._checks: set[asyncio.Task[Exception | None]] = set()

    async def start(self) -> None:
        """Check all servers.

        Raises:
            ConfigError: a server serves another model, or must be started with other flags.
            EngineDeadError: no server is up.
        """
        errors = await asyncio.gather(*(self._check(server) for server in self.servers))
        for error in errors:
            if isinstance(error, ConfigError):
                raise error
        self._require_server()

    async def next(self) -> Server:
        """Return the server for a new conversation.

        Raises:
            EngineDeadError: no server is up.
        """
        await self._retry()
        self._require_server()
        for _ in self.servers:
            server = self.servers[self._turn % len(self.servers)]
            self._turn += 1
            if server.up:
                return server
        raise AssertionError("_require_server passed, but no server is up")

    async def keep(self, server: Server) -> Server:
        """Return the same server if it is up, else another.

        Raises:
            EngineDeadError: no server is up.
        """
        return server if server.up and not self._closed else await self.next()

    async def failed(self, server: Server, error: Exception) -> None:
        """Leave a server out if it fails a health check after a failed request."""
        if server.up and not await server.healthy():
            self._take_down(server, error)

    def restarted(self, server: Server) -> EngineError:
        """Leave out a server that sampled with other weights than were pushed; return the error to raise."""
        error = EngineError(f"{server.url} was restarted and has other weights")
        self._take_down(server, error)
        return error

    async def health(self) -> None:
        """Check the health of every server.

        Raises:
            EngineDeadError: no server is up.
        """
        self._require_open()

        async def check(server: Server) -> None:
            if not server.up:
                await self._check(server)
            elif not await server.healthy():
                self._take_down(server, EngineError("it fails vLLM's health check"))

        await asyncio.gather(*(check(server) for server in self.servers))
        self._require_server()

    async def update(self, update: Callable[[Server], Awaitable[None]], version: str) -> None:
        """Run `update` on every server, also on those that are down.

        A server on which it fails is left out until an update succeeds there: its samples would be another
        model's.

        Raises:
            EngineError: the update failed on every server.
        """
        self._require_open()
        outcomes = await asyncio.gather(*(update(server) for server in self.servers), return_exceptions=True)
        self.version = version
        for server, outcome in zip(self.servers, outcomes, strict=True):
            if isinstance(outcome, ConnectionLost | MIRLError):
                self._take_down(server, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                server.version = version
                if not server.up:
                    await self._check(server)
        if not any(server.up for server in self.servers):
            raise EngineError(f"no server took the weights: {self._reasons()}")

    def expect(self, version: str) -> None:
        """Set the version of the servers' weights after another process has changed them."""
        self.version = version
        for server in self.servers:
            server.version = version

    async def close(self) -> None:
        self._closed = True
        await cancel_and_wait(self._checks)
        await asyncio.gather(*(server.close() for server in self.servers))

    async def _retry(self) -> None:
        """Start checks of the servers that are due; wait for them only if no server is up."""
        now = asyncio.get_running_loop().time()
        due = [
            server for server in self.servers if not server.up and now - server.checked_at >= RETRY_SECONDS
        ]
        checks = {asyncio.create_task(self._check(server)) for server in due}
        self._checks |= checks
        for check in checks:
            check.add_done_callback(self._checks.discard)
        if checks and not any(server.up for server in self.servers):
            await asyncio.wait(checks)

    async def _check(self, server: Server) -> Exception | None:
        # Set before the check, so that requests that arrive meanwhile don't start another.
        server.checked_at = asyncio.get_running_loop().time()
        try:
            await self._admit(server)
        except (ConnectionLost, MIRLError) as error:
            self._take_down(server, error)
            return error
        server.up = True
        return None

    def _take_down(self, server: Server, error: Exception) -> None:
        if server.up or server.reason != str(error):
            logger.warning("%s is left out: %s", server.url, type(error).__name__)
        server.up, server.reason = False, str(error)
        server.checked_at = asyncio.get_running_loop().time()

    def _require_server(self) -> None:
        self._require_open()
        if not any(server.up for server in self.servers):
            raise EngineDeadError(f"no server is left: {self._reasons()}")

    def _require_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine is closed")

    def _reasons(self) -> str:
        return "; ".join(dict.fromkeys(server.reason for server in self.servers))
