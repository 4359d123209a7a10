"""Tokens of a bundled model, for the words of its switches."""

from __future__ import annotations

from tokenizers import Tokenizer

from mirl_client.cli.switches import Tokenize
from mirl_core.bundled import BundledModel


def tokenizer_of(model: BundledModel) -> Tokenize:
    """Return the split of a text into the model's tokens."""
    tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))

    def tokenize(text: str) -> list[str]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [tokenizer.decode([token], skip_special_tokens=False) for token in ids]

    return tokenize
