"""The order of a push and what it leaves behind, and weight transfer up to the wire; without an engine."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mirl_core.errors import ConfigError, EngineError
from mirl_core.training.rl.weight_sync.in_process import IPCSync, NCCLSync, ReloadSync
from mirl_core.training.rl.weight_sync.weight_stream import WeightStream


class Tiny(nn.Module):
    """An embedding whose weights the head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class Network(nn.Module):
    """What a trainer runs, around the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Policy:
    def __init__(self) -> None:
        self.model = Tiny()

    def stream(self, dtype: torch.dtype | None = None) -> WeightStream:
        return WeightStream(Network(self.model), self.model, None, dtype or torch.float32)

    def weights_in_file(self) -> dict[str, torch.Tensor]:
        return dict(self.model.state_dict())


class Client:
    """vLLM's engine client as far as a push goes: records its calls, and the file it read."""

    def __init__(self, backend: str | None = None, fail_at: str = "", kept: bool = False) -> None:
        transfer = None if backend is None else SimpleNamespace(backend=backend)
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(dtype=torch.bfloat16),
            weight_transfer_config=transfer,
            parallel_config=SimpleNamespace(world_size_across_dp=2),
        )
        self.calls: list[Any] = []
        self.read: list[dict[str, torch.Tensor]] = []
        self._fail_at = fail_at
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, *arguments, *named.values()))
            if name == self._fail_at:
                raise RuntimeError("no")
            if name == "collective_rpc":
                self.read.append(only_file(named["kwargs"]["weights_path"]))
            return not self._kept

        return call

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]


def only_file(folder: str) -> dict[str, torch.Tensor]:
    (path,) = Path(folder).glob("*.safetensors")
    return load_file(path)


def engine(client: Client) -> Any:
    return SimpleNamespace(client=client)


async def test_a_push_reloads_between_pause_and_resume_and_resets_both_caches(tmp_path: Path) -> None:
    client = Client()
    sync = ReloadSync(engine(client), tmp_path / "sync")
    await sync.push(Policy(), 3)
    assert client.names == [
        "pause_generation",
        "collective_rpc",
        "reset_prefix_cache",
        "reset_encoder_cache",
        "update_weight_version",
        "resume_generation",
    ]
    assert client.calls[0][1:] == ("wait", False), "what runs ends on the old weights"
    assert client.calls[1][1] == "reload_weights"
    assert client.calls[4][1:] == ("3",)


async def test_tied_weights_go_by_both_names_in_the_engines_type(tmp_path: Path) -> None:
    client, policy = Client(), Policy()
    await ReloadSync(engine(client), tmp_path / "sync").push(policy, 0)
    (read,) = client.read
    assert set(read) == {"embed.weight", "head.weight"}
    for value in read.values():
        assert torch.equal(value, policy.model.embed.weight.to(torch.bfloat16))


async def test_one_file_stays_and_none_after_closing(tmp_path: Path) -> None:
    folder = tmp_path / "sync"
    sync = ReloadSync(engine(Client()), folder, ThreadPoolExecutor(1))
    for version in (1, 2, 2):
        await sync.push(Policy(), version)
        assert [path.name for path in folder.iterdir()] == [f"weights-{version}"]
    await sync.close()
    assert not folder.exists()


@pytest.mark.parametrize("fail_at", ["pause_generation", "collective_rpc", "reset_encoder_cache"])
async def test_an_engine_that_may_hold_half_of_the_weights_stays_paused(tmp_path: Path, fail_at: str) -> None:
    client = Client(fail_at=fail_at)
    with pytest.raises(EngineError, match="take new weights"):
        await ReloadSync(engine(client), tmp_path / "sync").push(Policy(), 0)
    assert "resume_generation" not in client.names


async def test_a_prefix_cache_that_is_not_reset_is_an_error(tmp_path: Path) -> None:
    client = Client(kept=True)
    with pytest.raises(EngineError, match="prefix cache"):
        await ReloadSync(engine(client), tmp_path / "sync").push(Policy(), 0)
    assert "resume_generation" not in client.names


class Sender:
    """vLLM's trainer side without a wire."""

    def __init__(self, info: Any, client: Any, source: Any) -> None:
        self.info, self.client, self.source = info, client, source
        self.closed = False
        client.init_weight_transfer_engine({"packed": True})

    def send_weights(self) -> None:
        self.client.start_weight_update()
        sent = dict(iter(self.source))
        meta = {weight.name: (weight.dtype, tuple(weight.shape)) for weight in self.source.metadata()}
        assert meta == {name: (value.dtype, tuple(value.shape)) for name, value in sent.items()}
        self.client.update_weights({"names": list(sent)})
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self.closed = True


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[Sender]:
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

    made: list[Sender] = []

    def trainer_init(info: Any, *, client: Any, source: Any) -> Sender:
        made.append(Sender(info, client, source))
        return made[-1]

    monkeypatch.setattr(WeightTransferTrainerFactory, "trainer_init", trainer_init)
    return made


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
async def test_transfer_is_driven_from_the_trainers_thread(senders: list[Sender], backend: str) -> None:
    client = Client(backend)
    with ThreadPoolExecutor(1) as thread:
        sync: NCCLSync | IPCSync = (
            NCCLSync(engine(client), "10.0.0.1", 29600, thread)
            if backend == "nccl"
            else IPCSync(engine(client), thread)
        )
        async with asyncio.timeout(20):
            await sync.push(Policy(), 1)
            await sync.push(Policy(), 2)
            await sync.close()
    (sender,) = senders
    update = ["start_weight_update", "update_weights", "finish_weight_update"]
    after = ["reset_prefix_cache", "reset_encoder_cache", "update_weight_version", "resume_generation"]
    first = ["pause_generation", "init_weight_transfer_engine", *update, *after]
    assert client.names == [*first, "pause_generation", *update, *after]
    assert sender.closed
    assert sender.info.backend == backend
    assert sender.info.is_sender
    if backend == "nccl":
        assert (sender.info.master_address, sender.info.master_port) == ("10.0.0.1", 29600)
        assert sender.info.world_size == 3, "two workers and the trainer"
    sent = client.calls[3][1].update_info["names"]
    assert sent == ["embed.weight"], "on a GPU a tied head shares the embedding's memory"


@pytest.mark.parametrize("backend", [None, "nccl"])
def test_an_engine_started_for_something_else_is_refused(backend: str | None) -> None:
    with pytest.raises(ConfigError, match="weight_transfer_config"):
        IPCSync(engine(Client(backend)))
    assert IPCSync.engine_args() == {"weight_transfer_config": {"backend": "ipc"}}
