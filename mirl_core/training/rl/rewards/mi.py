"""The MI of a description with its image, as the reward of its own tokens; nats.

MI rewards odd strings as well as informative ones, so invalid descriptions get no MI: truncated, empty,
unparsable and degenerate ones (the same few words over and over) get `MIReward.invalid`, or the lowest reward
of their group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mirl_core.training.rl.recipe.config import MIReward
from mirl_core.types import Description

NGRAM = 4
SHORTEST = 8
"""Number of content tokens from which a description can be degenerate: a shorter one has few 4-grams to
repeat."""


@dataclass(frozen=True, slots=True)
class MIRewards:
    """The MI rewards of the descriptions of one question, in their order."""

    values: tuple[float, ...]
    """One finite reward per description; nats, per content token unless `normalize` is `sum`."""
    invalid: tuple[bool, ...]
    """Whether the description got the reward of invalid ones."""


def description_rewards(
    descriptions: Sequence[Description], token_mi: Sequence[Sequence[float] | None], settings: MIReward
) -> MIRewards:
    """Return the rewards of one question's descriptions.

    Args:
        descriptions: all of the group, whether or not the gate kept them.
        token_mi: for each, the MI of its content tokens, already clipped; nats. None where it wasn't scored,
            which makes it invalid.
        settings: normalisation and the rules for invalid descriptions.
    """
    rewards = [_valid_reward(item, mi, settings) for item, mi in zip(descriptions, token_mi, strict=True)]
    lowest = min((reward for reward in rewards if reward is not None), default=0.0)
    fallback = lowest if settings.invalid is None else settings.invalid
    return MIRewards(
        values=tuple(fallback if reward is None else reward for reward in rewards),
        invalid=tuple(reward is None for reward in rewards),
    )


def _valid_reward(
    description: Description, token_mi: Sequence[float] | None, settings: MIReward
) -> float | None:
    if token_mi is None or is_invalid(description, settings):
        return None
    value = reward(token_mi, settings)
    # An unclipped −∞ or ∞ is no measure of information, and no group can be compared with it.
    return value if value is not None and math.isfinite(value) else None


def reward(token_mi: Sequence[float], settings: MIReward) -> float | None:
    """Return the mean or sum of the MI of (T,) content tokens; None where there is no token; nats."""
    if not token_mi:
        return None
    total = sum(token_mi)
    return total if settings.normalize == "sum" else total / len(token_mi)


def is_invalid(description: Description, settings: MIReward) -> bool:
    """Return whether a description gets no MI, whatever its MI is. A description that the gate dropped is
    valid."""
    if not description.usable:
        return True
    content = description.token_ids[: description.content_tokens]
    return len(content) >= SHORTEST and repetition(content) > settings.max_repetition


def repetition(token_ids: Sequence[int]) -> float:
    """Return the share of 4-grams that occurred in the text before, 0 to 1; 0 where there are none."""
    ngrams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
