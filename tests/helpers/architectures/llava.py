"""LLaVA 1.5, LLaVA-NeXT, LLaVA-OneVision, InternVL: an image encoder, a projection, an ordinary decoder."""

from __future__ import annotations

from typing import Any

from tests.helpers.architectures import templates
from tests.helpers.architectures.vocabulary import decoder, encoder, ids, tokenizer

SIDE = {"height": 56, "width": 56}
CROPPED = {"size": {"shortest_edge": 56}, "crop_size": SIDE}


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaProcessor

    tokens = _tokens()
    return LlavaConfig(**_config(tokens)), _processor(LlavaProcessor, CLIPImageProcessor(**CROPPED), tokens)


def llava_next() -> tuple[Any, Any]:
    from transformers import LlavaNextConfig, LlavaNextImageProcessor, LlavaNextProcessor

    tokens = _tokens()
    grid = [[56, 112], [112, 56], [112, 112]]
    images = LlavaNextImageProcessor(image_grid_pinpoints=grid, **CROPPED)
    config = LlavaNextConfig(image_grid_pinpoints=grid, **_config(tokens))
    return config, _processor(LlavaNextProcessor, images, tokens)


def llava_onevision() -> tuple[Any, Any]:
    import transformers

    media = {"image_token": "<image>", "video_token": "<video>"}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *media.values()]
    tokens = tokenizer(special, "<|im_end|>", pad="<|endoftext|>", named=media)
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = transformers.LlavaOnevisionConfig(
        text_config=decoder(model_type="qwen2"),
        vision_config=encoder(model_type="siglip_vision_model", vision_use_head=False),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=False,
        **ids(tokens, image_token_index="<image>", video_token_index="<video>"),
    )
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=grid),
        tokens,
        transformers.LlavaOnevisionVideoProcessor(size=SIDE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=templates.LLAVA_ONEVISION,
    )
    return config, processor


def internvl() -> tuple[Any, Any]:
    import transformers

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()]
    tokens = tokenizer(special, "<|im_end|>", pad="<|endoftext|>", named=named)
    config = transformers.InternVLConfig(
        text_config=decoder(model_type="qwen2"),
        vision_config=encoder(image_size=[56, 56], patch_size=[14, 14]),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        **ids(tokens, image_token_id="<IMG_CONTEXT>"),
    )
    images = transformers.GotOcr2ImageProcessor(size=SIDE, crop_to_patches=True, min_patches=1, max_patches=4)
    processor = transformers.InternVLProcessor(
        images,
        tokens,
        transformers.InternVLVideoProcessor(size=SIDE),
        image_seq_length=4,
        chat_template=templates.chatml("<IMG_CONTEXT>\n"),
    )
    return config, processor


def _tokens() -> Any:
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    return tokenizer(
        special, "</s>", begin="<s>", pad="<pad>", prepend=True, named={"image_token": "<image>"}
    )


def _config(tokens: Any) -> dict[str, Any]:
    return {
        "text_config": decoder(model_type="llama", **ids(tokens, bos_token_id="<s>", eos_token_id="</s>")),
        "vision_config": encoder(model_type="clip_vision_model", num_hidden_layers=3, projection_dim=32),
        "image_seq_length": 16,
        "tie_word_embeddings": False,
        **ids(tokens, image_token_index="<image>"),
    }


def _processor(kind: Any, images: Any, tokens: Any) -> Any:
    return kind(
        images,
        tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=templates.LLAVA,
    )
