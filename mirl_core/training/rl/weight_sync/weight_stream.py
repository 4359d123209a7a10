"""A model's weights one after the other, under the names in its start's file, for a transfer.

No rank ever holds the whole model: a sharded parameter is gathered in its turn, and then released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mirl_core.errors import ConfigError
from mirl_core.training.rl.distributed.ranks import whole
from mirl_core.training.rl.model.adapters import adapter_names, merge
from mirl_core.training.rl.recipe.config import LoRAConfig

__all__ = ["WeightStream"]

Get = Callable[[Tensor, torch.dtype | None], Tensor]
"""(parameter, target type; None: the parameter's type) → a whole tensor."""


class WeightStream:
    """An iterable of (name, whole tensor), adapters merged.

    Each pass is a collective of all ranks that share the model: each must make it, to its end.

    Args:
        network: the sharded module, which contains `model`.
        model: a transformers model.
        lora: the adapters' settings; None: the model has none.
        dtype: of the floating-point weights that a pass yields.

    Raises:
        ConfigError: a tensor of the file is made of several parameters, so they can't be sent one by one.
    """

    def __init__(self, network: nn.Module, model: Any, lora: LoRAConfig | None, dtype: torch.dtype) -> None:
        self._network = network
        self._model = model
        self._lora = lora
        self._dtype = dtype
        self._under_way: Iterator[tuple[str, Tensor]] | None = None
        self._as_in_file = False
        in_memory = dict(self._pieces(_outline))
        in_file = _filed(model, in_memory)
        if _shapes(in_file) != _shapes(in_memory):
            self._as_in_file = True
            if _shapes(dict(self._pieces(_outline))) != _shapes(in_file):
                raise ConfigError(
                    f"{type(model).__name__} has weights that its file keeps joined, which can't be sent one "
                    "by one; use rollout.weights: folder",
                    param="rollout.weights",
                )

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Return name, type and shape of every tensor of a pass, in its order; gathers nothing."""
        return [(name, value.dtype, tuple(value.shape)) for name, value in self._pieces(_outline)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self._under_way = self._pieces(_gathered)
        return self._under_way

    def complete(self) -> None:
        """Finish the last pass that was begun, or make a whole one if none was begun since the last
        `complete`.

        The other ranks are in that pass, even if it failed here.
        """
        remaining = iter(self) if self._under_way is None else self._under_way
        for _ in remaining:
            pass
        self._under_way = None

    def _pieces(self, get: Get) -> Iterator[tuple[str, Tensor]]:
        parameters = _parameters(self._network)
        for name, value in parameters.items():
            if ".lora_" in name:
                continue
            adapters = adapter_names(name) if self._lora is not None else ()
            dtype = self._dtype if value.is_floating_point() else None
            # A parameter without adapters is rounded first, which halves the gathered bytes; merging needs
            # full precision.
            piece = {name: get(value, None if adapters else dtype)}
            piece |= {adapter: get(parameters[adapter], None) for adapter in adapters}
            if self._lora is not None:
                piece = merge(piece, self._lora)
            if self._as_in_file:
                piece = _filed(self._model, piece)
            for renamed, tensor in piece.items():
                yield renamed, tensor if dtype is None else tensor.to(dtype)


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, each once; FSDP2 keeps a module's state sharded and up to date."""
    seen: set[int] = set()
    parameters: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter) and id(value) not in seen:
            seen.add(id(value))
            parameters[name.removeprefix("model.")] = value
    return parameters


def _gathered(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach()
    return whole(value if dtype is None else value.to(dtype))


def _outline(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.empty(value.shape, dtype=dtype or value.dtype, device="meta")


def _filed(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the layout of the file that the model came from."""
    from transformers.core_model_loading import revert_weight_conversion

    converted: dict[str, Tensor] = revert_weight_conversion(model, weights)
    return converted


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
