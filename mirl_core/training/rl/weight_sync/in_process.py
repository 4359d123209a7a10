"""Transfer of new weights to an engine in process, between two steps.

    ReloadSync   through a file, for vLLM on the same machine
    NCCLSync     GPU to GPU, by vLLM's weight transfer
    IPCSync      on one GPU, by a handle to the trainer's memory

For servers: `shared_folder.py` and `nccl_fleet.py` (GPU to GPU).

In all three cases vLLM holds two caches computed with the old weights: KV blocks of prompts and encoder
outputs of images. Both must be reset, or samples and their log-probabilities mix two models (vllm#45093,
TRL#7198): with stale images, image-conditioned values are off by a nat while text-only values are right.
"""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mirl_core.engines.vllm.weight_transfer import EngineClient, ipc_settings, nccl_settings, start_sender
from mirl_core.errors import ConfigError, EngineError
from mirl_core.training.rl.distributed.torch_thread import in_thread

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from mirl_core.engines.vllm.engine import VLLMEngine
    from mirl_core.training.rl.weight_sync.weight_stream import WeightStream

__all__ = ["IPCSync", "NCCLSync", "ReloadSync", "WeightSync", "Weights"]


class Weights(Protocol):
    """The policy as a weight sync uses it."""

    def weights_in_file(self) -> dict[str, Tensor]:
        """Return all weights under the names in the start's file, whole and on the CPU, adapters merged.

        All ranks call it; those but the first get an empty dictionary.
        """
        ...

    def stream(self, dtype: dtype | None = None) -> WeightStream:
        """Return the same weights one at a time, on the trainer's device, under the names in the start's
        file."""
        ...


class WeightSync(Protocol):
    """Transfer of the policy's weights to the engine that samples."""

    async def push(self, policy: Weights, version: int) -> None:
        """Make the engine sample from `policy`, and from no older weights. All ranks call it.

        Running requests first finish on the old weights; later requests wait.

        Raises:
            EngineError: the engine could not take the weights; it must not be used for sampling any more.
        """
        ...

    async def close(self) -> None:
        """Free what the pushes needed; the engine stays."""
        ...


class ReloadSync:
    """Transfer by a safetensors file that the engine's process reads; for the CPU and models of a few
    gigabytes.

    With several ranks, each with its own engine, the first rank writes for all: every rank must see `folder`.

    vLLM's CPU backend packs the LM head's weights, which breaks the tie to the embedding; a reload would
    leave the old head. So the file contains both names, which suffices where vLLM's class of the model loads
    a tied `lm_head` (Idefics3, SmolVLM). If a class doesn't, the trainer's `mismatch` metrics show it.

    Args:
        engine: this rank's engine.
        folder: for the files; its content is deleted.
        thread: where torch works; None: any thread. Collectives of all ranks must come from one thread.
    """

    def __init__(self, engine: VLLMEngine, folder: Path, thread: Executor | None = None) -> None:
        self._engine = engine
        # The engine's process may have another working directory.
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
        # Every rank has reached this push, so every engine has read the previous file.
        if self._last is not None and self._last != fresh:
            await asyncio.to_thread(shutil.rmtree, self._last, ignore_errors=True)
        self._last = fresh

    async def close(self) -> None:
        """See `WeightSync.close`."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _write(policy: Weights, folder: Path, dtype: Any) -> None:
    """Write the policy's weights as one file of `dtype`; on return it is complete for every rank."""
    from safetensors.torch import save_file
    from torch import distributed

    weights = policy.weights_in_file()
    has_ranks = distributed.is_initialized()
    if not has_ranks or distributed.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stored_pointers: set[int] = set()
        whole: dict[str, Tensor] = {}
        for name, value in weights.items():
            value = value.detach().to(dtype) if value.is_floating_point() else value.detach()
            # A safetensors file can't hold one memory under two names, and tied weights need both names.
            whole[name] = value.clone() if value.data_ptr() in stored_pointers else value.contiguous()
            stored_pointers.add(whole[name].data_ptr())
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    if has_ranks:
        distributed.barrier()


class TransferSync(ABC):
    """Transfer by vLLM's weight transfer. Not run on a GPU here; names and signatures are tested against the
    installed vLLM.

    The engine must have been started with `weight_transfer_config={"backend": …}` (`engine_args`). Each rank
    sends to its own engine.

    Args:
        engine: this rank's engine.
        thread: where torch works; None: any thread.

    Raises:
        ConfigError: the engine was started without this weight transfer.
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
        """Return the arguments with which the engine must be started."""
        return {"weight_transfer_config": {"backend": cls.backend}}

    @abstractmethod
    def _info(self) -> Any:
        """Return vLLM's trainer-side settings of this backend."""

    async def push(self, policy: Weights, version: int) -> None:
        """See `WeightSync.push`."""
        client = self._engine.client
        loop = asyncio.get_running_loop()
        if self._stream is None:
            # Before the engine is paused: some models' weights can't be sent one by one.
            self._stream = policy.stream(client.vllm_config.model_config.dtype)
        stream = self._stream

        def send() -> None:
            if self._sender is None:
                self._sender = start_sender(self._info(), EngineClient(client, loop), stream)
            self._sender.send_weights()

        async with _paused(client, version):
            await in_thread(self._thread, send)

    async def close(self) -> None:
        """See `WeightSync.close`."""
        if self._sender is not None:
            await in_thread(self._thread, self._sender.shutdown)


class NCCLSync(TransferSync):
    """Transfer between a trainer and an engine on different GPUs.

    Args:
        address: of the trainer's machine, as the engine's workers reach it.
        port: a free port there; every rank has its own.
    """

    backend = "nccl"

    def __init__(self, engine: VLLMEngine, address: str, port: int, thread: Executor | None = None) -> None:
        super().__init__(engine, thread)
        self._address, self._port = address, port

    def _info(self) -> Any:
        workers = self._engine.client.vllm_config.parallel_config.world_size_across_dp
        return nccl_settings(self._address, self._port, workers)


class IPCSync(TransferSync):
    """Transfer between a trainer and an engine on the same GPU.

    Handles go between the processes as pickles, which vLLM allows only with
    VLLM_ALLOW_INSECURE_SERIALIZATION=1 in both.
    """

    backend = "ipc"

    def _info(self) -> Any:
        return ipc_settings()


@asynccontextmanager
async def _paused(client: Any, version: int) -> AsyncIterator[None]:
    """Pause the engine inside the block; afterwards drop everything that the old weights computed.

    After a failure the engine stays paused: it may hold half of the new weights.
    """
    from mirl_core.engines.vllm.render import vllm_errors_translated

    with vllm_errors_translated("take new weights"):
        await client.pause_generation(mode="wait", clear_cache=False)
        yield
        if not await client.reset_prefix_cache():
            raise EngineError("vLLM kept its prefix cache, which the old weights computed")
        await client.reset_encoder_cache()
        await client.update_weight_version(str(version))
        await client.resume_generation()
