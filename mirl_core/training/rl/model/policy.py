"""The policy in training: rows in, log-probabilities out, and a folder that transformers and vLLM load."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.errors import ConfigError
from mirl_core.training.rl.model.adapters import add_adapters, merge, without_adapters
from mirl_core.training.rl.model.encoding import Batch, RenderedPrompts, encode, prompt_inputs, render
from mirl_core.training.rl.model.forward import LogProbs, checkpoint_layers, repeated_layers
from mirl_core.training.rl.planners.rows import TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig
from mirl_core.training.rl.weight_sync.weight_stream import WeightStream
from mirl_core.types import Conversation

_LOG = logging.getLogger(__name__)
_OWN_FILES = re.compile(
    r"README.*|(generation_)?config\.json|.*\.(safetensors|bin|pt|pth|gguf|h5|msgpack)(\.index\.json)?"
)
"""Files that an export writes itself, or that would be wrong beside new weights."""


class Policy:
    """A model in training, on its device, without dropout.

    Trained weights are float32; with `dtype: bfloat16` the forward pass is bfloat16 by autocast, and weights
    that aren't trained keep the type they were saved in.

    Args:
        model: a transformers image-text-to-text model, on its device; changed in place.
        processor: its processor, with a chat template.
        settings: the recipe's optimizer settings.
        folder: the model's folder; its files beside the weights are exported with them.
        prompts_once: the mode of the forward pass (`forward.py`); None: the mode that the model allows.

    Raises:
        ConfigError: the settings don't fit the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        settings: OptimizerConfig,
        *,
        folder: Path | None = None,
        prompts_once: bool | None = None,
    ) -> None:
        self.processor = processor
        self.settings = settings
        self._folder = folder
        self._start_dtype = model.dtype
        self._banned = placeholder_ids(model.config, int(model.config.get_text_config().vocab_size))
        self._idle_prompt = Conversation(
            (
                {
                    "role": "user",
                    "content": [{"type": "image", "image": Image.new("RGB", (64, 64))}],
                },
            )
        )
        half = torch.bfloat16 if settings.dtype == "bfloat16" else None

        def network(model: Any) -> LogProbs:
            return LogProbs(model, self._banned, settings.head_chunk, half, prompts_once)

        model.eval().requires_grad_(True)
        if half is None and model.dtype != torch.float64:
            model.float()
        self.reference: LogProbs | None = None
        if settings.kl and settings.lora is None:
            self.reference = network(copy.deepcopy(model).requires_grad_(False))
        if settings.lora is not None:
            add_adapters(model, settings.lora)
        _freeze(model, settings.freeze)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float64:
                parameter.data = parameter.data.float()
        if settings.activation_checkpointing:
            if not repeated_layers(model):
                raise ConfigError(
                    "this model's layers can't be found", param="optimizer.activation_checkpointing"
                )
            checkpoint_layers(model)
        self.model = model
        self.network = network(model)
        self.runner: nn.Module = self.network
        """The module that runs: the network, or DDP around it."""
        self._probe()

    @classmethod
    def load(cls, name: str, settings: OptimizerConfig, device: str | torch.device = "cpu") -> Policy:
        """Load a model from a folder or hub name.

        Raises:
            ConfigError: the model can't be loaded, or the settings don't fit it.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto")
            processor = AutoProcessor.from_pretrained(name)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ConfigError(f"the model can't be loaded: {error}", param="model") from error
        folder = Path(name) if Path(name).is_dir() else None
        return cls(model.to(device), processor, settings, folder=folder)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def language_model(self) -> nn.Module:
        """The part that reads tokens, or the whole model where the part is not known."""
        part: nn.Module = self.model.get_decoder() or self.model
        return part

    def render(self, rows: Sequence[TrainingRow], rendered: RenderedPrompts) -> None:
        """Add the prompts of some rows to `rendered`, for `encode`; on the CPU.

        Raises:
            MIRLError: a prompt can't be rendered.
        """
        render(self.processor, rows, rendered)

    def encode(self, rows: Sequence[TrainingRow], rendered: RenderedPrompts | None = None) -> Batch:
        """Encode rows (at least one) as tensors on the model's device.

        Args:
            rows: rows of one prompt share its Conversation object.
            rendered: rendered prompts, kept from one call to the next; the caller keeps the rows alive.

        Raises:
            ValueError: a completion holds a media placeholder.
            MIRLError: a prompt can't be rendered.
        """
        batch = encode(self.processor, rows, {} if rendered is None else rendered, self._banned)
        return batch.to(self.device)

    def idle_row(self) -> TrainingRow:
        """Return a row with an image and without a trained token: a rank without rows runs it, so that all
        ranks run the same layers."""
        token = next(token for token in range(len(self._banned) + 1) if token not in self._banned)
        return TrainingRow(self._idle_prompt, (token,), (False,), (0.0,), 0.0, "trajectory", "idle")

    def logprobs(self, batch: Batch) -> Tensor:
        """Return log p of each trained token of the completions: (B, T), 0 elsewhere; nats.

        Media placeholders have no probability: they are not sampled either.
        """
        values: Tensor = self.runner(batch)
        return values

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch) -> Tensor | None:
        """Return `logprobs` under the frozen start; None where the settings don't use it."""
        if not self.settings.kl:
            return None
        if self.reference is not None:
            values: Tensor = self.reference(batch)
            return values
        with without_adapters(self.model):
            return self.logprobs(batch)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """Return all weights under transformers' names, whole and on the CPU, adapters merged.

        They may share memory with the weights in training. Every rank must call this; ranks but the first get
        an empty dictionary where there are several.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Mapping[str, Any] = get_model_state_dict(self.network, options=options)
        weights: dict[str, Tensor] = {name.removeprefix("model."): value for name, value in state.items()}
        if self.settings.lora is not None and weights:
            weights = merge(weights, self.settings.lora)
        return weights

    def weights_in_file(self) -> dict[str, Tensor]:
        """Return the same weights under the names in the start's file, which vLLM knows.

        transformers renames as it loads: without `vision_model.` vLLM finds no place for the encoders of
        LLaVA, Gemma 3 and PaliGemma. Ranks are as for `weights`.
        """
        from transformers.core_model_loading import revert_weight_conversion

        weights = self.weights()
        converted: dict[str, Tensor] = revert_weight_conversion(self.model, weights) if weights else weights
        return converted

    def stream(self, dtype: torch.dtype | None = None) -> WeightStream:
        """Return all weights one at a time, under the names in the start's file, for a transfer.

        Args:
            dtype: of the weights; None: the start's.

        Raises:
            ConfigError: this model's weights can't be sent one at a time.
        """
        return WeightStream(self.network, self.model, self.settings.lora, dtype or self._start_dtype)

    def save_weights(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write weights and model settings in the Hugging Face layout, under the names in the start's file.

        Every rank must call this; the first writes.

        Args:
            folder: created if it is missing; files in it are overwritten.
            dtype: of the weights; None: the start's.
        """
        weights = self.weights()
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        dtype = dtype or self._start_dtype
        weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
        with torch.device("meta"):
            shell = type(self.model)(copy.deepcopy(self.model.config)).to(dtype)
        shell._weight_conversions = getattr(self.model, "_weight_conversions", None)
        shell.generation_config = self.model.generation_config
        shell.save_pretrained(folder, state_dict=weights)

    def export(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the folder that transformers and vLLM load.

        It holds weights, tokenizer, processor, chat template, and the start's `mirl.json` if there is one,
        without its calibration, which belongs to other weights. Arguments and ranks are as for
        `save_weights`.
        """
        self.save_weights(folder, dtype)
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        if self._folder is None:
            self.processor.save_pretrained(folder)
            return
        for file in sorted(self._folder.iterdir()):
            # Copied, since loading and saving a tokenizer changes its file.
            if file.is_file() and not _OWN_FILES.fullmatch(file.name):
                shutil.copyfile(file, folder / file.name)
        settings = folder / "mirl.json"
        if settings.exists():
            kept = json.loads(settings.read_text(encoding="utf-8-sig"))
            kept.pop("calibration", None)
            settings.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _probe(self) -> None:
        """Check log-probabilities against the model's own on one row, and freeze parameters that no row
        reaches.

        LLaVA's vision tower has a layer that is never read; ranks that sum gradients would wait for it.
        """
        row = replace(self.idle_row(), loss_mask=(True,))
        batch = self.encode([row])
        half = self.network.autocast
        logprob = self.network(batch)[0, 0]
        with torch.no_grad(), torch.autocast(self.device.type, half) if half else nullcontext():
            logits = self.model(**prompt_inputs(batch)).logits[:, -1].double()
        logits[:, sorted(self._banned)] = -torch.inf
        expected = logits.log_softmax(-1)[0, row.completion_ids[0]]
        bound = (0.1 if half else 1e-3) * expected.abs().clamp(min=1)
        if (logprob.double() - expected).abs() > bound:
            raise ConfigError(
                f"{type(self.model).__name__} changes its logits after the LM head (scaling or a soft cap), "
                "which training does not know about",
                param="model",
            )
        used = _leaves(logprob)
        for name, parameter in self.trained().items():
            if id(parameter) not in used:
                _LOG.info("%s is never used and is not trained", name)
                parameter.requires_grad_(False)


def _leaves(value: Tensor) -> set[int]:
    """Return the `id`s of the parameters on which a value depends."""
    leaves, seen, queue = set(), set(), [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue += [following for following, _ in node.next_functions]
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(id(leaf))
    return leaves


def _freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose name matches a pattern.

    Raises:
        ConfigError: a pattern has no match, or no parameter is left to train.
    """
    for pattern in patterns:
        matching = [value for name, value in model.named_parameters() if re.search(pattern, name)]
        if not matching:
            raise ConfigError(f"no parameter's name matches {pattern!r}", param="optimizer.freeze")
        for parameter in matching:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("every parameter is frozen: nothing is trained", param="optimizer.freeze")
