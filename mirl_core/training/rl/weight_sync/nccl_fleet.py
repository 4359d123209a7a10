"""Transfer of weights to vLLM servers, GPU to GPU: one NCCL broadcast to the workers of all servers.

The servers run with VLLM_SERVER_DEV_MODE=1 and `--weight-transfer-config '{"backend": "nccl"}'`;
`shared_folder.py` says how far those routes are open. vLLM 0.32's weight transfer does the work on both
sides: the first rank is rank 0 of a separate process group with all workers, and parameters are sent packed,
a gigabyte at a time, gathered one by one where they are sharded. Servers are paused before and renewed after,
as for a folder.

Not run on GPUs, since none was available. Tests run vLLM's routes, its rendezvous and both of its ends on
the CPU, with a stand-in for the NCCL communicator itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.engines.vllm.weight_transfer import nccl_settings, start_sender
from mirl_core.errors import ConfigError, EngineError, MIRLError
from mirl_core.training.rl.distributed.torch_thread import in_thread
from mirl_core.training.rl.weight_sync.rendezvous import rendezvous_address
from mirl_core.training.rl.weight_sync.shared_folder import Running, check_server, control, pause, renew
from mirl_core.training.rl.weight_sync.weight_stream import WeightStream

__all__ = ["RemoteTransferSync"]

BACKEND = "nccl"
T = TypeVar("T")
Failures = dict[Server, Exception]


class Streams(Protocol):
    """A policy that yields its weights one at a time."""

    def stream(self) -> WeightStream: ...


class RemoteTransferSync:
    """Transfer of weights to all servers at once.

    A server that fails before anything is sent is left out, and joins the group again with the first push
    that reaches it; so does a restarted server. If a server is lost during the transfer, the push ends for
    all, and all servers must be restarted: they wait for the rest of a broadcast that never comes.

    Args:
        engine: whose servers receive the weights.
        address: `HOST`, `HOST:PORT` or `:PORT`, of this machine as the servers reach it; None: the address
            from which this machine reaches them, and any free port.
        running: what happens to requests that run meanwhile.
        first: whether this rank sends; the others only take part in gathering, and their callers wait for
            the first rank before they sample again.
        thread: where torch works. All collectives of all ranks must come from it.
    """

    def __init__(
        self,
        engine: RemoteEngine,
        *,
        address: str | None = None,
        running: Running = "wait",
        first: bool = True,
        thread: Executor | None = None,
    ) -> None:
        self._engine = engine
        self._address = address
        self._running = running
        self._first = first
        self._thread = thread
        self._stream: WeightStream | None = None
        self._members: tuple[Server, ...] = ()
        self._version: str | None = None
        self._sender: Any = None

    async def check(self) -> None:
        """Check before training that the servers take weights by NCCL and can reach this machine.

        Raises:
            ConfigError: a server was started without it, or `address` isn't an address of this machine.
        """
        servers = [server for server in self._engine.servers if server.up]
        await asyncio.gather(*(check_server(server) for server in servers))
        await asyncio.gather(*(_check_backend(server) for server in servers))
        if self._first:
            await self._rendezvous(servers)

    async def push(self, policy: Streams, version: int) -> None:
        """Make the servers sample with the policy's weights, under the version `version`.

        Raises:
            ConfigError: the policy's weights can't be sent one by one; no server was changed.
            EngineError: no server has the weights.
        """
        if self._stream is None:
            self._stream = policy.stream()
        stream = self._stream
        try:
            if self._first:
                await self._update(stream, str(version))
            else:
                self._engine.expect(str(version))
        finally:
            # Even after a failure: the other ranks gather every parameter together with this one.
            await in_thread(self._thread, stream.complete)

    async def close(self) -> None:
        """Leave the process group, and make the servers leave it; they keep their weights."""
        members = self._members
        await self._disband()

        async def leave(server: Server) -> None:
            with suppress(ConnectionLost, MIRLError):
                await server.control("POST", "/shutdown_weight_transfer_engine")

        await asyncio.gather(*(leave(server) for server in members))

    async def _update(self, stream: WeightStream, version: str) -> None:
        failures: Failures = {}
        paused = await _each(self._engine.servers, self._pause, failures)
        if paused:
            # A restarted server is in no group, and reports another version than the last push's.
            unchanged = set(paused) == set(self._members) and set(paused.values()) == {self._version}
            try:
                if self._sender is None or not unchanged:
                    await self._gather_servers(tuple(paused), stream, failures)
                if self._members:
                    await in_thread(self._thread, self._sender.send_weights)
            except Exception as error:  # noqa: BLE001 - vLLM's, torch's and NCCL's have no root in common
                await self._disband()
                cause = error if isinstance(error, ConfigError) else _broken(error)
                failures |= {server: cause for server in paused if server not in failures}

        async def finish(server: Server) -> None:
            if server in failures:
                raise failures[server]
            await renew(server, version)

        await self._engine.update(finish, version)
        self._version = version

    async def _pause(self, server: Server) -> str:
        """Pause a server and return the version of its weights."""
        await pause(server, self._running)
        return str((await server.control("GET", "/weight_info"))["weight_version"])

    async def _gather_servers(
        self, servers: Sequence[Server], stream: WeightStream, failures: Failures
    ) -> None:
        """Form a new process group of the servers that are able to join."""
        await self._disband()
        workers = await _each(servers, _released, failures)
        if not workers:
            return
        host, port = await self._rendezvous(list(workers))
        settings = nccl_settings(host, port, sum(workers.values()))
        fleet = _Fleet(workers, asyncio.get_running_loop(), self._abort)

        def meet() -> Any:
            return start_sender(settings, fleet, stream)

        self._sender = await in_thread(self._thread, meet)
        self._members = tuple(workers)

    async def _rendezvous(self, servers: Sequence[Server]) -> tuple[str, int]:
        return await asyncio.to_thread(rendezvous_address, self._address, [server.url for server in servers])

    async def _disband(self) -> None:
        """Leave the process group, if there is one."""
        sender, self._sender, self._members = self._sender, None, ()
        if sender is not None:
            await in_thread(self._thread, sender.shutdown)

    def _abort(self) -> None:
        """Free the trainer's thread, which sends to a server that no longer receives."""
        group = getattr(self._sender, "model_update_group", None)
        if group is not None:
            group.destroy()


