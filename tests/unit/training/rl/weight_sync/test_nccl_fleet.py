"""Weights to servers by vLLM's own transfer: its routes, its rendezvous and both of its ends, on the CPU.

Real here: HTTP, vLLM's router and its requests, vLLM's sender and receiver, the TCP store they meet at,
ranks, packing. Stood in for: the NCCL communicator (the store carries the bytes instead), CUDA's streams, and
the engine around the receiver. That NCCL itself carries them has not been tested.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from torch import nn

from mirl_core.engines.remote.checks import ServedModel
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.server import Server
from mirl_core.errors import ConfigError, EngineError
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.recipe.config import RLRecipe, RolloutConfig
from mirl_core.training.rl.weight_sync.nccl_fleet import RemoteTransferSync
from mirl_core.training.rl.weight_sync.sampler import opened_sampler
from mirl_core.training.rl.weight_sync.weight_stream import WeightStream
from tests.unit.engines.remote.remote_cases import FakeServers, Letters, engine

PAUSE, RENEW = ["pause"], ["reset_prefix_cache", "reset_encoder_cache", "update_weight_version", "resume"]
MEET = ["shutdown", "init"]
UPDATE = ["start", "update", "finish"]


class Network(nn.Module):
    """A trainer's network around a model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed = nn.Embedding(5, 3)
        self.model.inner = nn.Linear(3, 3)
        self.model.head = nn.Linear(3, 5, bias=False)
        self.model.head.weight = self.model.embed.weight


class Policy:
    def __init__(self) -> None:
        self.network = Network()

    def stream(self) -> WeightStream:
        return WeightStream(self.network, self.network.model, None, torch.bfloat16)

    @property
    def expected(self) -> dict[str, torch.Tensor]:
        inner, embed = self.network.model.inner, self.network.model.embed
        values = {"embed.weight": embed.weight, "inner.weight": inner.weight, "inner.bias": inner.bias}
        return {name: value.detach().to(torch.bfloat16) for name, value in values.items()}


class Communicator:
    """`PyNcclCommunicator` with the group's TCP store for a wire."""

    def __init__(self, group: Any, device: Any) -> None:
        self.group, self.rank, self.world_size = group, group.rank, group.world_size
        self.disabled = False

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        if not self.disabled:
            tensor.copy_(self.group.broadcast(tensor, src))

    def destroy(self) -> None:
        self.disabled = True


@pytest.fixture
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.device_communicators import pynccl
    from vllm.distributed.weight_transfer import packed_tensor

    class Stream:
        def synchronize(self) -> None: ...

    monkeypatch.setattr(pynccl, "PyNcclCommunicator", Communicator)
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, n: [Stream() for _ in range(n)])
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)


@dataclass
class Worker:
    """One GPU of a server: vLLM's receiver, and what it received."""

    receiver: Any
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.weights |= {name: value.clone() for name, value in weights}


