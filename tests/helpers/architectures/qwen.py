"""Qwen2-VL to Qwen3.5 and GLM-4V: rotary positions in three dimensions."""

from __future__ import annotations

from typing import Any

from tests.helpers.architectures import templates
from tests.helpers.architectures.vocabulary import decoder, ids, tokenizer

CHATML = templates.chatml(templates.QWEN_IMAGE, system="You are a helpful assistant.")


def qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLProcessor

    tokens = _tokens()
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "hidden_size": 64,
        "patch_size": 14,
        "mlp_ratio": 2,
    }
    config = Qwen2VLConfig(
        text_config=decoder(**_rotary([4, 6, 6])),
        vision_config=vision,
        tie_word_embeddings=False,
        **_ids(tokens),
    )
    return config, Qwen2VLProcessor(*_images(14, tokens), chat_template=CHATML)


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor

    tokens = _tokens()
    vision = _vision(patch_size=14, window_size=56, fullatt_block_indexes=[1])
    config = Qwen2_5_VLConfig(
        text_config=decoder(**_rotary([4, 6, 6])),
        vision_config=vision,
        tie_word_embeddings=False,
        **_ids(tokens),
    )
    return config, Qwen2_5_VLProcessor(*_images(14, tokens), chat_template=CHATML)


def qwen3_vl(prompt_end: str = "") -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig

    tokens = _tokens()
    vision = _vision(patch_size=16, num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    config = Qwen3VLConfig(
        text_config=decoder(**_rotary([6, 5, 5], mrope_interleaved=True)),
        vision_config=vision,
        tie_word_embeddings=False,
        **_ids(tokens),
    )
    return config, _qwen3_processor(tokens, prompt_end)


def qwen3_vl_thinking() -> tuple[Any, Any]:
    return qwen3_vl(templates.ALWAYS_THINKS)


def qwen3_5() -> tuple[Any, Any]:
    from transformers import Qwen3_5Config

    tokens = _tokens()
    text = decoder(
        **_rotary([2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.25),
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=1,
        linear_num_value_heads=1,
        linear_conv_kernel_dim=4,
    )
    vision = _vision(patch_size=16, num_position_embeddings=64)
    config = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=False, **_ids(tokens))
    return config, _qwen3_processor(tokens, templates.THINKS_UNLESS_SWITCHED_OFF)


def glm4v() -> tuple[Any, Any]:
    from transformers import Glm4vConfig, Glm4vImageProcessor, Glm4vProcessor, Glm4vVideoProcessor

    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    media = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
    special = ["<|endoftext|>", "[gMASK]", "<sop>", *roles, *media, "<|image|>", "<|video|>"]
    tokens = tokenizer(special, "<|endoftext|>")
    named = ids(
        tokens,
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        image_start_token_id="<|begin_of_image|>",
        image_end_token_id="<|end_of_image|>",
        video_start_token_id="<|begin_of_video|>",
        video_end_token_id="<|end_of_video|>",
        eos_token_id="<|user|>",
    )
    text = decoder(
        **_rotary([2, 3, 3], partial_rotary_factor=0.5),
        model_type="glm4v_text",
        pad_token_id=tokens.pad_token_id,
    )
    vision = _vision(patch_size=14, image_size=112)
    config = Glm4vConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **named)
    size = {"shortest_edge": 8 * 28**2, "longest_edge": 72 * 28**2}
    processor = Glm4vProcessor(
        Glm4vImageProcessor(size=size), tokens, Glm4vVideoProcessor(size=size), chat_template=templates.GLM
    )
    return config, processor


def _tokens() -> Any:
    vision = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    return tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *vision], "<|im_end|>", pad="<|endoftext|>"
    )


def _ids(tokens: Any) -> dict[str, int]:
    return ids(
        tokens,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def _rotary(section: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section, **more}}


def _vision(**more: Any) -> dict[str, Any]:
    usual = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
    return usual | more


def _images(patch: int, tokens: Any) -> tuple[Any, Any, Any]:
    """Return the image processor, the tokenizer and the video processor: a processor's arguments."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    unit = (2 * patch) ** 2
    how = {
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * unit, "longest_edge": 36 * unit},
    }
    return Qwen2VLImageProcessor(**how), tokens, Qwen2VLVideoProcessor(**how)


def _qwen3_processor(tokens: Any, prompt_end: str) -> Any:
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor

    images, _, _ = _images(16, tokens)
    videos = Qwen3VLVideoProcessor(patch_size=16, merge_size=2, temporal_patch_size=2)
    template = templates.chatml(templates.QWEN_IMAGE, prompt_end=prompt_end)
    return Qwen3VLProcessor(images, tokens, videos, chat_template=template)