class _Fleet:
    """vLLM's `VLLMWeightSyncClient` for several servers; called from other threads than the loop's.

    Args:
        workers: how many ranks of the group each server has, in the order of these ranks.
        abort: called when a server fails to receive.
    """

    def __init__(
        self, workers: Mapping[Server, int], loop: asyncio.AbstractEventLoop, abort: Callable[[], None]
    ) -> None:
        self._workers = workers
        self._loop = loop
        self._abort = abort

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        calls: list[Coroutine[Any, Any, Any]] = []
        offset = init_info["rank_offset"]
        for server, workers in self._workers.items():
            # vLLM numbers a server's workers from this offset.
            body = {"init_info": {**init_info, "rank_offset": offset}}
            calls.append(control(server, "/init_weight_transfer_engine", body))
            offset += workers
        self._wait(calls)

    def start_weight_update(self) -> None:
        self._wait([control(server, "/start_weight_update") for server in self._workers])

    def update_weights(self, update_info: Any) -> None:
        try:
            body = {"update_info": update_info}
            self._wait([control(server, "/update_weights", body) for server in self._workers])
        except BaseException:
            # Also on cancellation: the running broadcast would wait for ever for a server that doesn't
            # receive.
            self._abort()
            raise

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        # `renew` sets the version, once the caches are reset.
        self._wait([control(server, "/finish_weight_update") for server in self._workers])

    def _wait(self, calls: Sequence[Coroutine[Any, Any, Any]]) -> None:
        asyncio.run_coroutine_threadsafe(gather_or_cancel(calls), self._loop).result()


async def _each(
    servers: Sequence[Server], work: Callable[[Server], Awaitable[T]], failures: Failures
) -> dict[Server, T]:
    """Return the result of `work` per server; put the error of a server where it fails into `failures`."""
    outcomes = await asyncio.gather(*(work(server) for server in servers), return_exceptions=True)
    results: dict[Server, T] = {}
    for server, outcome in zip(servers, outcomes, strict=True):
        if isinstance(outcome, ConnectionLost | MIRLError):
            failures[server] = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            results[server] = outcome
    return results


async def _released(server: Server) -> int:
    """Return how many workers a server has, after they have left any process group.

    A trainer that was killed may have left them in a group.
    """
    await control(server, "/shutdown_weight_transfer_engine")
    return int((await server.control("GET", "/get_world_size"))["world_size"])


async def _check_backend(server: Server) -> None:
    try:
        info = await server.control("GET", "/server_info", query={"config_format": "json"}, timeout=120.0)
        config = info["vllm_config"]["weight_transfer_config"]
    except (ConnectionLost, MIRLError, KeyError, TypeError):
        # The server doesn't report it; the first push shows it.
        return
    if (config or {}).get("backend") != BACKEND:
        raise ConfigError(
            f"{server.url} takes no weights by NCCL: start it with --weight-transfer-config "
            f'\'{{"backend": "{BACKEND}"}}\''
        )


def _broken(error: Exception) -> EngineError:
    return EngineError(f"sending weights by NCCL failed ({error}); restart the servers, then run again")
