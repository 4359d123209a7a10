"""How several ranks share a policy's parameters.

`none` keeps the whole model on every rank (DDP); `fsdp2` keeps a share of parameters, gradients and optimiser
state on each (torch's `fully_shard`, one transformer block at a time). Sharding is torch's on every device:
accelerate's wrapper ignores it on the CPU, and the code that runs on GPUs should be the code that is tested.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mirl_core.training.rl.model.forward import LogProbs, repeated_layers
from mirl_core.training.rl.model.policy import Policy


def distribute(policy: Policy, accelerator: Accelerator) -> None:
    """Make the policy run on all ranks. Every rank calls this once, before it makes an optimiser."""
    if policy.settings.sharding == "fsdp2" and accelerator.num_processes > 1:
        shard(policy.network, accelerator.device)
        if policy.reference is not None:
            shard(policy.reference, accelerator.device)
    elif accelerator.num_processes > 1:
        policy.runner = accelerator.prepare_model(policy.network)


def shard(network: LogProbs, device: torch.device) -> None:
    """Shard a network over all ranks, in place: block by block, then the rest (embeddings, head)."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Weights are gathered in the type they are used in; gradients are summed in float32.
    precision = MixedPrecisionPolicy(
        param_dtype=network.autocast, reduce_dtype=torch.float32 if network.autocast else None
    )
    for layer in repeated_layers(network.model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(network, mesh=mesh, mp_policy=precision)
