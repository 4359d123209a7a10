"""The contrastive decode token by token, over all tokens of an engine's vocabulary."""

from __future__ import annotations

from mirl_core.algorithm.contrast import choose, contrast, plausible
from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine, RequestContext
from mirl_core.types import Conversation

ALL = 10**6
"""Above the size of every vocabulary here."""


async def lock_step(
    engine: Engine,
    settings: ModelSettings,
    conversation: Conversation,
    weight: float,
    limit: int,
    lookahead: int,
) -> tuple[int, ...]:
    """Return the description for λ = `weight`, from the model's terms with and without images."""
    context = RequestContext("lock-step")
    prompt = conversation.with_instruction(settings.instruction)
    rendered = [await engine.render(entry, context) for entry in (prompt, prompt.with_images(None))]
    opening, closing = map(engine.encode, settings.tags.description)

    def ended(tokens: tuple[int, ...]) -> bool:
        return len(tokens) >= limit or settings.tags.description[1] in engine.decode(tokens)

    async def next_token(tokens: tuple[int, ...]) -> list[dict[int, float]]:
        """Log p of every token with and without images; nats."""
        # The last token is only there to have a position after the others.
        suffix = (*opening, *tokens, closing[0])
        with_image, image_free = [
            dict((await engine.score_likeliest(term, suffix, len(suffix) - 1, ALL, context))[0])
            for term in rendered
        ]
        usable = {
            token: logprob
            for token, logprob in with_image.items()
            if engine.decode((token,)) or not engine.token_text(token)
        }
        return [usable, image_free]

    async def continued(tokens: tuple[int, ...], count: int) -> list[float]:
        """The contrast of the `count` likeliest tokens after `tokens`, or up to the end; nats."""
        terms: list[float] = []
        while len(terms) < count and not ended(tokens):
            with_image, image_free = await next_token(tokens)
            token = max(with_image, key=with_image.__getitem__)
            terms.append(contrast(with_image[token], image_free[token], weight))
            tokens += (token,)
        return terms

    tokens: tuple[int, ...] = ()
    while not ended(tokens):
        with_image, image_free = await next_token(tokens)
        likeliest = max(with_image, key=with_image.__getitem__)
        best = choose(plausible(with_image, 0.1), image_free, weight)
        if best != likeliest:
            both = [
                [
                    contrast(with_image[token], image_free[token], weight),
                    *await continued((*tokens, token), lookahead - 1),
                ]
                for token in (best, likeliest)
            ]
            shorter = min(map(len, both))
            sums = [sum(terms[:shorter]) for terms in both]
            best = best if sums[0] > sums[1] else likeliest
        tokens += (best,)
    return tokens
