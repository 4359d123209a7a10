"""The model whose probabilities make MI rewards: a frozen copy (the default), or the policy.

Under its own probabilities a policy is rewarded for confidence in odd strings (low entropy given the image,
unlikely without it), and becomes more confident by it. A frozen copy of the start can't be moved that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from mirl_core.algorithm.budget import scored_tokens
from mirl_core.algorithm.mi.estimators import ESTIMATORS, Estimator, make_estimator
from mirl_core.algorithm.mi.pointwise import token_mi
from mirl_core.algorithm.mi.scoring import image_free_logprobs
from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine, RequestContext
from mirl_core.errors import ConfigError
from mirl_core.tasks.data import WORLDS
from mirl_core.tasks.data.files import read_image
from mirl_core.training.rl.recipe.config import MIReward
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SCORERS",
    "FrozenScorer",
    "MIScorer",
    "PolicyScorer",
    "ScoredMI",
    "count_references",
    "reference_pictures",
]

REFERENCES = 16
"""Pictures of the `reference` estimator where the model's settings name none and the data are a world's."""


@dataclass(frozen=True, slots=True)
class ScoredMI:
    """The scores of one description."""

    token_mi: tuple[float, ...]
    """(T,) log p(d_t | d_<t, I, q) − λ · log p(d_t | d_<t, q), clipped where the reward says so; nats."""
    tokens: int
    """Number of tokens scored for it; 0 for a repetition, which costs nothing."""


class MIScorer(Protocol):
    """A scorer of the descriptions of one question."""

    async def score(
        self,
        prompt: Conversation,
        opening: tuple[int, ...],
        contents: Sequence[tuple[int, ...]],
        logprobs: Sequence[tuple[float, ...]],
        context: RequestContext,
    ) -> list[ScoredMI]:
        """Return the MI of every token of every description.

        Args:
            prompt: the conversation from which the descriptions were sampled, with images and instruction.
            opening: token ids of the opening tag, which precede every description.
            contents: token ids of the descriptions without tags.
            logprobs: the sampler's raw log p of those tokens; nats.

        Raises:
            EngineError, RequestError: as the engine's `score`.
        """
        ...


class _Scorer:
    """The common part of both scorers: the image-free term, and the difference.

    Args:
        engine: gives the probabilities.
        reward: estimator, weight and clipping.
        references: pictures of the `reference` estimator.

    Raises:
        ConfigError: the estimator needs references, and there are none.
    """

    def __init__(self, engine: Engine, reward: MIReward, references: Sequence[Image] = ()) -> None:
        self._engine = engine
        self._reward = reward
        self._estimator = _estimator(reward, references)
        self._passes = ESTIMATORS[reward.estimator].passes(len(references))

    async def _minus_image_free(
        self,
        conditional: Sequence[tuple[float, ...]],
        prompt: Conversation,
        opening: tuple[int, ...],
        contents: Sequence[tuple[int, ...]],
        context: RequestContext,
        passes: int,
    ) -> list[ScoredMI]:
        """Return `conditional` minus λ times the image-free term; `passes` forward passes were made for
        `conditional`."""
        unique = sorted(set(contents))
        if self._reward.weight == 0:
            image_free = [(0.0,) * len(content) for content in unique]
        else:
            free_context = replace(context, request_id=f"{context.request_id}-free")
            image_free = await image_free_logprobs(
                self._engine, self._estimator, prompt, opening, unique, free_context
            )
            passes += self._passes
        marginals = dict(zip(unique, image_free, strict=True))
        scored: list[ScoredMI] = []
        counted: set[tuple[int, ...]] = set()
        for content, logprobs in zip(contents, conditional, strict=True):
            ratios = token_mi(logprobs, marginals[content], self._reward.weight, self._reward.clip)
            cost = 0 if content in counted else scored_tokens(passes, len(opening), [len(content)])
            counted.add(content)
            scored.append(ScoredMI(tuple(ratios.tolist()), cost))
        return scored


class FrozenScorer(_Scorer):
    """Scorer whose both terms come from a model that isn't trained, with the policy's tokenizer."""

    async def score(
        self,
        prompt: Conversation,
        opening: tuple[int, ...],
        contents: Sequence[tuple[int, ...]],
        logprobs: Sequence[tuple[float, ...]],
        context: RequestContext,
    ) -> list[ScoredMI]:
        del logprobs  # the policy's
        unique = sorted(set(contents))
        seen_context = replace(context, request_id=f"{context.request_id}-seen")
        rendered = await self._engine.render(prompt, seen_context)
        scores = await self._engine.score(
            rendered, [(*opening, *content) for content in unique], seen_context
        )
        by_content = {content: score[len(opening) :] for content, score in zip(unique, scores, strict=True)}
        conditional = [by_content[content] for content in contents]
        return await self._minus_image_free(conditional, prompt, opening, contents, context, 1)


class PolicyScorer(_Scorer):
    """Scorer whose first term is the sampler's own, the second its engine's: MI as the gate computes it."""

    async def score(
        self,
        prompt: Conversation,
        opening: tuple[int, ...],
        contents: Sequence[tuple[int, ...]],
        logprobs: Sequence[tuple[float, ...]],
        context: RequestContext,
    ) -> list[ScoredMI]:
        return await self._minus_image_free(logprobs, prompt, opening, contents, context, 0)


SCORERS: dict[Literal["frozen", "policy"], type[FrozenScorer] | type[PolicyScorer]] = {
    "frozen": FrozenScorer,
    "policy": PolicyScorer,
}


def _estimator(reward: MIReward, references: Sequence[Image]) -> Estimator:
    if ESTIMATORS[reward.estimator].needs_references and not references:
        raise ConfigError(
            "rewards.mi.estimator: 'reference' needs pictures: list files under `reference_images` in the "
            "model's mirl.json, or choose 'text' or 'blank'",
            param="rewards.mi.estimator",
        )
    return make_estimator(reward.estimator, references)


def count_references(settings: ModelSettings, sets: Sequence[str] = ()) -> int:
    """Return how many pictures `reference_pictures` gives, without opening one."""
    if settings.reference_images:
        return len(settings.reference_images)
    return REFERENCES if sets and sets[0] in WORLDS else 0


def reference_pictures(settings: ModelSettings, sets: Sequence[str] = (), seed: int = 0) -> tuple[Image, ...]:
    """Return the pictures of the `reference` estimator: the model's own, or else the training world's.

    Args:
        settings: the model's, whose `reference_images` come first.
        sets: the data sets that are trained on; where the first is a bundled world, 16 of its pictures serve
            a model that names none. They are drawn from supervised training's pool, never from these sets.
        seed: of the choice of pictures.

    Raises:
        ConfigError: a file can't be read. Where there are none the result is empty, which scorers refuse.
    """
    if settings.reference_images:
        return tuple(_open(path) for path in settings.reference_images)
    if sets and sets[0] in WORLDS:
        from mirl_core.tasks.data.worlds import references

        return references(sets[0], REFERENCES, seed)
    return ()


def _open(path: str) -> Image:
    try:
        return read_image(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"reference image {path}: {error}", param="reference_images") from error
