"""The servers of one model: the pool chooses one, leaves out those that fail, and readmits them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence

import httpx

from mirl_core.engines.common.concurrency import cancel_and_wait
from mirl_core.engines.remote.pool.addresses import Resolve, addresses_of, is_address
from mirl_core.engines.remote.pool.balance import choose
from mirl_core.engines.remote.pool.breaker import Breaker
from mirl_core.engines.remote.pool.settings import PoolSettings
from mirl_core.engines.remote.pool.state import ServerState, state_of
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, MIRLError, ServerError

logger = logging.getLogger(__name__)

START_SECONDS = 10.0
"""Longest wait at the start for servers that need not be up."""
REMEMBERED = 10_000
"""Most keys whose server is remembered."""


class Pool:
    """Hands out servers; a server that fails is left out until it passes `admit` again.

    Args:
        servers: may be none where names are looked up.
        admit: checks that a server lives and serves the model; raises ConnectionLost or MIRLError.
        settings: see PoolSettings.
        probe: has a server that hangs generate something; raises ConnectionLost or MIRLError.
        names: base URLs whose names stand for several servers.
        make: makes a server from a base URL and an address.
        resolve: looks names up.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        admit: Callable[[Server], Awaitable[None]],
        *,
        settings: PoolSettings | None = None,
        probe: Callable[[Server], Awaitable[None]] | None = None,
        names: Sequence[str] = (),
        make: Callable[[str, str], Server] | None = None,
        resolve: Resolve = addresses_of,
    ) -> None:
        self._settings = settings or PoolSettings()
        self._servers = list(servers)
        for server in servers:
            self._prepare(server)
        self.weights_version: str | None = None
        """The weight version that a server must have; None: any."""
        self._admit, self._probe, self._make, self._resolve = admit, probe, make, resolve
        self._names = tuple(names)
        self._resolved_at: float | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[Exception | None]] = set()
        self._checking: set[Server] = set()
        self._checked_at: dict[Server, float] = {}
        self._remembered: OrderedDict[str, Server] = OrderedDict()
        self._maintenance: asyncio.Task[None] | None = None
        self._lookup_error = ""

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers, including those that are left out."""
        return tuple(self._servers)

    @property
    def ready(self) -> bool:
        """Whether a server is up."""
        return not self._closed and any(server.up for server in self._servers)

    def states(self) -> tuple[ServerState, ...]:
        """Return what is known of every server, for `/ready` and metrics."""
        now = asyncio.get_running_loop().time()
        return tuple(state_of(server, now) for server in self._servers)

    async def start(self, *, required: bool = True) -> None:
        """Look up names, check all servers, and go on doing so until `close`.

        Args:
            required: whether a server must be up. If not, servers may join later, and what is wrong with
                them stands in their states.

        Raises:
            ConfigError: a server serves another model, or must be started with other flags.
            EngineDeadError: no server is up.
        """
        if self._names:
            await self._look_up()
        if required:
            for error in await asyncio.gather(*(self._check(server) for server in self._servers)):
                if isinstance(error, ConfigError):
                    raise error
            self._require_server()
        else:
            await self._retry(wait=False)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=START_SECONDS)
        self._maintenance = asyncio.create_task(self._maintain())

    async def pick(self, key: str | None = None, *, without: Collection[Server] = ()) -> Server:
        """Return the server for new work: see `choose`. A key that was given to `remember` keeps its server.

        Args:
            key: what requests that should meet on a server have in common.
            without: servers that have failed this work; chosen only if no other is up.

        Raises:
            EngineDeadError: no server is up.
        """
        await self.ensure()
        up = [server for server in self._servers if server.up]
        remembered = self._remembered.get(key) if key is not None else None
        if remembered is not None and remembered.up and remembered not in without:
            server = remembered
        else:
            server = choose([other for other in up if other not in without] or up, key, self._settings.slack)
        server.picked += 1
        return server

    async def keep(
        self, server: Server, key: str | None = None, *, without: Collection[Server] = ()
    ) -> Server:
        """Return the same server if it is up and hasn't failed this work, else another; see `pick`."""
        if server.up and server not in without and not self._closed:
            return server
        return await self.pick(key, without=without)

    async def ensure(self) -> None:
        """Return once a server is up, after the checks that are due.

        Raises:
            EngineDeadError: no server is up.
        """
        self._require_open()
        await self._retry()
        self._require_server()

    def remember(self, key: str, server: Server) -> None:
        """Have `pick` return this server for the key while it is up: it holds something that others lack."""
        self._remembered[key] = server
        self._remembered.move_to_end(key)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    def has_other(self, server: Server, without: Collection[Server]) -> bool:
        """Return whether another server is up that is not among `without`."""
        return any(other.up and other is not server and other not in without for other in self._servers)

    def succeeded(self, server: Server) -> None:
        """Count a request that the server answered; a refusal by the request's own fault is an answer."""
        server.breaker.success()

    async def failed(self, server: Server, error: Exception) -> None:
        """Count a failed request. Leave the server out if it failed often, or fails a health check now."""
        server.counters.failures += 1
        if not server.up:
            return
        now = asyncio.get_running_loop().time()
        if server.breaker.failure(now):
            self._leave_out(server, error)
        elif not await server.healthy():
            self._take_down(server, error)

    def restarted(self, server: Server) -> EngineError:
        """Leave out a server that sampled with other weights than were pushed; return the error to raise."""
        error = EngineError(f"{server.name} was restarted and has other weights")
        self._take_down(server, error)
        return error

    async def health(self) -> None:
        """Check the health of every server.

        Raises:
            EngineDeadError: no server is up.
        """
        self._require_open()
        await asyncio.gather(
            *(
                self._check_up(server) if server.up else self._check(server)
                for server in self._servers
                if not server.left
            )
        )
        self._require_server()

    async def update(self, update: Callable[[Server], Awaitable[None]], version: str) -> None:
        """Run `update` on every server, also on those that are down.

        A server on which it fails is left out until an update succeeds there: its samples would be another
        model's.

        Raises:
            EngineError: the update failed on every server.
        """
        self._require_open()
        servers = self.servers
        outcomes = await asyncio.gather(*(update(server) for server in servers), return_exceptions=True)
        self.weights_version = version
        for server, outcome in zip(servers, outcomes, strict=True):
            if isinstance(outcome, ConnectionLost | MIRLError):
                self._take_down(server, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                server.weights_version = version
                if not server.up:
                    await self._check(server)
        if not self.ready:
            raise EngineError(f"no server took the weights: {self._reasons()}")

    def expect(self, version: str) -> None:
        """Set the version of the servers' weights after another process has changed them."""
        self.weights_version = version
        for server in self._servers:
            server.weights_version = version

    async def close(self) -> None:
        self._closed = True
        if self._maintenance is not None:
            await cancel_and_wait([self._maintenance])
        await cancel_and_wait(self._tasks)
        await asyncio.gather(*(server.close() for server in self._servers))

    def _prepare(self, server: Server) -> None:
        chosen = self._settings
        server.breaker = Breaker(chosen.failures, first=chosen.first_wait, longest=chosen.longest_wait)
        if not server.up:
            server.breaker.state = "open"

    async def _maintain(self) -> None:
        """Do what is due, for as long as the pool is open."""
        chosen = self._settings
        while True:
            await asyncio.sleep(chosen.tick)
            now = asyncio.get_running_loop().time()
            if self._names and self._lookup_due(now):
                await self._look_up()
            await self._retry(wait=False)
            for server in self.servers:
                if server.left and not server.in_flight:
                    self._servers.remove(server)
                    self._checked_at.pop(server, None)
                    await server.close()
                elif server not in self._checking:
                    # Also where a health check has already left the server out: its requests still wait.
                    if server.silent_for(now) > chosen.stall_seconds:
                        self._start(server, self._probe_silent(server))
                    elif (
                        server.up
                        and chosen.check_seconds
                        and self._last_check(server, now) > chosen.check_seconds
                    ):
                        self._start(server, self._check_up(server))

    def _last_check(self, server: Server, now: float) -> float:
        """Return how long ago the server was checked, seconds; the first call counts as a check."""
        return now - self._checked_at.setdefault(server, now)

    def _lookup_due(self, now: float) -> bool:
        every = self._settings.resolve_seconds
        return self._resolved_at is None or (every is not None and now - self._resolved_at >= every)

    async def _look_up(self) -> None:
        """Look all names up; add servers at new addresses, and remove those whose addresses are gone."""
        assert self._make is not None
        self._resolved_at = asyncio.get_running_loop().time()
        for url in self._names:
            parsed = httpx.URL(url)
            port = parsed.port or (443 if parsed.scheme == "https" else 80)
            if is_address(parsed.host):
                addresses: Sequence[str] = (parsed.host,)
            else:
                try:
                    addresses = await self._resolve(parsed.host, port)
                except (OSError, UnicodeError) as error:
                    # The servers may well live on: those that are known stay.
                    self._lookup_error = f"{parsed.host} can't be looked up: {error}"
                    logger.warning("%s can't be looked up: %s", parsed.host, type(error).__name__)
                    continue
            self._lookup_error = ""
            known = {each.address: each for each in self._servers if each.url == url and not each.left}
            for address in addresses:
                if address not in known:
                    server = self._make(url, address)
                    self._prepare(server)
                    self._servers.append(server)
            # An empty answer is rather a fault of the name service than the end of all servers.
            gone = [server for server in known.values() if addresses and server.address not in addresses]
            for server in gone:
                logger.info("%s leaves: its name no longer stands for it", server.name)
                server.left, server.up, server.reason = True, False, "its name no longer stands for it"

    async def _retry(self, *, wait: bool = True) -> None:
        """Start checks of the servers that are due; wait for them only if no server is up."""
        now = asyncio.get_running_loop().time()
        for server in self._servers:
            if not server.up and not server.left and server not in self._checking:
                if server.breaker.state == "closed":
                    server.breaker.open(now)
                elif server.breaker.due(now):
                    self._start(server, self._check(server))
        if wait and self._tasks and not self.ready:
            await asyncio.wait(self._tasks)

    def _start(self, server: Server, check: Awaitable[Exception | None]) -> None:
        """Run a check of a server beside everything else."""

        async def run() -> Exception | None:
            try:
                return await check
            finally:
                self._checking.discard(server)

        self._checking.add(server)
        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check(self, server: Server) -> Exception | None:
        """Check whether a server that is down may join; return what is wrong with it."""
        server.breaker.begin_probe()
        try:
            await self._admit(server)
        except Exception as error:
            # Whatever a server answers must not end the pool's work.
            server.refused = isinstance(error, ConfigError)
            self._take_down(server, error)
            if not isinstance(error, ConnectionLost | MIRLError):
                logger.exception("the check of %s failed", server.name)
            return error
        self._checked_at[server] = asyncio.get_running_loop().time()
        server.breaker.close()
        server.refused = False
        if not server.left:
            logger.info("%s joins", server.name)
            server.up = True
        return None

    async def _check_up(self, server: Server) -> Exception | None:
        self._checked_at[server] = asyncio.get_running_loop().time()
        if not await server.healthy():
            self._take_down(server, EngineError("it fails vLLM's health check"))
        return None

    async def _probe_silent(self, server: Server) -> Exception | None:
        """Leave a server out, and end its requests, if it answers neither health check nor probe."""
        before = server.silent_since
        try:
            if not await server.healthy():
                raise ServerError(f"{server.name} hangs: it fails vLLM's health check", None)
            if self._probe is not None:
                async with asyncio.timeout(self._settings.stall_seconds):
                    await self._probe(server)
        except (ConnectionLost, MIRLError, TimeoutError) as error:
            if server.silent_since == before:
                server.counters.stalls += 1
                if server.up:
                    self._take_down(server, error if str(error) else ServerError("it hangs", None))
                server.abandon()
        else:
            server.answered()
        return None

    def _take_down(self, server: Server, error: Exception) -> None:
        """Leave a server out at once, until it passes a check."""
        server.breaker.open(asyncio.get_running_loop().time())
        self._leave_out(server, error)

    def _leave_out(self, server: Server, error: Exception) -> None:
        if server.up:
            server.counters.openings += 1
        if server.up or server.reason != str(error):
            logger.warning("%s is left out: %s", server.name, type(error).__name__)
        server.up, server.reason = False, str(error)

    def _require_server(self) -> None:
        self._require_open()
        if not self.ready:
            raise EngineDeadError(f"no server is left: {self._reasons()}")

    def _require_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine is closed")

    def _reasons(self) -> str:
        reasons = dict.fromkeys(server.reason for server in self._servers)
        return "; ".join(reasons) or self._lookup_error or "no name stands for a server"
