"""SmolVLM and Idefics3: an image becomes many, each between tokens for its row and column."""

from __future__ import annotations

from typing import Any

from tests.helpers.architectures import templates
from tests.helpers.architectures.vocabulary import decoder, encoder, tokenizer

SIZES = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}


def smolvlm() -> tuple[Any, Any]:
    import transformers

    tokens = _tokens()
    config = transformers.SmolVLMConfig(**_config(tokens, **SIZES))
    videos = transformers.SmolVLMVideoProcessor(
        **SIZES, video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 56}}
    )
    images = transformers.SmolVLMImageProcessor(**SIZES)
    return config, transformers.SmolVLMProcessor(
        images, tokens, videos, image_seq_len=4, chat_template=templates.SMOLVLM
    )


def idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ImageProcessor, Idefics3Processor

    tokens = _tokens()
    images = Idefics3ImageProcessor(**SIZES)
    processor = Idefics3Processor(images, tokens, image_seq_len=4, chat_template=templates.SMOLVLM)
    return Idefics3Config(**_config(tokens)), processor


def _tokens() -> Any:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    media = ["<fake_token_around_image>", "<image>", "<global-img>"]
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", *media, *places]
    return tokenizer(special, "<end_of_utterance>", begin="<|im_start|>", pad="<|endoftext|>")


def _config(tokens: Any, **vision: Any) -> dict[str, Any]:
    return {
        "text_config": decoder(model_type="llama", pad_token_id=tokens.pad_token_id),
        "vision_config": encoder(**vision),
        "image_token_id": tokens.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokens.pad_token_id,
        "scale_factor": 2,
        "tie_word_embeddings": False,
    }
