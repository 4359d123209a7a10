"""The trainer's side of vLLM's weight transfer: its rendezvous with the workers, and the weights it sends.

vLLM is imported when a transfer starts: a trainer that sends weights by a file needs no vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EngineClient", "WeightStreamLike", "ipc_settings", "nccl_settings", "start_sender"]


class WeightStreamLike(Protocol):
    """An iterable of named weights, whose metadata are known beforehand."""

    def metadata(self) -> Iterable[tuple[Any, ...]]:
        """Return name, dtype and shape of every weight, in the order of iteration."""
        ...

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


def nccl_settings(address: str, port: int, workers: int) -> Any:
    """Return vLLM's trainer-side settings of a transfer from GPU to GPU; the trainer is rank 0.

    Args:
        address: the trainer's machine, as the workers reach it.
        port: a free port there.
        workers: how many of vLLM's workers receive.
    """
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=workers + 1, rank=0)


def ipc_settings() -> Any:
    """Return vLLM's trainer-side settings of a transfer within one GPU."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    # Packed: vLLM sends a buffer at a time instead of making a second copy of all weights.
    return IPCTrainerInitInfo(packed=True, rank=0)


def start_sender(settings: Any, client: Any, stream: WeightStreamLike) -> Any:
    """Return vLLM's sender, connected to all workers. Blocks until every worker has joined.

    Args:
        client: vLLM's `VLLMWeightSyncClient`, such as `EngineClient`.
        settings: from `nccl_settings` or `ipc_settings`.
        stream: the weights that every call of the sender's `send_weights` sends.
    """
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

    return WeightTransferTrainerFactory.trainer_init(settings, client=client, source=_source(stream))


def _source(stream: WeightStreamLike) -> Any:
    """Return `stream` as vLLM's `WeightSource`.

    vLLM 0.32 calls `metadata()` and iterates over the source; 0.33 reads the property `metadata` and calls
    `iter_full()`.
    """
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    def metadata(_: Any) -> list[Any]:
        return [ParamMeta(*weight) for weight in stream.metadata()]

    def weights(_: Any) -> Iterator[tuple[str, Tensor]]:
        return iter(stream)

    if hasattr(WeightSource, "iter_full"):
        members = {"metadata": cached_property(metadata), "iter_full": weights}
    else:
        members = {"metadata": metadata, "__iter__": weights}
    return type("StreamSource", (WeightSource,), members)()


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` for an engine on an event loop; call its methods from another thread.

    Args:
        engine: vLLM's engine client.
        loop: the event loop of `engine`.
    """

    def __init__(self, engine: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._wait(self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info)))

    def start_weight_update(self) -> None:
        self._wait(self._engine.start_weight_update())

    def update_weights(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._wait(self._engine.update_weights(WeightTransferUpdateRequest(update_info=update_info)))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._wait(self._engine.finish_weight_update(weight_version))

    def _wait(self, call: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result()
