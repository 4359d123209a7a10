"""Log-probabilities of one tokenization of a text, given to the tokens of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def ends(token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int]:
    """Return, for each token, at which character of the tokens' text it ends."""
    # A token that ends within a character decodes to a replacement that the next one takes back.
    lengths = [len(decode(token_ids[:count])) for count in range(1, len(token_ids) + 1)]
    for at in range(len(lengths) - 2, -1, -1):
        lengths[at] = min(lengths[at], lengths[at + 1])
    return lengths


def spread(values: Sequence[float], from_ends: Sequence[int], to_ends: Sequence[int]) -> list[float]:
    """Return the values of tokens that end at `to_ends`, from those of tokens that end at `from_ends`.

    A token's value is divided among the tokens that share its characters, in proportion to those, so the sum
    stays the same. What no token shares goes to the last.

    Args:
        values: log p of each token at hand; nats.
        from_ends: where these end in the text; characters.
        to_ends: where the wanted tokens end; characters.
    """
    result = [0.0] * len(to_ends)
    if not to_ends:
        return result
    start = 0
    for value, end in zip(values, from_ends, strict=True):
        shares = _shares(start, end, to_ends)
        for at, share in shares.items():
            result[at] += value * share
        start = max(start, end)
    return result


def _shares(start: int, end: int, to_ends: Sequence[int]) -> dict[int, float]:
    """Return which wanted tokens share the characters from `start` to `end`, with their shares of them."""
    last = len(to_ends) - 1
    if end <= start:
        return {next((at for at, stop in enumerate(to_ends) if stop >= end), last): 1.0}
    shares: dict[int, float] = {}
    begin = 0
    for at, stop in enumerate(to_ends):
        overlap = min(end, stop) - max(start, begin)
        if overlap > 0:
            shares[at] = overlap / (end - start)
        begin = max(begin, stop)
    rest = 1.0 - sum(shares.values())
    if rest > 1e-12:
        shares[last] = shares.get(last, 0.0) + rest
    return shares
