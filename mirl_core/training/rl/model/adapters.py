"""Low-rank adapters (Hu et al. 2021, "LoRA"), added to the model by peft."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.config import LoRAConfig

_LOG = logging.getLogger(__name__)
_NAME = "policy"


def add_adapters(model: Any, settings: LoRAConfig, seed: int = 0) -> None:
    """Add adapters to the model's linear layers, in place, and freeze everything else.

    Args:
        model: a transformers image-text-to-text model.
        settings: rank, scale and target layers.
        seed: of the first factor's values, equal on every rank. The second factor starts at zero.

    Raises:
        ConfigError: peft is missing, or `targets` name no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "adapters need the package peft: pip install peft", param="optimizer.lora"
        ) from error
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=adapted_layers(model, settings.targets),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    model.eval()
    if settings.dropout:
        _LOG.warning("dropout in the adapters makes the trained policy differ from the one that samples")
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
                module.train()


def adapted_layers(model: Any, targets: Sequence[str] | str) -> list[str]:
    """Return the full names of the layers that get adapters.

    Args:
        model: a transformers image-text-to-text model.
        targets: last parts of names; or `all-linear`: all linear layers of the language model but its head.

    Raises:
        ConfigError: there are none, or a target is not linear, or is the head, whose adapter could not be
            merged for export.
    """
    head = model.get_output_embeddings()
    if isinstance(targets, str) and targets == "all-linear":
        decoder = model.get_decoder()
        if decoder is None or decoder is model or decoder is model.base_model:
            raise ConfigError(
                "which part of this model is the language model is not known: name the layers",
                param="optimizer.lora.targets",
            )
        inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
        return [name for name, module in model.named_modules() if id(module) in inside and module is not head]
    layers: list[str] = []
    for target in [targets] if isinstance(targets, str) else targets:
        modules = {n: m for n, m in model.named_modules() if f".{n}".endswith(f".{target}")}
        bad = [
            name for name, module in modules.items() if not isinstance(module, nn.Linear) or module is head
        ]
        if bad or not modules:
            raise ConfigError(
                f"{bad[0]} can't have an adapter: only linear layers other than the head can"
                if bad
                else f"no layer is called {target!r}",
                param="optimizer.lora.targets",
            )
        layers += modules
    return layers


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Switch the adapters off inside the block: the reference model, without a copy of the weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    # Not `enable_adapters`, which also switches gradients off and on, and FSDP2 does not allow that.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def adapter_names(name: str) -> tuple[str, ...]:
    """Return the names of the factors A and B that belong to the parameter `name`; empty where it has no
    adapter."""
    layer, dot, kind = name.partition(".base_layer.")
    return (
        tuple(f"{layer}.lora_{factor}.{_NAME}.weight" for factor in "AB") if dot and kind == "weight" else ()
    )


def merge(weights: Mapping[str, Tensor], settings: LoRAConfig) -> dict[str, Tensor]:
    """Return the weights under their names without adapters, merged: W + alpha / rank · B A."""
    merged = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        layer, dot, kind = name.partition(".base_layer.")
        if adapters := adapter_names(name):
            first, second = (weights[factor] for factor in adapters)
            # Trained factors are at least float32, so the sum is computed in at least float32.
            weight = (weight + settings.alpha / settings.rank * (second @ first)).to(weight.dtype)
        merged[f"{layer}.{kind}" if dot else name] = weight
    return merged
