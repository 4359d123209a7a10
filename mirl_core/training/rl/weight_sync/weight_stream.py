"""A model's weights one after the other, under the names that its start's file has: what a transfer sends.

No rank ever holds the whole model: a sharded parameter is gathered when its turn comes, and let go.
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
"""(parameter, type to have it in; None: its own) → a whole tensor."""


class WeightStream:
    """Each pass over it yields (name, whole tensor), adapters merged. A pass is a collective of all ranks
    that share the model: each must make it, and make it to its end.

    Args:
        network: what is sharded, with `model` in it.
        model: a transformers model.
        lora: of its adapters; None: it has none.
        dtype: of floating-point weights as they are yielded.

    Raises:
        ConfigError: a tensor of the file is made of several parameters, so that they can't go one by one.
    """

    def __init__(self, network: nn.Module, model: Any, lora: LoRAConfig | None, dtype: torch.dtype) -> None:
        self._network = network
        self._model = model
        self._lora = lora
        self._dtype = dtype
        self._under_way: Iterator[tuple[str, Tensor]] | None = None
        self._as_in_file = False
        as_here = dict(self._pieces(_outline))
        in_file = _filed(model, as_here)
        if _shapes(in_file) != _shapes(as_here):
            self._as_in_file = True
            if _shapes(dict(self._pieces(_outline))) != _shapes(in_file):
                raise ConfigError(
                    f"{type(model).__name__} has weights that its file keeps joined, which can't be sent one "
                    "by one; use rollout.weights: folder",
                    param="rollout.weights",
                )

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, type and shape of all that a pass yields, in its order; gathers nothing."""
        return [(name, value.dtype, tuple(value.shape)) for name, value in self._pieces(_outline)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self._under_way = self._pieces(_gathered)
        return self._under_way

    def complete(self) -> None:
        """Make what the pass that began last has left, or a whole one where none has begun since the last
        `complete`: other ranks are in it, whatever became of it here."""
        left = iter(self) if self._under_way is None else self._under_way
        for _ in left:
            pass
        self._under_way = None

    def _pieces(self, get: Get) -> Iterator[tuple[str, Tensor]]:
        parameters = _parameters(self._network)
        for name, value in parameters.items():
            if ".lora_" in name:
                continue
            adapters = adapter_names(name) if self._lora is not None else ()
            wanted = self._dtype if value.is_floating_point() else None
            # Alone it can be rounded first, which halves what is gathered; what is merged is merged as it is.
            piece = {name: get(value, None if adapters else wanted)}
            piece |= {one: get(parameters[one], None) for one in adapters}
            if self._lora is not None:
                piece = merge(piece, self._lora)
            if self._as_in_file:
                piece = _filed(self._model, piece)
            for renamed, tensor in piece.items():
                yield renamed, tensor if wanted is None else tensor.to(wanted)


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    """By name, each once. From the state, since FSDP2 sees to it that a state is sharded and up to date."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter) and id(value) not in seen:
            seen.add(id(value))
            found[name.removeprefix("model.")] = value
    return found


def _gathered(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach()
    return whole(value if dtype is None else value.to(dtype))


def _outline(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.empty(value.shape, dtype=dtype or value.dtype, device="meta")


def _filed(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the file that the model came from has them."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, Tensor] = revert_weight_conversion(model, weights)
    return found


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
