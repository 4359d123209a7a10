"""A world small enough to be exact: a few slots, each with a usual value, a few others, and noisy evidence.

A description is one token a slot. The model is Bayes-optimal for the training prior, in which each slot's
usual value has probability `USUAL`; deployed, it has `usual`. Every second token is a matter of style: drawn
from the prior whatever the picture shows.
"""

from __future__ import annotations

import numpy as np

from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion
from tests.unit.evaluation.bank.bank_cases import question, reasoned, said

VALUES, SLOTS, USUAL = 4, 2, 0.75
# A little uneven, as learned priors are, so that a value's prior distinguishes it from the others.
PRIOR = np.array([[0.75, 0.09, 0.084, 0.076], [0.081, 0.751, 0.077, 0.091]])
STYLE = np.array([0.7, 0.3])


def scenes(
    count: int, usual: float | tuple[float, float], seed: int, described: int = 16, strength: float = 1.6
) -> list[BankedQuestion]:
    """`count` questions in a deployment whose usual value has probability `usual` (of each slot)."""
    rng = np.random.default_rng(seed)
    return [_scene(rng, number, usual, described, strength) for number in range(count)]


def _draw(rng: np.random.Generator, probabilities: np.ndarray) -> int:
    """Return what `rng.choice(len(probabilities), p=probabilities)` draws, without its costly checks."""
    cumulative = probabilities.cumsum()
    return int((cumulative / cumulative[-1]).searchsorted(rng.random(), side="right"))


def _scene(
    rng: np.random.Generator, number: int, usual: float | tuple[float, float], described: int, strength: float
) -> BankedQuestion:
    share = np.broadcast_to(np.reshape(usual, (-1, 1)), (SLOTS, 1))
    deployed = np.where(PRIOR > 0.5, share, PRIOR * (1 - share) / (1 - PRIOR.max(axis=1, keepdims=True)))
    truth = [_draw(rng, row / row.sum()) for row in deployed]
    evidence = strength * np.eye(VALUES)[truth] + rng.normal(size=(SLOTS, VALUES))
    posterior = PRIOR * np.exp(strength * evidence)
    posterior /= posterior.sum(axis=1, keepdims=True)
    descriptions = [_describe(rng, posterior, truth) for _ in range(described)]
    chains = [
        reasoned(j, 0, "1" if description.right else description.text)
        for j, description in enumerate(descriptions)
    ]
    return question(descriptions, chains, key=f"s{number}")


def _describe(rng: np.random.Generator, posterior: np.ndarray, truth: list[int]) -> BankedDescription:
    logprobs, marginal, words = [], [], []
    for slot, row in enumerate(posterior):
        style = _draw(rng, STYLE)
        value = _draw(rng, row)
        logprobs += [float(np.log(STYLE[style])), float(np.log(row[value]))]
        marginal += [float(np.log(STYLE[style])), float(np.log(PRIOR[slot, value]))]
        words += ["so" if style else "thus", str(value)]
    right = [int(word) for word in words[1::2]] == truth
    return said(" ".join(words), logprobs, marginal, right=right)
