"""Random weights that look at the image and close their tags, written as a folder that vLLM serves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.architectures import google, idefics, llava, mistral, qwen

ARCHITECTURES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_vl": qwen.qwen2_vl,
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "qwen3_vl_thinking": qwen.qwen3_vl_thinking,
    "qwen3_5": qwen.qwen3_5,
    "glm4v": qwen.glm4v,
    "internvl": llava.internvl,
    "gemma3": google.gemma3,
    "gemma4": google.gemma4,
    "paligemma": google.paligemma,
    "llava": llava.llava,
    "llava_next": llava.llava_next,
    "llava_onevision": llava.llava_onevision,
    "smolvlm": idefics.smolvlm,
    "idefics3": idefics.idefics3,
    "mistral3": mistral.mistral3,
    "pixtral": mistral.pixtral,
}
"""Makers of configuration and processor, by name."""
MISTRAL_FORMAT = "mistral_format"
LIKELY = {"</description>": 0.10, "<answer>": 0.01, "</answer>": 0.03, "7": 0.05}
"""How likely a token is about everywhere: descriptions close and answers come within some dozen tokens."""
MOST_PARAMETERS = 310_000
_DEVIATION = 0.12


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of an architecture to `folder`/`name`; return that folder."""
    target = folder / name
    if name == MISTRAL_FORMAT:
        mistral.write_mistral_format(target)
        return target
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    torch.manual_seed(7)
    config, processor = ARCHITECTURES[name]()
    config.dtype = torch.float32
    model = AutoModelForImageTextToText.from_config(config).float().eval()
    assert sum(weight.numel() for weight in model.parameters()) <= MOST_PARAMETERS
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                # Larger than usual, so that an image matters.
                weight.normal_(0, _DEVIATION)
    tokens = processor.tokenizer
    _favour(model, tokens)
    end = getattr(config, "eos_token_id", None) or tokens.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokens.pad_token_id)
    model.save_pretrained(target)
    processor.save_pretrained(target)
    _as_published(target / "model.safetensors")
    return target


def _favour(model: Any, tokens: Any) -> None:
    """Make the tokens of LIKELY likely.

    The first channel of every embedding becomes a constant, which the last norm passes on and the output
    embedding reads.
    """
    import torch

    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = table.data_ptr() == head.data_ptr()
    hidden: list[Any] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    probe = torch.tensor([tokens.encode("First look: what is in the image? It is a plain thing.")])
    with torch.no_grad():
        table[:, 0] = 4 * table.std()
        if not tied:
            head[:, 0] = 0
        for _ in range(3):  # tied embeddings: what is favoured moves the hidden state a little
            hidden.clear()
            logits = model(input_ids=probe, attention_mask=torch.ones_like(probe)).logits
            channel = hidden[0][0, :, 0].mean()
            usual = logits[0].logsumexp(-1).mean()
            for word, share in LIKELY.items():
                token = tokens.convert_tokens_to_ids(word)
                head[token, 0] += (math.log(share) + usual - logits[0, :, token].mean()) / channel
    hook.remove()


def _as_published(file: Path) -> None:
    """Name the weights of CLIP's and SigLIP's encoders as published checkpoints do, and as vLLM expects them.

    transformers 5 saves a model that was made, not loaded, without `vision_model.`.
    """
    from safetensors.torch import load_file, save_file

    tower = json.loads((file.parent / "config.json").read_text())["vision_config"]["model_type"]
    if tower not in ("clip_vision_model", "siglip_vision_model"):
        return
    prefix = "vision_tower."
    weights = {
        name.replace(prefix, f"{prefix}vision_model.") if "vision_model." not in name else name: value
        for name, value in load_file(file).items()
    }
    save_file(weights, file, {"format": "pt"})
