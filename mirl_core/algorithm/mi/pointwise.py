"""Mutual information (MI) per token: log-probabilities in, nats out.

    MI(d; I | q) = Σ_t [ log p(d_t | d_<t, I, q) − λ · log p(d_t | d_<t, q) ]

The first term comes with sampling at no cost. `estimators.py` estimates the second, the image-free marginal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["information_share", "token_mi"]


def token_mi(
    logprobs: ArrayLike, marginal: ArrayLike, weight: float = 1.0, clip: float | None = None
) -> NDArray[np.float64]:
    """Return each content token's pointwise MI: `logprobs − weight · marginal`, clipped to ±`clip`; nats.

    Args:
        logprobs: (T,) log p(d_t | d_<t, I, q) of the content tokens; nats.
        marginal: (T,) log p(d_t | d_<t, q) of the same tokens; nats.
        weight: λ. 1 is mutual information; 0 ignores the marginal, infinite values included.
        clip: bound of a token's contribution in nats; None: unbounded. It limits the spike where an untuned
            model, asked about an image that isn't there, answers that it can't see one.

    Returns:
        (T,) float64. A token that is impossible under both terms has 0, not NaN.

    Raises:
        ValueError: the shapes differ or are not (T,).
    """
    with_image, without_image = _checked(logprobs, marginal)
    if weight == 0:
        ratio = with_image.copy()
    else:
        with np.errstate(invalid="ignore"):
            ratio = with_image - weight * without_image
        ratio[np.isnan(ratio)] = 0.0
    return ratio if clip is None else np.clip(ratio, -clip, clip)


def information_share(logprobs: ArrayLike, marginals: ArrayLike) -> float:
    """Return the share of the tokens' surprise that the image explains: `1 − Σ logprobs / Σ marginals`.

    This is Theil's uncertainty coefficient (H(d) − H(d | I)) / H(d), with samples for both entropies (Theil
    1970, "On the estimation of relationships involving qualitative variables"). As λ it needs no labels: λ is
    0, and usual descriptions rank first, where the image explains nothing; 1 where it explains everything.

    Args:
        logprobs: (T,) log p(d_t | d_<t, I, q) of all tokens of all descriptions; nats.
        marginals: (T,) log p(d_t | d_<t, q) of the same tokens; nats.

    Returns:
        0 to 1. 0 where there is nothing to explain (no tokens, or marginals that add up to 0) and where a
        token is impossible given the image; else 1 where a token is impossible without the image.

    Raises:
        ValueError: the shapes differ or are not (T,).
    """
    with_image, without_image = _checked(logprobs, marginals)
    # Exact sums: the order of the descriptions must not decide a tie.
    posterior, prior = math.fsum(with_image.tolist()), math.fsum(without_image.tolist())
    if prior >= 0 or posterior == -math.inf:
        return 0.0
    return min(max(1 - posterior / prior, 0.0), 1.0)


def _checked(logprobs: ArrayLike, marginal: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with_image = np.asarray(logprobs, dtype=np.float64)
    without_image = np.asarray(marginal, dtype=np.float64)
    if with_image.shape != without_image.shape or with_image.ndim != 1:
        raise ValueError(f"shapes differ or are not (T,): {with_image.shape} and {without_image.shape}")
    return with_image, without_image
