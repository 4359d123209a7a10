"""Several vLLM servers of one model: whose turn it is, and which are out of order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, MIRLError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""How long a server that is out of order isn't asked again."""


class Pool:
    """Hands out servers in turn; one that fails is left out until it passes `admit` again.

    Args:
        servers: at least one.
        admit: checks that a server lives and serves what is expected; raises ConnectionLost or MIRLError.
    """

    def __init__(self, servers: Sequence[Server], admit: Callable[[Server], Awaitable[None]]) -> None:
        self.servers = tuple(servers)
        self.version: str | None = None
        """The weights that a server must have to be used; None: whatever it has."""
        self._admit = admit
        self._turn = 0
        self._closed = False
        self._checks: set[asyncio.Task[Exception | None]] = set()

    async def start(self) -> None:
        """Check all of them.

        Raises:
            ConfigError: one serves something else, or not as it must.
            EngineDeadError: none can be used.
        """
        wrong = await asyncio.gather(*(self._check(server) for server in self.servers))
        for error in wrong:
            if isinstance(error, ConfigError):
                raise error
        self._none_left()

    async def next(self) -> Server:
        """The server for a new conversation.

        Raises:
            EngineDeadError: none is left.
        """
        await self._retry()
        self._none_left()
        for _ in self.servers:
            server = self.servers[self._turn % len(self.servers)]
            self._turn += 1
            if server.up:
                return server
        raise AssertionError("one is up")

    async def keep(self, server: Server) -> Server:
        """The same server if it is in order, else another.

        Raises:
            EngineDeadError: none is left.
        """
        return server if server.up and not self._closed else await self.next()

    async def failed(self, server: Server, error: Exception) -> None:
        """A request failed: is it the server? If so it is left out from now on."""
        if server.up and not await server.healthy():
            self._take_down(server, error)

    def restarted(self, server: Server) -> EngineError:
        """A server sampled with weights that nobody pushed: leave it out until it has the right ones."""
        error = EngineError(f"{server.url} was restarted and has other weights")
        self._take_down(server, error)
        return error

    async def health(self) -> None:
        """Ask every server.

        Raises:
            EngineDeadError: none is left.
        """
        self._none_closed()

        async def ask(server: Server) -> None:
            if not server.up:
                await self._check(server)
            elif not await server.healthy():
                self._take_down(server, EngineError("it fails vLLM's health check"))

        await asyncio.gather(*(ask(server) for server in self.servers))
        self._none_left()

    async def update(self, update: Callable[[Server], Awaitable[None]], version: str) -> None:
        """Run `update` on every server, those out of order included. One on which it fails is left out until
        it succeeds there: what it samples would be another model's.

        Raises:
            EngineError: it failed on all of them.
        """
        self._none_closed()
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
        """Someone else gave the servers these weights."""
        self.version = version
        for server in self.servers:
            server.version = version

    async def close(self) -> None:
        self._closed = True
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self.servers))

    async def _retry(self) -> None:
        """Check those whose time has come again; nobody waits for that while another server is up."""
        now = asyncio.get_running_loop().time()
        due = [one for one in self.servers if not one.up and now - one.asked >= RETRY_SECONDS]
        checks = {asyncio.create_task(self._check(server)) for server in due}
        self._checks |= checks
        for check in checks:
            check.add_done_callback(self._checks.discard)
        if checks and not any(server.up for server in self.servers):
            await asyncio.wait(checks)

    async def _check(self, server: Server) -> Exception | None:
        # Noted at once, so that requests that come meanwhile don't check it too.
        server.asked = asyncio.get_running_loop().time()
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
        server.asked = asyncio.get_running_loop().time()

    def _none_left(self) -> None:
        self._none_closed()
        if not any(server.up for server in self.servers):
            raise EngineDeadError(f"no server is left: {self._reasons()}")

    def _none_closed(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine is closed")

    def _reasons(self) -> str:
        return "; ".join(dict.fromkeys(server.reason for server in self.servers))
