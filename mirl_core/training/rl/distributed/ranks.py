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
    """Return this process among its ranks. The policy sets the precision, so none is set here.

    Args:
        device: `cpu`, or `auto` for the accelerator where there is one, else the CPU.

    Raises:
        ConfigError: `accelerate launch` was started with sharding options; sharding is set in the recipe.
    """
    # Without `cpu=True` on a machine without accelerator, accelerate leaves every rank alone.
    cpu = device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(
            "start without accelerate's own FSDP or DeepSpeed options: `optimizer.sharding: fsdp2` shards",
            param="optimizer.sharding",
        )
    return accelerator


def summed(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the sum over ranks, on every rank."""
    total: Tensor = accelerator.reduce(values, "sum") if accelerator.num_processes > 1 else values
    return total


def largest(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the maximum over ranks, element by element, on every rank."""
    if accelerator.num_processes > 1:
        values = values.clone()
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return values


def from_first(value: T, accelerator: Accelerator) -> T:
    """Return the first rank's value on every rank; the value is pickled, so keep it small."""
    values = [value]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(values, src=0, device=accelerator.device)
    return values[0]


def from_all(value: T, accelerator: Accelerator) -> list[T]:
    """Return every rank's value on every rank; the values are pickled, so keep them small."""
    values: list[Any] = [value]
    if accelerator.num_processes > 1:
        values = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(values, value)
    return values


def whole(value: Tensor) -> Tensor:
    """Return a sharded tensor gathered; return any other tensor unchanged."""
    gather: Any = getattr(value, "full_tensor", None)
    full: Tensor = gather() if gather is not None else value
    return full


def parameter_count(module: nn.Module) -> int:
    """Count the parameters of all ranks together; the same before and after sharding."""
    return sum(parameter.numel() for parameter in module.parameters())
