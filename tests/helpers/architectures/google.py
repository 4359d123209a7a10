"""Gemma 3, Gemma 4 and PaliGemma: tied embeddings, alternating roles, prompts read in both directions."""

from __future__ import annotations

from typing import Any

from tests.helpers.architectures import templates
from tests.helpers.architectures.vocabulary import LINE_BREAKS, SIZE, decoder, encoder, ids, tokenizer

USUAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
LAYERS = ["sliding_attention", "full_attention"]


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ImageProcessor, Gemma3Processor

    image, begin, end = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
    tokens = tokenizer(
        [*USUAL, "<start_of_turn>", "<end_of_turn>", begin, end, image],
        "<eos>",
        begin="<bos>",
        pad="<pad>",
        prepend=True,
        plain=LINE_BREAKS,
        named={"image_token": image, "boi_token": begin, "eoi_token": end},
    )
    turn_end = tokens.convert_tokens_to_ids("<end_of_turn>")
    config = Gemma3Config(
        text_config=_decoder(tokens, turn_end, query_pre_attn_scalar=32),
        vision_config=encoder(),
        mm_tokens_per_image=4,
        eos_token_id=[tokens.eos_token_id, turn_end],
        **ids(tokens, boi_token_index=begin, eoi_token_index=end, image_token_index=image),
    )
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56}, image_seq_length=4)
    return config, Gemma3Processor(images, tokens, image_seq_length=4, chat_template=templates.GEMMA3)


def gemma4() -> tuple[Any, Any]:
    import transformers

    media = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "video_token": "<|video|>",
    }
    tokens = tokenizer(
        [*USUAL, "<|turn>", "<turn|>", *media.values(), "<|channel>", "<channel|>"],
        "<eos>",
        begin="<bos>",
        pad="<pad>",
        prepend=True,
        plain=LINE_BREAKS,
        named=media,
    )
    turn_end = tokens.convert_tokens_to_ids("<turn|>")
    vision = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "patch_size": 16,
        "pooling_kernel_size": 2,
        "position_embedding_size": 512,
        "default_output_length": 70,
    }
    config = transformers.Gemma4Config(
        text_config=_decoder(
            tokens,
            turn_end,
            global_head_dim=32,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=SIZE,
            num_kv_shared_layers=0,
        ),
        vision_config=vision,
        audio_config=None,
        eos_token_id=[tokens.eos_token_id, turn_end],
        **ids(
            tokens,
            image_token_id="<|image|>",
            boi_token_id="<|image>",
            eoi_token_id="<image|>",
            audio_token_id="<|audio|>",
            boa_token_id="<|audio>",
            eoa_token_index="<audio|>",
            video_token_id="<|video|>",
        ),
    )
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(patch_size=16, pooling_kernel_size=2, max_soft_tokens=70),
        tokens,
        transformers.Gemma4VideoProcessor(patch_size=16, pooling_kernel_size=2),
        image_seq_length=70,
        chat_template=templates.GEMMA4,
    )
    return config, processor


def paligemma() -> tuple[Any, Any]:
    from transformers import PaliGemmaConfig, PaliGemmaProcessor, SiglipImageProcessor

    tokens = tokenizer(
        [*USUAL, "<image>"],
        "<eos>",
        begin="<bos>",
        pad="<pad>",
        plain=LINE_BREAKS,
        named={"image_token": "<image>"},
    )
    text = decoder(
        model_type="gemma2",
        sliding_window=64,
        query_pre_attn_scalar=32,
        layer_types=LAYERS,
        tie_word_embeddings=True,
        vocab_size=SIZE + 1300,  # its processor adds 1,152 tokens for places and masks
    )
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=encoder(model_type="siglip_vision_model", projection_dim=64, vision_use_head=False),
        projection_dim=64,
        hidden_size=64,
        eos_token_id=tokens.eos_token_id,
        **ids(tokens, image_token_index="<image>"),
    )
    images = SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    return config, PaliGemmaProcessor(images, tokens, chat_template=templates.PALIGEMMA)


def _decoder(tokens: Any, turn_end: int, **more: Any) -> dict[str, Any]:
    return decoder(
        sliding_window=64,
        layer_types=LAYERS,
        tie_word_embeddings=True,
        eos_token_id=turn_end,
        bos_token_id=tokens.bos_token_id,
        pad_token_id=tokens.pad_token_id,
        **more,
    )
