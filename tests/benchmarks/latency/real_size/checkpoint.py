"""A checkpoint of real size with random weights: an Idefics3 of 222M parameters, made without a download.

The text decoder has the shape of SmolLM2-135M (30 layers, hidden 576, 9 heads, 3 KV heads, 49,152 tokens),
the vision tower that of ViT-B (12 layers, hidden 768); an image is 256 x 256 pixels and 64 tokens. It has no
end-of-turn token, so that samples have forced lengths (`forced.py`).
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.bundled.special_tokens import IMAGE, PAD, SPECIAL_TOKENS
from mirl_core.training.sft.text import CHAT_TEMPLATE, TAGS, build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["make_checkpoint"]

NAME = "idefics3-222m-random"
VOCABULARY = 49152
CONTEXT = 2048
SIDE, PATCH, SHUFFLE = 256, 16, 2
IMAGE_TOKENS = (SIDE // PATCH // SHUFFLE) ** 2
CORPUS_BYTES = 8_000_000
TEXT: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor",
    "do_convert_rgb": True, "do_resize": True, "size": {"longest_edge": SIDE},
    "max_image_size": {"longest_edge": SIDE}, "do_image_splitting": False, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "do_pad": True, "resample": 1,
}  # fmt: skip


def make_checkpoint(
    cache: Path, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None
) -> Path:
    """Return the folder of the checkpoint below `cache`, made there if it is missing: 450 MB.

    Args:
        text: changes of the text decoder's shape, for tests.
        vision: changes of the vision tower's.
    """
    folder = cache / NAME
    settings = folder / "mirl.json"
    if not settings.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = make_tokenizer()
        _save_model(folder, tokenizer, TEXT | (text or {}), VISION | (vision or {}))
        _save_processor(folder, tokenizer)
        # Written last: a folder without it is incomplete.
        settings.write_text(json.dumps({"options": {}}) + "\n")
    return folder


def make_tokenizer() -> Tokenizer:
    """Return a byte-level BPE of exactly `VOCABULARY` tokens, trained on the standard library's source."""
    from tokenizers import AddedToken

    tokenizer = build_tokenizer(_corpus(), VOCABULARY)
    missing = VOCABULARY - tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken(f"<|unused-{number}|>", special=False) for number in range(missing)])
    return tokenizer


def _corpus() -> Iterator[str]:
    size = 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py")):
        text = file.read_text(encoding="utf-8", errors="ignore")
        size += len(text)
        if size > CORPUS_BYTES:
            return
        yield text


def _save_model(folder: Path, tokenizer: Tokenizer, text: dict[str, Any], vision: dict[str, Any]) -> None:
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    pad = tokenizer.token_to_id(PAD)
    config = Idefics3Config(
        text_config={**text, "pad_token_id": pad},
        vision_config=vision,
        scale_factor=SHUFFLE,
        image_token_id=tokenizer.token_to_id(IMAGE),
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=None,
    )
    config.dtype = torch.bfloat16
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.generation_config.bos_token_id = None
    model.generation_config.pad_token_id = pad
    model.save_pretrained(folder)


def _save_processor(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    assert all(len(tokenizer.encode(tag, add_special_tokens=False).ids) == 1 for tag in TAGS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token != PAD],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
