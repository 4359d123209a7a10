"""The ranks of a run: this process among them, and what tensors and small values they share.

Start them with `torchrun` or `accelerate launch`. Each rank trains on its own rows; the gradient is the sum
over all ranks. How they share a model: `model/sharding.py`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from mirl_core.errors import ConfigError

T = TypeVar("T")


def make_accelerator(device: str = "auto") -> Accelerator:
    """This process among its ranks. Precision is the policy's business, so none is set here.

    Args:
        device: `cpu`, or `auto` for the accelerator that is there, else the CPU.

    Raises:
        ConfigError: `accelerate launch` was told to shard, which the recipe does.
    """
    # Left to find out that there is none, accelerate leaves several ranks each to itself.
    cpu = device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(
            "start without accelerate's own FSDP or DeepSpeed options: `optimizer.sharding: fsdp2` shards",
            param="optimizer.sharding",
        )
    return accelerator


def summed(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over ranks, on every rank."""
    total: Tensor = accelerator.reduce(values, "sum") if accelerator.num_processes > 1 else values
    return total


def largest(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The maximum over ranks, element by element, on every rank."""
    if accelerator.num_processes > 1:
        values = values.clone()
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return values


def from_first(value: T, accelerator: Accelerator) -> T:
    """The first rank's value, on every rank; small, since it is pickled."""
    held = [value]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(held, src=0, device=accelerator.device)
    return held[0]


def from_all(value: T, accelerator: Accelerator) -> list[T]:
    """Every rank's value, on every rank; small, since they are pickled."""
    held: list[Any] = [value]
    if accelerator.num_processes > 1:
        held = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(held, value)
    return held


def whole(value: Tensor) -> Tensor:
    """A sharded tensor, gathered; any other as it is."""
    gather: Any = getattr(value, "full_tensor", None)
    full: Tensor = gather() if gather is not None else value
    return full


def parameter_count(module: nn.Module) -> int:
    """Parameters of all ranks together; call before or after sharding."""
    return sum(parameter.numel() for parameter in module.parameters())
