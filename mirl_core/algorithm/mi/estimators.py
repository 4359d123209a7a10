"""Estimators of the image-free marginal log p(d | q), the second term of MI.

An estimator names the image-free conversations under which the engine scores a description (`variants`) and
combines their log-probabilities into the marginal's (`combine`). In expectation over images and descriptions:

    text       the model's own p(d | q), images removed: exact where the model learned the marginal
    blank      the same, with mean-colour images that keep token positions
    reference  log 1/K Σ_k p(d | I_k, q) over K reference images. The true image not among them: an upper
               bound of MI. Among them: the InfoNCE lower bound, at most log K for every single description
               (van den Oord et al. 2018; Poole et al. 2019, "On variational bounds of mutual information").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from mirl_core.config import EstimatorName
from mirl_core.errors import RequestError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ESTIMATORS",
    "BlankEstimator",
    "Estimator",
    "ReferenceEstimator",
    "TextEstimator",
    "make_estimator",
    "mean_colour",
]


class Estimator(Protocol):
    """A way to estimate the image-free marginal."""

    needs_references: ClassVar[bool]
    """Whether it takes the operator's reference images."""
    keeps_images: ClassVar[bool]
    """Whether its conversations have as many images as the request's, other ones."""

    @staticmethod
    def passes(references: int) -> int:
        """Return how many scoring passes a description takes where the model has `references` images."""
        ...

    def variants(self, conversation: Conversation) -> list[Conversation]:
        """Return the conversations without the true images to score the description under, one per pass."""
        ...

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """Return the marginal's (T,) log-probabilities from those of each variant, (K, T); nats."""
        ...


@dataclass(frozen=True, slots=True)
class TextEstimator:
    """`log p(d | q)`: the model's own, with the images removed from the conversation."""

    needs_references: ClassVar[bool] = False
    keeps_images: ClassVar[bool] = False

    @staticmethod
    def passes(references: int) -> int:
        return 1

    def variants(self, conversation: Conversation) -> list[Conversation]:
        return [conversation.with_images(None)]

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        return _only(per_variant)


@dataclass(frozen=True, slots=True)
class BlankEstimator:
    """`log p(d | blank, q)`: images become their mean colour, so that every token keeps its position."""

    needs_references: ClassVar[bool] = False
    keeps_images: ClassVar[bool] = True

    @staticmethod
    def passes(references: int) -> int:
        return 1

    def variants(self, conversation: Conversation) -> list[Conversation]:
        return [conversation.with_images([mean_colour(image) for image in conversation.images])]

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        return _only(per_variant)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceEstimator:
    """`log 1/K Σ_k p(d | I_k, q)`: the marginal over K reference images.

    The images of a conversation count as one `I`: a reference replaces all of them.
    """

    needs_references: ClassVar[bool] = True
    keeps_images: ClassVar[bool] = True
    references: tuple[Image, ...] = ()

    @staticmethod
    def passes(references: int) -> int:
        return references

    def variants(self, conversation: Conversation) -> list[Conversation]:
        count = len(conversation.images)
        return [conversation.with_images([reference] * count) for reference in self.references]

    def combine(self, per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """Return the log of the mean *sequence* probability; a token has the difference of two prefixes.

        The sum over any prefix is that prefix's exact log-mean-probability. An average per token would forget
        which reference explained the beginning, and would lose both bounds.
        """
        table = np.asarray(per_variant, dtype=np.float64)
        if table.ndim != 2 or not len(table):
            raise ValueError(f"expected (K, T) log-probabilities with K ≥ 1, got {table.shape}")
        prefixes = np.cumsum(table, axis=1)
        means = np.logaddexp.reduce(prefixes, axis=0) - np.log(len(table))
        with np.errstate(invalid="ignore"):
            steps = np.diff(means, prepend=0.0)
        # After a token that is impossible under every reference, every longer prefix is too: −inf − −inf.
        steps[np.isnan(steps)] = -np.inf
        return tuple(steps.tolist())


ESTIMATORS: dict[EstimatorName, type[TextEstimator] | type[BlankEstimator] | type[ReferenceEstimator]] = {
    "text": TextEstimator,
    "blank": BlankEstimator,
    "reference": ReferenceEstimator,
}


def make_estimator(name: EstimatorName, references: Sequence[Image] = ()) -> Estimator:
    """Return the estimator called `name`; `references` are the operator's images, only used by `reference`.

    Raises:
        RequestError: `name` is `reference` and no reference images are configured.
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
    """Return an RGB image of the same size, filled with the mean colour of `image`."""
    from PIL import Image as Images
    from PIL import ImageStat

    red, green, blue = (round(mean) for mean in ImageStat.Stat(image.convert("RGB")).mean)
    return Images.new("RGB", image.size, (red, green, blue))


def _only(per_variant: Sequence[Sequence[float]]) -> tuple[float, ...]:
    (logprobs,) = per_variant
    return tuple(float(value) for value in logprobs)