class EngineClient:
    """The engine behind a server's routes: `workers` receivers, each called in a thread of its own, as vLLM
    calls its workers' processes together."""

    def __init__(self, workers: int) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

        parallel = SimpleNamespace(world_size=workers, world_size_across_dp=workers)
        self.vllm_config = SimpleNamespace(parallel_config=parallel)
        self.workers = []
        for rank in range(workers):
            own = SimpleNamespace(data_parallel_index=0, world_size=workers, rank=rank)
            config = SimpleNamespace(parallel_config=own, model_config=None)
            worker = Worker(None)
            worker.receiver = NCCLWeightTransferEngine(None, config, torch.device("cpu"), worker)
            self.workers.append(worker)
        self.version = "default"
        self.calls: list[str] = []
        self.fail_at = ""
        self.init_infos: list[dict[str, Any]] = []

    async def _note(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail_at:
            raise RuntimeError("no")

    async def _all(self, call: Any) -> None:
        await asyncio.gather(*(asyncio.to_thread(call, worker.receiver) for worker in self.workers))

    async def pause_generation(self, **options: Any) -> None:
        assert options == {"mode": "wait", "clear_cache": False}
        await self._note("pause")

    async def resume_generation(self) -> None:
        await self._note("resume")

    async def is_paused(self) -> bool:
        return self.calls[-1:] == ["pause"]

    async def get_weight_version(self) -> str:
        return self.version

    async def update_weight_version(self, version: str) -> None:
        await self._note("update_weight_version")
        self.version = version

    async def init_weight_transfer_engine(self, request: Any) -> None:
        await self._note("init")
        self.init_infos.append(request.init_info)
        await self._all(
            lambda receiver: receiver.init_transfer_engine(receiver.parse_init_info(request.init_info))
        )

    async def shutdown_weight_transfer_engine(self) -> None:
        await self._note("shutdown")
        await self._all(lambda receiver: receiver.shutdown())

    async def start_weight_update(self) -> None:
        await self._note("start")

    async def update_weights(self, request: Any) -> None:
        await self._note("update")
        await self._all(lambda receiver: receiver.update_weights(request.update_info))

    async def finish_weight_update(self, weight_version: str | None = None) -> None:
        assert weight_version is None
        await self._note("finish")


def application(client: EngineClient) -> FastAPI:
    from vllm.entrypoints.rl.online.api_router import router

    app = FastAPI()
    app.state.engine_client = client
    app.include_router(router)

    @app.post("/reset_prefix_cache")
    async def reset_prefix_cache(reset_running_requests: bool) -> dict[str, bool]:
        await client._note("reset_prefix_cache")
        return {"success": reset_running_requests}

    @app.post("/reset_encoder_cache")
    async def reset_encoder_cache() -> None:
        await client._note("reset_encoder_cache")

    return app


@dataclass
class Fleet:
    """Real HTTP servers on this machine, each in a thread of its own."""

    engines: list[EngineClient]
    urls: list[str]

    @property
    def calls(self) -> list[list[str]]:
        """The calls that each engine received since this was last read."""
        calls = [client.calls for client in self.engines]
        for client in self.engines:
            client.calls = []
        return calls


@pytest.fixture
def fleet(_cpu: None) -> Iterator[Fleet]:
    """A server with two workers and a server with one."""
    running, engines, urls = [], [], []
    for workers in (2, 1):
        client = EngineClient(workers)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(application(client), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread, listener))
        engines.append(client)
        urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield Fleet(engines, urls)
    for server, thread, listener in running:
        server.should_exit = True
        thread.join()
        listener.close()


@asynccontextmanager
async def remote(fleet: Fleet) -> AsyncIterator[RemoteEngine]:
    servers = [Server(url, timeout=60.0) for url in fleet.urls]
    for server in servers:
        server.up = True
    remote_engine = RemoteEngine(servers, ServedModel("the-model", "/models/it", 100), Letters())
    try:
        yield remote_engine
    finally:
        await remote_engine.close()


def received(fleet: Fleet) -> list[dict[str, torch.Tensor]]:
    return [worker.weights for client in fleet.engines for worker in client.workers]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


async def test_every_worker_of_every_server_gets_the_weights(fleet: Fleet) -> None:
    policy = Policy()
    with ThreadPoolExecutor(1) as thread:
        async with asyncio.timeout(60), remote(fleet) as remote_engine:
            sync = RemoteTransferSync(remote_engine, thread=thread)
            await sync.push(policy, 3)
            assert fleet.calls == [[*PAUSE, *MEET, *UPDATE, *RENEW]] * 2
            assert all(same(weights, policy.expected) for weights in received(fleet))
            assert [server.weights_version for server in remote_engine.servers] == ["3", "3"]
            infos = [client.init_infos[0] for client in fleet.engines]
            # Rank 0 sends; the first server's workers are 1 and 2, the second's is 3.
            assert [(info["rank_offset"], info["world_size"]) for info in infos] == [(1, 4), (3, 4)]
            assert infos[0]["packed"]
            assert infos[0]["master_address"] == "127.0.0.1"

            with torch.no_grad():
                policy.network.model.inner.weight.mul_(2)
            await sync.push(policy, 4)
            assert fleet.calls == [[*PAUSE, *UPDATE, *RENEW]] * 2
            assert all(same(weights, policy.expected) for weights in received(fleet))

            # Restarted: it is in no group, and has other weights. All meet again.
            fleet.engines[1].version = "default"
            await sync.push(policy, 5)
            assert fleet.calls == [[*PAUSE, *MEET, *UPDATE, *RENEW]] * 2
            await sync.close()
            assert fleet.calls == [["shutdown"]] * 2


async def test_a_server_that_fails_before_anything_is_sent_is_left_out_until_it_is_back(
    fleet: Fleet,
) -> None:
    policy = Policy()
    fleet.engines[0].fail_at = "pause"
    with ThreadPoolExecutor(1) as thread:
        async with asyncio.timeout(60), remote(fleet) as remote_engine:
            sync = RemoteTransferSync(remote_engine, thread=thread)
            await sync.push(policy, 1)
            assert [server.up for server in remote_engine.servers] == [False, True]
            assert fleet.calls == [PAUSE, [*PAUSE, *MEET, *UPDATE, *RENEW]]
            fleet.engines[0].fail_at = ""
            await sync.push(policy, 2)
            assert fleet.calls == [[*PAUSE, *MEET, *UPDATE, *RENEW]] * 2
            assert same(received(fleet)[0], policy.expected)
            assert [server.weights_version for server in remote_engine.servers] == ["2", "2"]
            await sync.close()


