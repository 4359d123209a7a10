"""Mistral Small 3 and Pixtral, in transformers' format and in Mistral's own."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.helpers.architectures import templates
from tests.helpers.architectures.vocabulary import LENGTH, decoder, encoder, ids, tokenizer


def mistral3() -> tuple[Any, Any]:
    from transformers import Mistral3Config

    tokens, text, vision = _parts()
    config = Mistral3Config(
        text_config=text,
        vision_config=vision,
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **ids(tokens, image_token_index="[IMG]"),
    )
    return config, _processor(tokens, merge=2)


def pixtral() -> tuple[Any, Any]:
    """LLaVA's architecture around Pixtral's encoder, as mistral-community/pixtral-12b is."""
    from transformers import LlavaConfig

    tokens, text, vision = _parts()
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        **ids(tokens, image_token_index="[IMG]"),
    )
    return config, _processor(tokens, merge=1)


def write_mistral_format(folder: Path) -> None:
    """Write params.json and tekken.json; the weights are vLLM's random ones (`load_format="dummy"`)."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    pieces = [bytes([value]) for value in range(256)]
    for word in (b" the", b" of", b"description", b"answer", b"think", b"</"):
        # Each prefix is a piece, so that merges reach the whole word.
        pieces += [piece for end in range(2, len(word) + 1) if (piece := word[:end]) not in pieces]
    vocabulary = [
        {
            "rank": rank,
            "token_bytes": base64.b64encode(piece).decode(),
            "token_str": piece.decode("utf-8", "replace"),
        }
        for rank, piece in enumerate(pieces)
    ]
    special = [
        {**token, "token_str": str(token["token_str"].value)}
        for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    ]
    size = len(vocabulary) + 32
    tekken = {
        "config": {
            "pattern": r"\w+|[^\w\s]+|\s+",
            "num_vocab_tokens": len(vocabulary),
            "default_vocab_size": size,
            "default_num_special_tokens": 32,
            "version": "v7",
        },
        "vocab": vocabulary,
        "special_tokens": special,
        "image": {"image_patch_size": 14, "max_image_size": 112, "spatial_merge_size": 2},
    }
    vision = {
        "hidden_size": 64,
        "num_channels": 3,
        "max_image_size": 112,
        "image_size": 112,
        "patch_size": 14,
        "rope_theta": 1e4,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "adapter_bias": False,
        "mm_projector_id": "patch_merge",
        "spatial_merge_size": 2,
        "add_pre_mm_projector_layer_norm": True,
        "image_token_id": 10,
        "image_break_token_id": 12,
        "image_end_token_id": 13,
    }
    params = {
        "dim": 64,
        "n_layers": 2,
        "head_dim": 32,
        "hidden_dim": 128,
        "n_heads": 2,
        "n_kv_heads": 1,
        "rope_theta": 1e6,
        "norm_eps": 1e-5,
        "vocab_size": size,
        "max_position_embeddings": LENGTH,
        "max_seq_len": LENGTH,
        "vision_encoder": vision,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(tekken))
    (folder / "params.json").write_text(json.dumps(params))


def _parts() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    marks = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokens = tokenizer(
        ["<unk>", "<s>", "</s>", *marks, "<pad>"], "</s>", begin="<s>", pad="<pad>", prepend=True
    )
    text = decoder(model_type="mistral", sliding_window=None)
    return tokens, text, encoder(model_type="pixtral", hidden_size=64, head_dim=32, image_size=112)


def _processor(tokens: Any, merge: int) -> Any:
    from transformers import PixtralImageProcessor, PixtralProcessor

    images = PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    return PixtralProcessor(
        images, tokens, patch_size=14, spatial_merge_size=merge, chat_template=templates.MISTRAL
    )
