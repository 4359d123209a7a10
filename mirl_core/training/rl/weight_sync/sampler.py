"""The rollout engine: vLLM in this process or on servers, with the transfer of the policy's weights to it."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.engines.base import Engine
from mirl_core.engines.common.child_processes import children_killed_with_parent
from mirl_core.errors import ConfigError, EngineError, MIRLError
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.recipe.checks import model_folder
from mirl_core.training.rl.recipe.config import RLRecipe

if TYPE_CHECKING:
    from mirl_core.training.rl.model.policy import Policy

__all__ = ["Sampler", "opened_sampler"]

WEIGHTS = "weights"
"""Folder in the run through which weights go to the engine, where the recipe names none."""
_PORT = 29650
"""First of the ports on which ranks meet their engines for NCCL."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """The rollout engine and its weight transfer."""

    engine: Engine
    push: Callable[[Policy, int], Awaitable[None]]
    """Make the engine sample from this policy, under this version; all ranks call it. Raises EngineError."""
    has_start_weights: bool
    """Whether this process has just started the engine, which then has the start's weights."""


@asynccontextmanager
async def opened_sampler(
    recipe: RLRecipe, process_group: ProcessGroup, thread: Executor
) -> AsyncIterator[Sampler]:
    """Open the recipe's engine, and close it at the end.

    Args:
        thread: where torch works, including collectives of all ranks.

    Raises:
        ConfigError: the engine's settings are wrong, or the servers take no weights.
        EngineError: the engine doesn't start, or no server answers.
    """
    async with AsyncExitStack() as stack:
        if recipe.rollout.engine == "in-process":
            yield await _in_process(recipe, process_group, thread, stack)
        else:
            yield await _servers(recipe, process_group, thread, stack)


async def _in_process(
    recipe: RLRecipe, process_group: ProcessGroup, thread: Executor, stack: AsyncExitStack
) -> Sampler:
    from mirl_core.engines.vllm.throughput import start_engine
    from mirl_core.training.rl.weight_sync.in_process import IPCSync, NCCLSync, ReloadSync, WeightSync

    rollout = recipe.rollout
    args: dict[str, Any] = {"use_tqdm_on_load": False}
    if rollout.serial:
        # One sequence at a time: the rest of a batch changes the last bits of a sequence's sums.
        args |= {"max_num_seqs": 1, "enable_prefix_caching": False}
    stack.enter_context(children_killed_with_parent())
    engine = await start_engine(model_folder(recipe), **(args | rollout.engine_args))
    stack.push_async_callback(engine.close)
    backend = (rollout.engine_args.get("weight_transfer_config") or {}).get("backend")
    sync: WeightSync
    if backend == "ipc":
        sync = IPCSync(engine, thread)
    elif backend == "nccl":
        sync = NCCLSync(engine, "127.0.0.1", _PORT + process_group.rank, thread)
    else:
        sync = ReloadSync(engine, _weights_folder(recipe), thread)
    stack.push_async_callback(sync.close)
    return Sampler(engine, sync.push, has_start_weights=True)


async def _servers(
    recipe: RLRecipe, process_group: ProcessGroup, thread: Executor, stack: AsyncExitStack
) -> Sampler:
    from mirl_core.engines.remote.engine import RemoteEngine
    from mirl_core.engines.remote.pool.settings import PoolSettings
    from mirl_core.training.rl.weight_sync.nccl_fleet import RemoteTransferSync
    from mirl_core.training.rl.weight_sync.shared_folder import RemoteReloadSync

    rollout = recipe.rollout
    if rollout.weights == "nccl":
        _check_gpu()
    urls = [url.strip() for url in rollout.engine.split(",")]
    # The key is no recipe field: recipes are copied into run folders.
    key = os.environ.get("VLLM_API_KEY")
    # A server that takes new weights answers nothing for as long as that takes.
    settings = PoolSettings(stall_seconds=math.inf, check_seconds=0.0)
    engine = await RemoteEngine.start(urls, tokenizer=model_folder(recipe), api_key=key, settings=settings)
    stack.push_async_callback(engine.close)
    sync: RemoteReloadSync | RemoteTransferSync
    if rollout.weights == "nccl":
        sync = RemoteTransferSync(
            engine, address=rollout.weights_address, first=process_group.first, thread=thread
        )
        send: Callable[[Policy, int], Awaitable[None]] = sync.push
    else:
        sync = reload = RemoteReloadSync(engine, _weights_folder(recipe), first=process_group.first)

        async def send(policy: Policy, version: int) -> None:
            await reload.push(_WeightWriter(policy, thread), version)

    stack.push_async_callback(sync.close)
    try:
        await sync.check()
    except ConfigError as error:
        if error.param is not None:
            raise
        raise ConfigError(f"rollout.engine: {error.message}", param="rollout.engine") from error

    async def push(policy: Policy, version: int) -> None:
        failed: MIRLError | None = None
        try:
            await send(policy, version)
        except MIRLError as error:
            failed = error
        # Ranks but the first get here at once. No rank may sample before the servers have the weights, or go
        # on if they don't get them: it would wait for ranks that have given up.
        failures = await process_group.failures(thread, None if failed is None else failed.message)
        if failed is not None:
            raise failed
        if failures:
            raise EngineError(failures[0])

    return Sampler(engine, push, has_start_weights=False)


def _check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "rollout.weights: nccl sends from a GPU, and torch finds none on this machine; use folder",
            param="rollout.weights",
        )


class _WeightWriter:
    """Writer of a policy's weights in torch's thread, in the type that servers compute in."""

    def __init__(self, policy: Policy, thread: Executor) -> None:
        self._policy = policy
        self._thread = thread

    def save_weights(self, folder: Path) -> None:
        import torch

        # On the CPU servers compute in float32; rounded weights would differ from the trainer's.
        dtype = torch.float32 if self._policy.device.type == "cpu" else None
        self._thread.submit(self._policy.save_weights, folder, dtype).result()


def _weights_folder(recipe: RLRecipe) -> Path:
    return recipe.rollout.weights_folder or recipe.output / WEIGHTS
