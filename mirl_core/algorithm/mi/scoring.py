"""From scored tokens to the MI of every description of one request, and the λ that it is measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mirl_core.algorithm.gates import GATES
from mirl_core.algorithm.mi.estimators import information_share, token_mi
from mirl_core.config import MIRLOptions, MIWeight
from mirl_core.types import Description

__all__ = ["measure", "needs_marginals", "resolve_weight"]


def needs_marginals(options: MIRLOptions) -> bool:
    """Whether the image-free terms must be scored: the gate ranks by them, or they were asked for."""
    # With λ = 0 the image-free term has no weight and isn't worth a forward pass.
    return options.token_mi or (GATES[options.gate].needs_marginal and options.mi_weight != 0)


def resolve_weight(weight: MIWeight, terms: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """λ as a number: `auto` is the information share of all `terms` together.

    Args:
        terms: of each usable description, repeats included: (T,) log p with the image and (T,) without; nats.
    """
    if not isinstance(weight, str):
        return weight
    logprobs = [one for seen, _ in terms for one in seen]
    return information_share(logprobs, [one for _, unseen in terms for one in unseen])


def measure(
    descriptions: Sequence[Description],
    logprobs: Mapping[int, Sequence[float]],
    marginals: Mapping[tuple[int, ...], Sequence[float]],
    options: MIRLOptions,
) -> tuple[tuple[Description, ...], float | None]:
    """The descriptions, the usable ones with their MI, and its λ.

    Args:
        logprobs: by index, log p of each sampled token given the image; nats.
        marginals: by content token ids, the estimator's log p of each; nats. Empty where nothing was scored,
            and then no description has an MI and there is no λ, unless λ = 0 was asked for.
    """
    if not marginals and options.mi_weight != 0:
        return tuple(descriptions), None
    terms: dict[int, tuple[Sequence[float], Sequence[float]]] = {}
    for one in descriptions:
        if one.reason is None:
            content = one.token_ids[: one.content_tokens]
            unseen = marginals[content] if marginals else (0.0,) * len(content)
            terms[one.index] = (logprobs[one.index][: len(content)], unseen)
    weight = resolve_weight(options.mi_weight, list(terms.values()))

    def measured(one: Description) -> Description:
        seen, unseen = terms[one.index]
        per_token = token_mi(seen, unseen, weight, options.clip)
        return replace(
            one,
            marginal=sum(unseen) if marginals else None,
            mi=float(per_token.sum()),
            token_mi=tuple(per_token.tolist()) if options.token_mi else None,
        )

    return tuple(measured(one) if one.index in terms else one for one in descriptions), weight
