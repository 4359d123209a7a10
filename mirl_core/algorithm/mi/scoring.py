"""From one request's sampled descriptions to their MI: the image-free scores, λ, and the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mirl_core.algorithm.gates import GATES
from mirl_core.algorithm.mi.estimators import Estimator
from mirl_core.algorithm.mi.pointwise import information_share, token_mi
from mirl_core.algorithm.token_texts import token_texts
from mirl_core.config import MIRLOptions, MIWeight
from mirl_core.engines.base import Engine, RequestContext
from mirl_core.types import Conversation, Description

__all__ = ["image_free_logprobs", "measure", "needs_marginals", "resolve_weight", "without_opening"]

Terms = tuple[Sequence[float], Sequence[float]]
"""The two terms of one description: (T,) log p of its tokens with the image and (T,) without; nats."""


def needs_marginals(options: MIRLOptions) -> bool:
    """Return whether the image-free terms must be scored: for the gate, or because the request wants them."""
    # With λ = 0 the image-free term has no weight and isn't worth a forward pass.
    return options.token_mi or (GATES[options.gate].needs_marginal and options.mi_weight != 0)


async def image_free_logprobs(
    engine: Engine,
    estimator: Estimator,
    prompt: Conversation,
    opening: Sequence[int],
    contents: Sequence[Sequence[int]],
    context: RequestContext,
) -> list[tuple[float, ...]]:
    """Return log p(d_t | d_<t, q) of every token of every description under the estimator; nats.

    Args:
        prompt: the conversation from which the descriptions were sampled, images and instruction included.
        opening: token ids of the description's opening tag, which precede every description.
        contents: token ids of the descriptions without tags.

    Returns:
        One tuple per description, as long as the description.
    """
    variants = await asyncio.to_thread(estimator.variants, prompt)
    suffixes = [(*opening, *content) for content in contents]

    async def score(index: int, variant: Conversation) -> list[tuple[float, ...]]:
        variant_context = replace(context, request_id=f"{context.request_id}-{index}")
        return await engine.score(await engine.render(variant, variant_context), suffixes, variant_context)

    per_variant = await asyncio.gather(*(score(index, variant) for index, variant in enumerate(variants)))
    return [
        without_opening(estimator, [scores[index] for scores in per_variant], len(opening))
        for index in range(len(contents))
    ]


def without_opening(
    estimator: Estimator, per_variant: Sequence[Sequence[float]], opening_tokens: int
) -> tuple[float, ...]:
    """Return the marginal's log-probabilities of one description; nats.

    Args:
        per_variant: by variant, log p of the opening tag's tokens and the description's; nats.
        opening_tokens: length of the opening tag.
    """
    # The tag is cut off before combining: it belongs to the prompt and must not weigh the references.
    return estimator.combine([logprobs[opening_tokens:] for logprobs in per_variant])


def resolve_weight(weight: MIWeight, terms: Sequence[Terms]) -> float:
    """Return λ as a number: `auto` is the information share of all `terms` together.

    Args:
        terms: of each usable description, repeats included.
    """
    if not isinstance(weight, str):
        return weight
    logprobs = [value for with_image, _ in terms for value in with_image]
    return information_share(logprobs, [value for _, without_image in terms for value in without_image])


def measure(
    descriptions: Sequence[Description],
    logprobs: Mapping[int, Sequence[float]],
    marginals: Mapping[tuple[int, ...], Sequence[float]],
    options: MIRLOptions,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> tuple[tuple[Description, ...], float | None]:
    """Return the descriptions, the usable ones with their MI, and λ.

    Args:
        logprobs: by index, log p of each sampled token given the image; nats.
        marginals: by content token ids, the estimator's log p of each token; nats. Empty where nothing was
            scored: then no description has an MI and λ is None, unless the options set λ = 0.
        decode: the engine's, for the texts of tokens; None leaves them out.
    """
    if not marginals and options.mi_weight != 0:
        return tuple(descriptions), None
    terms: dict[int, Terms] = {}
    for description in descriptions:
        if description.reason is None:
            content = description.token_ids[: description.content_tokens]
            without_image = marginals[content] if marginals else (0.0,) * len(content)
            terms[description.index] = (logprobs[description.index][: len(content)], without_image)
    weight = resolve_weight(options.mi_weight, list(terms.values()))

    def with_mi(description: Description) -> Description:
        with_image, without_image = terms[description.index]
        per_token = token_mi(with_image, without_image, weight, options.clip)
        pmi, texts = None, None
        if options.token_mi and marginals:
            pmi = tuple(token_mi(with_image, without_image, 1.0, None).tolist())
        if options.token_mi and decode is not None:
            texts = tuple(token_texts(description.token_ids[: description.content_tokens], 0, decode))
        return replace(
            description,
            marginal=sum(without_image) if marginals else None,
            mi=float(per_token.sum()),
            token_mi=tuple(per_token.tolist()) if options.token_mi else None,
            token_pmi=pmi,
            token_texts=texts,
        )

    return tuple(with_mi(item) if item.index in terms else item for item in descriptions), weight
