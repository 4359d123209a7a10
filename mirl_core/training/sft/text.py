"""The bundled model's tokenizer, chat template and prompt ids.

The tokenizer is a byte-level BPE with one token per digit, so any text is representable. The six tags of a
trajectory are single added tokens that are *not* special: they stay in decoded text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mirl_core.bundled.special_tokens import (
    ASSISTANT,
    END,
    FAKE_IMAGE,
    GLOBAL_IMAGE,
    IMAGE,
    PAD,
    SPECIAL_TOKENS,
    SYSTEM,
    USER,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "ASSISTANT",
    "CHAT_TEMPLATE",
    "END",
    "FAKE_IMAGE",
    "GLOBAL_IMAGE",
    "IMAGE",
    "IMAGE_TOKENS",
    "PAD",
    "SPECIAL_TOKENS",
    "SYSTEM",
    "TAGS",
    "USER",
    "build_tokenizer",
    "render_prompt",
    "render_trajectory",
]

TAGS = ("<description>", "</description>", "<think>", "</think>", "<answer>", "</answer>")
IMAGE_TOKENS = 16

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or part['type'] == 'image_url' -%}{{- '<image>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<end_of_utterance>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build_tokenizer(corpus: Iterable[str], vocabulary: int, digits: int = 1) -> Tokenizer:
    """Train the byte-level BPE on the worlds' text; a number token has at most `digits` digits."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    number = rf" ?\p{{N}}{{1,{digits}}}"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(number + r"| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    return tokenizer


def render_prompt(question: str, image: bool, system: str | None = None, image_last: bool = False) -> str:
    """Return the chat template's text for one question, with the image expanded as vLLM expands it."""
    picture = FAKE_IMAGE + GLOBAL_IMAGE + IMAGE * IMAGE_TOKENS + FAKE_IMAGE if image else ""
    head = "" if system is None else SYSTEM + system + END
    body = question + picture if image_last else picture + question
    return head + USER + body + END + ASSISTANT


def render_trajectory(description: str, reasoning: str, answer: str) -> tuple[str, str]:
    """Return the assistant's turn in two parts: the description with its tags, and everything after it."""
    return (
        f"<description>{description}</description>",
        f"<think>{reasoning}</think><answer>{answer}</answer>{END}",
    )
