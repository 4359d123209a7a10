"""New weights into the rollout engine, between two steps.

    ReloadSync   by a file, for vLLM on the same machine
    NCCLSync     GPU to GPU, over vLLM's weight transfer
    IPCSync      on one GPU, by a handle to the trainer's memory

To servers: `sync_remote.py` (by a folder) and `sync_fleet.py` (GPU to GPU).

Whatever the way, vLLM computed two caches with the old weights: KV blocks of prompts and encoder outputs of
images. Both must go, or sampling and its log-probabilities are of no model at all (vllm#45093, TRL#7198):
with stale images image-conditioned values are wrong by a nat and text-only ones are right.
"""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mirl_core.errors import ConfigError, EngineError
from mirl_core.training.rl.distributed.torch_thread import in_thread

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from mirl_core.engines.vllm.engine import VLLMEngine
    from mirl_core.training.rl.weight_sync.weight_stream import WeightStream

__all__ = ["IPCSync", "NCCLSync", "ReloadSync", "WeightSync", "Weights", "transfer_source"]


class Weights(Protocol):
    """What a sync asks of the policy."""

    def weights(self) -> dict[str, Tensor]:
        """All weights under transformers' names, whole and on the CPU, adapters merged. All ranks call it."""
        ...

    def stream(self, dtype: dtype | None = None) -> WeightStream:
        """The same one at a time, on the trainer's device, under the names of the start's file."""
        ...


class WeightSync(Protocol):
    """Brings the policy's weights to the engine that samples."""

    async def push(self, policy: Weights, version: int) -> None:
        """Afterwards the engine samples from `policy`, and from nothing older. All ranks call it.

        Requests that are running end first, by the old weights; later ones wait.

        Raises:
            EngineError: the engine could not take the weights. It must not be sampled from any more.
        """
        ...

    async def close(self) -> None:
        """Free what the pushes needed; the engine stays."""
        ...


class ReloadSync:
    """By a safetensors file that the engine's process reads. For the CPU, and for models of a few gigabytes.

    With several ranks, each with an engine of its own, the first rank writes for all: `folder` must be one
    that all of them see.

    vLLM's CPU backend packs the LM head's weights, which cuts the tie to the embedding that they are shared
    with; a reload would leave the old head. So the file names both, which is enough where vLLM's class of the
    model loads a tied `lm_head` (Idefics3, SmolVLM). The trainer's `mismatch` metrics tell if one doesn't.

    Args:
        engine: this rank's.
        folder: for the files; what it holds is deleted.
        thread: where torch may work; None: any. Collectives of all ranks must come from one thread.
    """

    def __init__(self, engine: VLLMEngine, folder: Path, thread: Executor | None = None) -> None:
        self._engine = engine
        # The engine is another process, maybe in another folder.
        self._folder = folder.absolute()
        self._thread = thread
        self._last: Path | None = None

    async def push(self, policy: Weights, version: int) -> None:
        """See `WeightSync.push`."""
        client = self._engine.client
        dtype = client.vllm_config.model_config.dtype
        fresh = self._folder / f"weights-{version}"
        await in_thread(self._thread, lambda: _write(policy, fresh, dtype))
        async with _paused(client, version):
            await client.collective_rpc("reload_weights", kwargs={"weights_path": str(fresh)})
        # Every rank has read the one before: it has come to this push.
        if self._last is not None and self._last != fresh:
            await asyncio.to_thread(shutil.rmtree, self._last, ignore_errors=True)
        self._last = fresh

    async def close(self) -> None:
        """See `WeightSync.close`."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _write(policy: Weights, folder: Path, dtype: Any) -> None:
    """The policy's weights as one file of `dtype`, complete on return on every rank."""
    from safetensors.torch import save_file
    from torch import distributed

    weights = policy.weights()
    together = distributed.is_initialized()
    if not together or distributed.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        taken: set[int] = set()
        whole: dict[str, Tensor] = {}
        for name, value in weights.items():
            value = value.detach().to(dtype) if value.is_floating_point() else value.detach()
            # A file holds no two names of one memory, and tied weights must go by both.
            whole[name] = value.clone() if value.data_ptr() in taken else value.contiguous()
            taken.add(whole[name].data_ptr())
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    if together:
        distributed.barrier()


