"""The second term of MI: what the model expects of a description without seeing the image."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from mirl_core.algorithm.mi.estimators import Estimator
from mirl_core.engines.base import Engine, RequestContext
from mirl_core.types import Conversation


async def image_free_logprobs(
    engine: Engine,
    estimator: Estimator,
    prompt: Conversation,
    opening: Sequence[int],
    contents: Sequence[Sequence[int]],
    context: RequestContext,
) -> list[tuple[float, ...]]:
    """log p(d_t | d_<t, q) of every token of every description under the estimator; nats.

    Args:
        prompt: the conversation as the descriptions were sampled from it, images and instruction included.
        opening: token ids of the description's opening tag, which precede every description.
        contents: token ids of the descriptions without tags.

    Returns:
        One tuple a description, as long as it.
    """
    variants = await asyncio.to_thread(estimator.variants, prompt)
    suffixes = [(*opening, *content) for content in contents]

    async def under(index: int, variant: Conversation) -> list[tuple[float, ...]]:
        own = replace(context, request_id=f"{context.request_id}-{index}")
        return await engine.score(await engine.render(variant, own), suffixes, own)

    per_variant = await asyncio.gather(*(under(index, variant) for index, variant in enumerate(variants)))
    # The tag is cut off before combining: it is prompt, and says nothing about any reference image.
    return [
        estimator.combine([scores[index][len(opening) :] for scores in per_variant])
        for index in range(len(contents))
    ]
