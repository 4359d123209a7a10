"""The contrastive decode token by token, over all tokens of an engine's vocabulary."""

from __future__ import annotations

from mirl_core.algorithm.contrast import choose, plausible
from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine, RequestContext
from mirl_core.types import Conversation

ALL = 10**6
"""Above the size of every vocabulary here."""


async def lock_step(
    engine: Engine, settings: ModelSettings, conversation: Conversation, weight: float, limit: int
) -> tuple[int, ...]:
    """Return the description for λ = `weight`, from the model's terms with and without images."""
    context = RequestContext("lock-step")
    prompt = conversation.with_instruction(settings.instruction)
    terms = [await engine.render(entry, context) for entry in (prompt, prompt.with_images(None))]
    opening, closing = map(engine.encode, settings.tags.description)
    tokens: tuple[int, ...] = ()
    while len(tokens) < limit and settings.tags.description[1] not in engine.decode(tokens):
        # The last token is only there to have a position after the others.
        suffix = (*opening, *tokens, closing[0])
        with_image, image_free = [
            (await engine.score_likeliest(term, suffix, len(suffix) - 1, ALL, context))[0] for term in terms
        ]
        usable = {
            token: logprob
            for token, logprob in with_image.items()
            if engine.decode((token,)) or not engine.token_text(token)
        }
        tokens += (choose(plausible(usable, 0.1), image_free, weight),)
    return tokens
