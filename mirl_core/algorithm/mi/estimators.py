"""Mutual information between a description and its image: log-probabilities in, nats out.

    MI(d; I | q) = Σ_t [ log p(d_t | d_<t, I, q) − λ · log p(d_t | d_<t, q) ]

The first term comes free with sampling. The second, the image-free marginal, is estimated: an estimator
names the image-free conversations under which the engine scores the description (`variants`), and turns
their log-probabilities into the marginal's (`combine`). Pure functions of their arguments; in expectation
over images and descriptions:

    text       the model's own p(d | q), images removed: exact where the model learned the marginal
    blank      the same, with mean-colour images that keep token positions
    reference  log 1/K Σ_k p(d | I_k, q) over K reference images. The true image not among them: an upper
               bound of MI. Among them: the InfoNCE lower bound, at most log K for every single description
               (van den Oord et al. 2018; Poole et al. 2019, "On variational bounds of mutual information").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirl_core.config import EstimatorName
from mirl_core.errors import RequestError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from PIL.Image import Image

__all__ = [
    "ESTIMATORS",
    "BlankEstimator",
    "Estimator",
    "ReferenceEstimator",
    "TextEstimator",
    "information_share",
    "make_estimator",
    "mean_colour",
    "token_mi",
]


def token_mi(
    logprobs: ArrayLike, marginal: ArrayLike, weight: float = 1.0, clip: float | None = None
) -> NDArray[np.float64]:
    """Pointwise MI of each content token: `logprobs − weight · marginal`, clipped to ±`clip`; nats.

    Args:
        logprobs: (T,) log p(d_t | d_<t, I, q) of the content tokens; nats.
        marginal: (T,) log p(d_t | d_<t, q) of the same tokens; nats.
        weight: λ. 1 is mutual information; at 0 the marginal has no say, whatever it is.
        clip: bound of a token's contribution, against the spike where an untuned model, asked about an
            image that isn't there, answers that it can't see one; None: unbounded.

    Returns:
        (T,) float64. A token impossible under both terms is worth 0, not NaN: it tells the gate nothing.
    """
    given_image, given_none = _both(logprobs, marginal)
    if weight == 0:
        ratio = given_image.copy()
    else:
        with np.errstate(invalid="ignore"):
            ratio = given_image - weight * given_none
        ratio[np.isnan(ratio)] = 0.0
    return ratio if clip is None else np.clip(ratio, -clip, clip)


def information_share(logprobs: ArrayLike, marginals: ArrayLike) -> float:
    """Which share of the tokens' surprise without the image it explains: `1 − Σ logprobs / Σ marginals`.

    Theil's uncertainty coefficient (H(d) − H(d | I)) / H(d), with samples for both entropies (Theil 1970, "On
    the estimation of relationships involving qualitative variables"). As λ it needs no labels: an image that
    explains nothing leaves ranking to what is usual (0), one that explains everything lets that go (1).

    Args:
        logprobs: (T,) log p(d_t | d_<t, I, q) of all tokens of all descriptions; nats.
        marginals: (T,) log p(d_t | d_<t, q) of the same tokens; nats.

    Returns:
        Within 0 and 1. 0 where there is nothing to explain (no tokens, or marginals that add up to 0) and
        where a token is impossible given the image; else 1 where one is impossible without it.

    Raises:
        ValueError: the shapes differ or are not (T,).
    """
    given_image, given_none = _both(logprobs, marginals)
    # Exact sums: the order of the descriptions must not decide a tie.
    posterior, prior = math.fsum(given_image.tolist()), math.fsum(given_none.tolist())
    if prior >= 0 or posterior == -math.inf:
        return 0.0
    return min(max(1 - posterior / prior, 0.0), 1.0)


def _both(logprobs: ArrayLike, marginal: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    given_image = np.asarray(logprobs, dtype=np.float64)
    given_none = np.asarray(marginal, dtype=np.float64)
    if given_image.shape != given_none.shape or given_image.ndim != 1:
        raise ValueError(f"shapes differ or are not (T,): {given_image.shape} and {given_none.shape}")
    return given_image, given_none


class Estimator(Protocol):
    """One way to estimate the image-free term."""

    def variants(self, conversation: Conversation) -> list[Conversation]:
        """The conversations without the true images to score the description under."""
        ...

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """The marginal's (T,) log-probabilities from those of each variant, (K, T); nats."""
        ...


@dataclass(frozen=True, slots=True)
class TextEstimator:
    """`log p(d | q)`: the model's own, with the images taken out of the conversation."""

    def variants(self, conversation: Conversation) -> list[Conversation]:
        return [conversation.with_images(None)]

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        (only,) = per_variant
        return tuple(float(value) for value in only)


@dataclass(frozen=True, slots=True)
class BlankEstimator:
    """`log p(d | blank, q)`: images become their mean colour, so that every token keeps its position."""

    def variants(self, conversation: Conversation) -> list[Conversation]:
        return [conversation.with_images([mean_colour(image) for image in conversation.images])]

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        (only,) = per_variant
        return tuple(float(value) for value in only)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceEstimator:
    """`log 1/K Σ_k p(d | I_k, q)`: the marginal over K given images.

    Several images are one `I`: a reference takes the place of all of them.
    """

    references: tuple[Image, ...] = ()

    def variants(self, conversation: Conversation) -> list[Conversation]:
        count = len(conversation.images)
        return [conversation.with_images([reference] * count) for reference in self.references]

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """Log of the mean *sequence* probability; a token's share is the difference of two prefixes.

        So the sum over any prefix is that prefix's exact log-mean-probability. Averaging per token instead
        would forget which reference explained the beginning, and with it both bounds.
        """
        table = np.asarray(per_variant, dtype=np.float64)
        if table.ndim != 2 or not len(table):
            raise ValueError(f"expected (K, T) log-probabilities with K ≥ 1, got {table.shape}")
        prefixes = np.cumsum(table, axis=1)
        means = np.logaddexp.reduce(prefixes, axis=0) - np.log(len(table))
        with np.errstate(invalid="ignore"):
            steps = np.diff(means, prepend=0.0)
        # After a token that no reference can say, every longer prefix is impossible too: −inf − −inf.
        steps[np.isnan(steps)] = -np.inf
        return tuple(steps.tolist())


ESTIMATORS: dict[EstimatorName, type[TextEstimator] | type[BlankEstimator] | type[ReferenceEstimator]] = {
    "text": TextEstimator,
    "blank": BlankEstimator,
    "reference": ReferenceEstimator,
}


def make_estimator(name: EstimatorName, references: Sequence[Image] = ()) -> Estimator:
    """The estimator called `name`; `references` are the operator's images, only used by `reference`.

    Raises:
        RequestError: `reference` was asked for and no reference images are configured.
    """
    kind = ESTIMATORS[name]
    if kind is not ReferenceEstimator:
        return kind()
    if not references:
        raise RequestError(
            "this model has no reference images for the estimator 'reference': list files under "
            "`reference_images` in its mirl.json, or ask for 'text' or 'blank'",
            param="mirl.estimator",
        )
    return ReferenceEstimator(tuple(references))


def mean_colour(image: Image) -> Image:
    """An RGB image of the same size, filled with the mean colour of `image`."""
    from PIL import Image as Images
    from PIL import ImageStat

    red, green, blue = (round(mean) for mean in ImageStat.Stat(image.convert("RGB")).mean)
    return Images.new("RGB", image.size, (red, green, blue))
