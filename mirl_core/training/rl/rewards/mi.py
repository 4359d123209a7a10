"""What a description owes to its image, as the reward of its own tokens; nats.

MI pays for odd strings as well as for informative ones, so descriptions that are none get no MI: truncated,
empty, unparsable and degenerate ones (the same few words over and over) are worth `MIReward.invalid`, or as
much as the worst of their group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mirl_core.training.rl.recipe.config import MIReward
from mirl_core.types import Description

NGRAM = 4
SHORTEST = 8
"""Content tokens from which on a description can be degenerate: a shorter one has few 4-grams to repeat."""
_UNUSABLE = frozenset({"truncated", "empty", "unparsable"})


@dataclass(frozen=True, slots=True)
class MIRewards:
    """The MI rewards of the descriptions of one question, in their order."""

    values: tuple[float, ...]
    """One finite reward a description; nats, per content token unless `normalize` is `sum`."""
    invalid: tuple[bool, ...]
    """Whether it was given what invalid ones get."""


def description_rewards(
    descriptions: Sequence[Description], token_mi: Sequence[Sequence[float] | None], settings: MIReward
) -> MIRewards:
    """What each description of one question is rewarded by.

    Args:
        descriptions: all of the group, whether or not the gate kept them.
        token_mi: of each, the MI of its content tokens, already clipped; nats. None where it wasn't scored,
            and then it is invalid.
        settings: how tokens add up, and the guards.
    """
    worth = [_worth(one, mi, settings) for one, mi in zip(descriptions, token_mi, strict=True)]
    lowest = min((one for one in worth if one is not None), default=0.0)
    fallback = lowest if settings.invalid is None else settings.invalid
    return MIRewards(
        values=tuple(fallback if one is None else one for one in worth),
        invalid=tuple(one is None for one in worth),
    )


def _worth(description: Description, token_mi: Sequence[float] | None, settings: MIReward) -> float | None:
    if token_mi is None or is_invalid(description, settings):
        return None
    worth = reward(token_mi, settings)
    # An unclipped −∞ or ∞ is no measure of information, and no group could be compared with it.
    return worth if worth is not None and math.isfinite(worth) else None


def reward(token_mi: Sequence[float], settings: MIReward) -> float | None:
    """One number from the MI of (T,) content tokens: mean or sum; None where there is no token; nats."""
    if not token_mi:
        return None
    total = sum(token_mi)
    return total if settings.normalize == "sum" else total / len(token_mi)


def is_invalid(description: Description, settings: MIReward) -> bool:
    """Whether a description gets no MI, whatever its MI is. One that the gate dropped is valid."""
    if description.reason in _UNUSABLE:
        return True
    content = description.token_ids[: description.content_tokens]
    return len(content) >= SHORTEST and repetition(content) > settings.max_repetition


def repetition(token_ids: Sequence[int]) -> float:
    """Share of 4-grams that stood in the text before, 0 to 1; 0 where there are none."""
    ngrams = [tuple(token_ids[place : place + NGRAM]) for place in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
