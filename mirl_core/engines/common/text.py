"""Text to token ids and back, by any tokenizer with transformers' interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextCodec:
    """A tokenizer whose decoded text has no special tokens.

    Args:
        tokenizer: transformers' tokenizer.
        keep_special: special tokens that stay in text: for tokenizers whose tags are special tokens. Others
            among them change nothing.
        decoding: further arguments of the tokenizer's `decode`.
    """

    def __init__(self, tokenizer: Any, keep_special: Sequence[str] = (), **decoding: Any) -> None:
        self._tokenizer = tokenizer
        self._decoding = decoding
        self._dropped = (
            tuple(token for token in tokenizer.all_special_tokens if token not in keep_special)
            if set(keep_special).intersection(tokenizer.all_special_tokens)
            else ()
        )

    @property
    def skips_special(self) -> bool:
        """Whether the tokenizer leaves special tokens out; if not, `cleaned` does."""
        return not self._dropped

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text`, without special tokens added."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self.cleaned(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=self.skips_special, **self._decoding)
        )

    def verbatim(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids with all special tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False, **self._decoding)
        return text

    def token(self, token_id: int) -> str:
        """Return the text of a single token, special or not."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False, **self._decoding)
        return text

    def cleaned(self, text: str) -> str:
        """Return `text`, decoded with special tokens, without those that are not in `keep_special`."""
        for token in self._dropped:
            text = text.replace(token, "")
        return text