class TransferSync(ABC):
    """Over vLLM's weight transfer. It has not been run here, where there is no GPU; names and signatures are
    tested against the installed vLLM.

    The engine must have been started with `weight_transfer_config={"backend": …}` (`engine_args`). Each rank
    sends to an engine of its own.

    Args:
        engine: this rank's.
        info: vLLM's trainer-side init info, from the engine's number of workers.
        thread: where torch may work.

    Raises:
        ConfigError: the engine wasn't started for it.
    """

    backend: Literal["nccl", "ipc"]

    def __init__(self, engine: VLLMEngine, thread: Executor | None = None) -> None:
        config = getattr(engine.client.vllm_config, "weight_transfer_config", None)
        if config is None or config.backend != self.backend:
            raise ConfigError(
                f"rollout.engine_args: weights by {self.backend} need weight_transfer_config: "
                f"{{backend: {self.backend}}}",
                param="rollout.engine_args",
            )
        self._engine = engine
        self._thread = thread
        self._stream: WeightStream | None = None
        self._sender: Any = None

    @classmethod
    def engine_args(cls) -> dict[str, Any]:
        """What the engine must be started with."""
        return {"weight_transfer_config": {"backend": cls.backend}}

    @abstractmethod
    def _info(self) -> Any:
        """vLLM's trainer-side settings of this backend."""

    async def push(self, policy: Weights, version: int) -> None:
        """See `WeightSync.push`."""
        client = self._engine.client
        loop = asyncio.get_running_loop()
        if self._stream is None:
            # Before anything is paused: a model may be one whose weights can't go one by one.
            self._stream = policy.stream(client.vllm_config.model_config.dtype)
        stream = self._stream

        def send() -> None:
            if self._sender is None:
                from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

                self._sender = WeightTransferTrainerFactory.trainer_init(
                    self._info(), client=_Client(client, loop), source=transfer_source(stream)
                )
            self._sender.send_weights()

        async with _paused(client, version):
            await in_thread(self._thread, send)

    async def close(self) -> None:
        """See `WeightSync.close`."""
        if self._sender is not None:
            await in_thread(self._thread, self._sender.shutdown)


class NCCLSync(TransferSync):
    """Trainer and engine on GPUs of their own.

    Args:
        address: of the trainer's machine, as the engine's workers reach it.
        port: a free one there; every rank's own.
    """

    backend = "nccl"

    def __init__(self, engine: VLLMEngine, address: str, port: int, thread: Executor | None = None) -> None:
        super().__init__(engine, thread)
        self._address, self._port = address, port

    def _info(self) -> Any:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        workers = self._engine.client.vllm_config.parallel_config.world_size_across_dp
        return NCCLTrainerInitInfo(
            master_address=self._address, master_port=self._port, world_size=workers + 1, rank=0
        )


class IPCSync(TransferSync):
    """Trainer and engine on the same GPU. Handles go between the processes as pickles, which vLLM allows only
    with VLLM_ALLOW_INSECURE_SERIALIZATION=1 in both."""

    backend = "ipc"

    def _info(self) -> Any:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        # Packed: a buffer at a time instead of a second copy of all weights.
        return IPCTrainerInitInfo(packed=True, rank=0)


class _Client:
    """vLLM's `VLLMWeightSyncClient` for an engine on this loop: its calls come from the trainer's thread."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._wait(self._client.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info)))

    def start_weight_update(self) -> None:
        self._wait(self._client.start_weight_update())

    def update_weights(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._wait(self._client.update_weights(WeightTransferUpdateRequest(update_info=update_info)))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._wait(self._client.finish_weight_update(weight_version))

    def _wait(self, call: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result()


def transfer_source(stream: WeightStream) -> Any:
    """vLLM's `WeightSource` of a stream."""
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class Source(WeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return [ParamMeta(*one) for one in stream.metadata()]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return iter(stream)

    return Source()


@asynccontextmanager
async def _paused(client: Any, version: int) -> AsyncIterator[None]:
    """Nothing runs in the engine meanwhile; afterwards nothing that the old weights computed is left.

    After a failure the engine stays paused: half of the new weights may be in it.
    """
    from mirl_core.engines.vllm.render import translated

    with translated("take new weights"):
        await client.pause_generation(mode="wait", clear_cache=False)
        yield
        if not await client.reset_prefix_cache():
            raise EngineError("vLLM kept its prefix cache, which the old weights computed")
        await client.reset_encoder_cache()
        await client.update_weight_version(str(version))
        await client.resume_generation()
