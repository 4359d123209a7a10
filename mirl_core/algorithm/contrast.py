"""The choice of a token by contrast: what the image makes likelier, among what the image makes plausible.

    argmax_t  log p(t | I, q, d<t) − λ · log p(t | q, d<t)    over  {t: p(t | I, q, d<t) ≥ α · max p}

This is contrastive decoding with its plausibility constraint (Li et al. 2023, "Contrastive Decoding:
Open-ended Text Generation as Optimization"), where the weaker model is the same one without the image; with
distorted images it is VCD (Leng et al. 2024), with none M3ID (Favero et al. 2024). λ = 0 is greedy decoding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["choose", "contrast", "plausible"]


def plausible(with_image: Mapping[int, float], share: float) -> dict[int, float]:
    """Return the tokens that are at least `share` times as likely as the likeliest one; nats.

    Args:
        with_image: log p(t | I, q, d<t) by token; nats.
        share: α, above 0, at most 1.
    """
    floor = max(with_image.values()) + math.log(share)
    # A token of exactly the share must not be lost by rounding.
    return {token: logprob for token, logprob in with_image.items() if logprob >= floor - 1e-9}


def contrast(with_image: float, image_free: float, weight: float) -> float:
    """Return `log p(t | I, q, d<t) − λ · log p(t | q, d<t)`; nats; may be infinite."""
    return with_image - weight * image_free if weight else with_image


def choose(candidates: Mapping[int, float], image_free: Mapping[int, float], weight: float) -> int:
    """Return the candidate with the most contrast; of equal ones the likelier, then the lower token id.

    Args:
        candidates: plausible tokens with log p(t | I, q, d<t); nats.
        image_free: log p(t | q, d<t) of each candidate; nats. Not read for a single candidate.
        weight: λ.
    """
    if len(candidates) == 1:
        return next(iter(candidates))
    return max(
        candidates,
        key=lambda token: (contrast(candidates[token], image_free[token], weight), candidates[token], -token),
    )
