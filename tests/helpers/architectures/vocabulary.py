"""Byte-level BPE tokenizers, trained on the standard library's source, with a family's own special tokens."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIZE = 700
"""Rows of every model's embedding; tokenizers have at most as many tokens."""
LENGTH = 2048
"""Longest prompt plus completion; tokens."""
TAGS = ("<description>", "</description>", "<think>", "</think>", "<answer>", "</answer>")
LINE_BREAKS = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
"""Tokens of Gemma's vocabulary that vLLM looks up by name."""
_RESERVED = 140


def tokenizer(
    special: Sequence[str],
    end: str,
    *,
    begin: str | None = None,
    pad: str | None = None,
    named: Mapping[str, str] | None = None,
    plain: Sequence[str] = (),
    prepend: bool = False,
) -> Any:
    """Return transformers' tokenizer.

    Args:
        special: special tokens; decoding leaves them out.
        end: the special token that ends a turn.
        begin: the special token that begins a text.
        pad: the special token that pads; None: `end`.
        named: special tokens that processors read as attributes of the tokenizer.
        plain: added tokens that stay in text; MIRL's tags are always among them.
        prepend: whether encoding puts `begin` first.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE - _RESERVED, initial_alphabet=alphabet, show_progress=False)
    texts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (argparse, textwrap)]
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*plain, *TAGS)])
    if prepend:
        assert begin is not None
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, bpe.token_to_id(begin))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=begin,
        eos_token=end,
        pad_token=pad or end,
        extra_special_tokens=dict(named or {}),
        model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
    )
    assert len(made) <= SIZE
    return made


def ids(tokens: Any, **names: str) -> dict[str, int]:
    """Return the ids of tokens, by the names of a configuration's fields."""
    return {name: tokens.convert_tokens_to_ids(token) for name, token in names.items()}


def decoder(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a decoder of two layers; its head size is one of vLLM's CPU kernels'."""
    usual = {
        "vocab_size": SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": False,
    }
    return usual | changes


def encoder(**changes: Any) -> dict[str, Any]:
    """Return the configuration of an image encoder of two layers for 56×56 pixels in patches of 14."""
    usual = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    return usual | changes