@pytest.mark.parametrize("fail_at", ["start", "update", "finish"])
async def test_a_broken_transfer_ends_the_push_and_nobody_goes_on(fleet: Fleet, fail_at: str) -> None:
    policy = Policy()
    fleet.engines[1].fail_at = fail_at
    with ThreadPoolExecutor(1) as thread:
        async with asyncio.timeout(60), remote(fleet) as remote_engine:
            sync = RemoteTransferSync(remote_engine, thread=thread)
            with pytest.raises(EngineError, match="restart the servers"):
                await sync.push(policy, 1)
            assert all("resume" not in calls for calls in fleet.calls)
            assert not any(server.up for server in remote_engine.servers)
            await sync.close()


async def test_other_ranks_only_gather(fleet: Fleet) -> None:
    stream = Policy().stream()
    passes: list[str] = []
    pieces = stream._pieces

    def counted(get: Any) -> Any:
        passes.append("began")
        yield from pieces(get)
        passes.append("ended")

    stream._pieces = counted  # type: ignore[method-assign]
    async with remote(fleet) as remote_engine:
        sync = RemoteTransferSync(remote_engine, first=False)
        await sync.push(SimpleNamespace(stream=lambda: stream), 3)
        await sync.close()
        assert passes == ["began", "ended"]
        assert fleet.calls == [[], []]
        assert [server.weights_version for server in remote_engine.servers] == ["3", "3"]


async def test_a_rank_that_gives_up_still_gathers_with_the_others() -> None:
    fake = FakeServers({"/pause": httpx.ConnectError("refused")})
    stream = Policy().stream()
    gathered = []
    pieces = stream._pieces
    stream._pieces = lambda get: (gathered.append(piece) or piece for piece in pieces(get))  # type: ignore[method-assign]
    sync = RemoteTransferSync(engine(fake))
    with pytest.raises(EngineError, match="took the weights"):
        await sync.push(SimpleNamespace(stream=lambda: stream), 3)
    assert [name for name, _ in gathered] == list(Policy().expected)


def info(backend: str | None) -> dict[str, Any]:
    return {"vllm_config": {"weight_transfer_config": None if backend is None else {"backend": backend}}}


async def test_check_names_what_is_missing() -> None:
    fake = FakeServers(
        {
            "/weight_info": {"weight_version": "default"},
            "/is_paused": {"is_paused": False},
            "/server_info": info("nccl"),
        }
    )
    remote_engine = engine(fake, "http://127.0.0.1:8000")
    await RemoteTransferSync(remote_engine).check()
    for wrong in (None, "ipc"):
        fake.answers["/server_info"] = info(wrong)
        with pytest.raises(ConfigError, match="--weight-transfer-config"):
            await RemoteTransferSync(remote_engine).check()
    # A server that can't say is believed.
    fake.answers["/server_info"] = httpx.Response(500)
    await RemoteTransferSync(remote_engine).check()
    with pytest.raises(ConfigError, match=r"rollout\.weights_address") as raised:
        await RemoteTransferSync(remote_engine, address="192.0.2.1").check()
    assert raised.value.param == "rollout.weights_address"


def test_vllm_dumps_how_it_was_started_where_the_check_reads_it() -> None:
    from pydantic import TypeAdapter
    from vllm.config import VllmConfig
    from vllm.config.weight_transfer import WeightTransferConfig

    config = VllmConfig(weight_transfer_config=WeightTransferConfig(backend="nccl"))
    dumped = TypeAdapter(VllmConfig).dump_python(config, mode="json", fallback=str)
    assert dumped["weight_transfer_config"] == info("nccl")["vllm_config"]["weight_transfer_config"]


async def test_a_trainer_without_a_gpu_is_refused_before_any_server_gets_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = RLRecipe(
        model="bundled",
        output=tmp_path,
        rollout=RolloutConfig(engine="http://127.0.0.1:9", weights="nccl"),
    )
    with ThreadPoolExecutor(1) as thread, pytest.raises(ConfigError, match="GPU") as raised:
        async with opened_sampler(recipe, ProcessGroup(), thread):
            pass
    assert raised.value.param == "rollout.weights"
