"""Rules that learn from a deployment's unlabelled traffic how usual each continuation is there.

The image-free term doesn't depend on the image, so requests with the same question meet the same *contexts*:
the same tokens of a description so far, with the same prior p(c | context) over what may come next. In a
context that many requests pass, the sampled continuations cover nearly all of that prior. Each
passing request brings evidence: p(c | context, I) / p(c | context) is, up to a constant, the likelihood of
its image under continuation c. From these, without any label, follows how often each c is *true* there:

    L(p') = Π_requests Σ_c p'(c | context) · p(c | context, I) / p(c | context)

(Saerens, Latinne and Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori
probabilities"). A context in which the image changes nothing has the same likelihood under every p' and
carries no information, as it should. Continuations that a request didn't sample share the rest of its
posterior, in proportion to their prior.

The bank has no token ids: the question's text and the prior's log-probabilities of the tokens before it
identify a context, and its log-probability a continuation. Contexts that agree in all of these to `DIGITS`
count as one context; a context whose continuations then sum to more than 1 is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mirl_core.algorithm.mi.scoring import resolve_weight
from mirl_core.config import MIRLOptions
from mirl_core.evaluation.methods.auto_weight import Rule, ScoredDescription, fixed_weight

__all__ = ["TRAFFIC_RULES", "TrafficPrior", "TrafficRule", "TrafficWeight"]

Array = NDArray[np.float64]
Context = tuple[str, tuple[float, ...]]

DIGITS = 3
COVERED = 0.9
"""Least share of a context's prior in its sampled continuations for the context to take part."""
GRID = tuple(step / 20 for step in range(51))
"""Weights whose likelihood is compared."""
SHRINKAGE = 20.0
"""Weight of the tempered prior against a context's traffic, in requests."""


class TrafficRule(Rule, Protocol):
    """A rule that must see traffic before it can score."""

    @classmethod
    def fit(cls, traffic: Sequence[Sequence[ScoredDescription]], options: MIRLOptions) -> Self:
        """Learn from requests, each with its usable descriptions."""
        ...


@dataclass(slots=True)
class _Node:
    """One context: the prior of its sampled continuations, and each passing request's posterior."""

    prior: dict[float, float] = field(default_factory=dict)
    requests: dict[int, dict[float, float]] = field(default_factory=lambda: defaultdict(dict))

    def table(self) -> tuple[list[float], Array, Array] | None:
        """Return (continuations, their prior (C,), likelihood ratios (R, C)); None without information."""
        names = sorted(self.prior)
        prior = np.array([self.prior[name] for name in names])
        covered = float(prior.sum())
        if len(names) < 2 or len(self.requests) < 2 or not COVERED <= covered <= 1 + 1e-3:
            return None
        ratios = np.empty((len(self.requests), len(names)))
        for row, posterior in enumerate(self.requests.values()):
            seen = np.array([name in posterior for name in names])
            left = max(1 - sum(posterior.values()), 0.0) / max(1 - float(prior[seen].sum()), 1e-9)
            ratios[row] = [posterior.get(name, left * mass) for name, mass in zip(names, prior, strict=True)]
        return names, prior / covered, np.maximum(ratios / prior, 1e-12)


@dataclass(frozen=True, slots=True)
class TrafficWeight:
    """`traffic`: the λ under which p'(c) ∝ p(c)^(1−λ), in every context, makes the traffic most likely.

    λ is 0 where descriptions are as usual as in training, 1 where all are equally usual, above 1 where the
    unusual prevails. Without a context that many requests share, it is the options' λ (`auto`: over all of
    the traffic).
    """

    weight: float

    @classmethod
    def fit(cls, traffic: Sequence[Sequence[ScoredDescription]], options: MIRLOptions) -> Self:
        return cls(_tempering([table for _, table in _tables(traffic)], traffic, options))

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array:
        return fixed_weight(sampled, self.weight, options)


