"""Low-rank adapters (Hu et al. 2021, "LoRA"), put into the model by peft."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mirl_core.errors import ConfigError
from mirl_core.training.rl.config import LoRAConfig

_LOG = logging.getLogger(__name__)
_NAME = "policy"


def add_adapters(model: Any, settings: LoRAConfig, seed: int = 0) -> None:
    """Put adapters into the model's linear layers, in place; nothing else keeps a gradient.

    Args:
        model: a transformers image-text-to-text model.
        settings: rank, scale and where.
        seed: of the first factor's values, so that every rank starts alike. The second factor is zero.

    Raises:
        ConfigError: peft is missing, or `targets` name no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import Linear
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise ConfigError(
            "adapters need the package peft: pip install peft", param="optimizer.lora"
        ) from error
    targets = linear_layers(model) if settings.targets == "all-linear" else settings.targets
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        except ValueError as error:
            raise ConfigError(f"adapters can't be added: {error}", param="optimizer.lora.targets") from error
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, Linear):
            raise ConfigError(
                f"{name} is not a linear layer: its adapter could not be merged for export",
                param="optimizer.lora.targets",
            )
        if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
            module.train()
    if settings.dropout:
        _LOG.warning("dropout in the adapters makes the trained policy differ from the one that samples")


def linear_layers(model: Any) -> list[str]:
    """Names of the linear layers of the language model, its head excepted.

    Raises:
        ConfigError: the language model can't be told from the rest.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if decoder is None or decoder is model or decoder is model.base_model:
        raise ConfigError(
            "which part of this model is the language model is not known: name the layers",
            param="optimizer.lora.targets",
        )
    inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
    return [name for name, module in model.named_modules() if id(module) in inside and module is not head]


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it was before adapters were added: the reference, without a copy of the weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    # Not `enable_adapters`, which also switches gradients off and on: FSDP2 must not see that.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merge(weights: Mapping[str, Tensor], settings: LoRAConfig) -> dict[str, Tensor]:
    """Weights under their names before adapters were added: W + alpha / rank · B A, in float32."""
    merged = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        layer, dot, kind = name.partition(".base_layer.")
        if dot and kind == "weight":
            first = weights[f"{layer}.lora_A.{_NAME}.weight"].float()
            second = weights[f"{layer}.lora_B.{_NAME}.weight"].float()
            weight = (weight.float() + settings.alpha / settings.rank * (second @ first)).to(weight.dtype)
        merged[f"{layer}.{kind}" if dot else name] = weight
    return merged
