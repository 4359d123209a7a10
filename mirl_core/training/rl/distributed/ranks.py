"""Several ranks: who they are, and how they share a model.

Start them with `torchrun` or `accelerate launch`. Each rank trains on rows of its own; the gradient is that
of all of them. `none` keeps the whole model on every rank (DDP); `fsdp2` keeps a share of parameters,
gradients and optimiser state on each (torch's `fully_shard`, one transformer block at a time). Sharding is
torch's own on every device: accelerate's wrapper ignores it on the CPU, and what runs on GPUs should be what
is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mirl_core.errors import ConfigError
from mirl_core.training.rl.model.forward import LogProbs, repeated_layers

if TYPE_CHECKING:
    from mirl_core.training.rl.model.policy import Policy

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


def distribute(policy: Policy, accelerator: Accelerator) -> None:
    """Make the policy run on all ranks. Call once, on every rank, before an optimiser is made."""
    if policy.settings.sharding == "fsdp2" and accelerator.num_processes > 1:
        shard(policy.network, accelerator.device)
        if policy.reference is not None:
            shard(policy.reference, accelerator.device)
    elif accelerator.num_processes > 1:
        policy.runner = accelerator.prepare_model(policy.network)


def shard(network: LogProbs, device: torch.device) -> None:
    """Shard a network over all ranks, in place: block by block, then what is left (embeddings, head)."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Weights are gathered in the type they are used in; gradients are added up in float32.
    precision = MixedPrecisionPolicy(
        param_dtype=network.autocast, reduce_dtype=torch.float32 if network.autocast else None
    )
    for layer in repeated_layers(network.model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(network, mesh=mesh, mp_policy=precision)


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