@dataclass(frozen=True, slots=True)
class TrafficPrior:
    """`prior`: the λ of `traffic`, corrected in each known context by the usual continuations there.

    score = Σ_t log p(d_t | I) − λ log p(d_t) + log p'(d_t) − log p_λ(d_t), the last two in known contexts.
    p' by expectation maximisation, shrunk towards the tempered p_λ ∝ p^(1−λ) by `SHRINKAGE` requests' worth.
    So tokens that vary with the speaker and not with the deployment keep their prior.
    """

    weight: float
    corrections: Mapping[Context, Mapping[float, float]]
    """log p' − log p_λ of each continuation of each known context; nats."""

    @classmethod
    def fit(cls, traffic: Sequence[Sequence[ScoredDescription]], options: MIRLOptions) -> Self:
        tables = list(_tables(traffic))
        weight = _tempering([table for _, table in tables], traffic, options)
        corrections = {}
        for context, (names, prior, ratios) in tables:
            tempered = _tempered(prior, weight)
            learned = tempered
            for _ in range(50):
                joint = ratios * learned
                counts = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0)
                learned = (counts + SHRINKAGE * tempered) / (len(ratios) + SHRINKAGE)
            corrections[context] = dict(zip(names, np.log(learned / tempered).tolist(), strict=True))
        return cls(weight, corrections)

    def scores(self, sampled: Sequence[ScoredDescription], options: MIRLOptions) -> Array:
        plain = fixed_weight(sampled, self.weight, options)
        extra: list[float] = [
            sum(self.corrections.get(context, {}).get(name, 0.0) for context, name in _steps(description))
            / (max(len(description.logprobs), 1) if options.normalize == "token" else 1)
            for description in sampled
        ]
        corrected: Array = plain + np.array(extra)
        return corrected


TRAFFIC_RULES: dict[str, type[TrafficWeight] | type[TrafficPrior]] = {
    "traffic": TrafficWeight,
    "prior": TrafficPrior,
}


def _tables(
    traffic: Sequence[Sequence[ScoredDescription]],
) -> Iterator[tuple[Context, tuple[list[float], Array, Array]]]:
    """Yield every context that has information, with its table."""
    nodes: dict[Context, _Node] = defaultdict(_Node)
    for number, request in enumerate(traffic):
        for description in request:
            posteriors = np.exp(description.logprobs).tolist()
            priors = np.exp(description.marginal).tolist()
            for (context, name), posterior, prior in zip(
                _steps(description), posteriors, priors, strict=True
            ):
                node = nodes[context]
                node.prior[name] = prior
                node.requests[number][name] = posterior
    for context, node in nodes.items():
        if (table := node.table()) is not None:
            yield context, table


def _steps(description: ScoredDescription) -> list[tuple[Context, float]]:
    """Return the context before each token, and the token's rounded prior, which identifies the token
    there."""
    names = tuple(np.round(description.marginal, DIGITS).tolist())
    return [((description.question, names[:index]), name) for index, name in enumerate(names)]


def _tempering(
    tables: Sequence[tuple[list[float], Array, Array]],
    traffic: Sequence[Sequence[ScoredDescription]],
    options: MIRLOptions,
) -> float:
    """Return the weight in `GRID` with the greatest likelihood; the options' λ where all are alike."""
    total = np.zeros(len(GRID))
    for _, prior, ratios in tables:
        tempered = np.array([_tempered(prior, weight) for weight in GRID])
        total += np.log(ratios @ tempered.T).sum(axis=0)
    if np.ptp(total) < 1e-9:
        return resolve_weight(
            options.mi_weight, [description.terms for request in traffic for description in request]
        )
    return GRID[int(total.argmax())]


def _tempered(prior: Array, weight: float) -> Array:
    """Return p^(1−λ), normalised: (C,)."""
    logs = (1 - weight) * np.log(prior)
    masses = np.exp(logs - logs.max())
    tempered: Array = masses / masses.sum()
    return tempered
