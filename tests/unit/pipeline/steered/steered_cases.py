"""A small random model for steered requests, and the decode token by token that drafts must reproduce."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from mirl_core.algorithm.contrast import plausible
from mirl_core.algorithm.mi.estimators import Estimator
from mirl_core.config import Tags
from mirl_core.engines.fake import UNLIKELY, FakeEngine, FakeText
from mirl_core.pipeline.steered.image_free import LIKELIEST
from mirl_core.types import Conversation
from tests.unit.pipeline.pipeline_cases import CONVERSATION

WORDS = (" a", " red", " blue", " cat", " dog", " left", " 3")
LONG_TAGS = Tags(description=("<description>", " end of it"))


class TinyModel:
    """Random log-probabilities of the next word, by the conversation's images and the words so far.

    Args:
        seed: of all distributions.
        tags: the description's; a closing tag may have several tokens.
        sharpness: of the distributions; 0 is uniform.
        chains: the chain's answer, or the chain, by the description's text.
        samples: sampled descriptions, closing tag included.
    """

    def __init__(
        self,
        seed: int = 0,
        tags: Tags | None = None,
        sharpness: float = 1.5,
        chains: Mapping[str, str | FakeText] | None = None,
        samples: Sequence[FakeText | str] = ("a sampled thing</description>",),
        **engine: object,
    ) -> None:
        self.seed = seed
        self.tags = tags or Tags()
        self.sharpness = sharpness
        self.chain_texts = chains or {}
        self.engine = FakeEngine(
            samples,
            self._chain,
            likeliest=self.likeliest,
            tags=self.tags.description,
            **engine,  # type: ignore[arg-type]
        )
        self.opening = self.engine.encode(self.tags.description[0])
        self.closing = self.engine.encode(self.tags.description[1])
        self.vocabulary = [self.engine.encode(word)[0] for word in WORDS] + list(self.closing)

    def likeliest(self, conversation: Conversation, suffix: tuple[int, ...]) -> Mapping[int, float]:
        """Return log p of every word; empty outside of descriptions, where scripts apply."""
        text = self.engine.decode(suffix)
        if not text.startswith(self.tags.description[0]) or self.tags.description[1] in text:
            return {}
        colours = tuple(image.getpixel((0, 0)) for image in conversation.images)
        rng = random.Random(repr((self.seed, colours, suffix)))
        length = len(suffix) - len(self.opening)
        logits = {token: self.sharpness * rng.gauss(0, 1) for token in self.vocabulary}
        # The closing tag comes after a dozen words, and its tokens follow one another.
        logits[self.closing[0]] += length / 2 - 3
        for before, after in zip(self.closing, self.closing[1:], strict=False):
            logits[after] += 12 if suffix[-1:] == (before,) else -6
        whole = math.log(math.fsum(map(math.exp, logits.values())))
        return {token: logit - whole for token, logit in logits.items()}

    def lock_step(
        self,
        weight: float,
        estimator: Estimator,
        share: float,
        limit: int,
        lookahead: int = 1,
    ) -> tuple[int, ...]:
        """Return the contrastive description, decoded token by token under all terms."""
        variants = estimator.variants(CONVERSATION)

        def ended(tokens: tuple[int, ...]) -> bool:
            return len(tokens) >= limit or self.tags.description[1] in self.engine.decode(tokens)

        def with_image(tokens: tuple[int, ...]) -> Mapping[int, float]:
            return self.likeliest(CONVERSATION, (*self.opening, *tokens))

        def term(tokens: tuple[int, ...]) -> float:
            """The contrast of the last token, from whole sequences under every variant."""
            per_variant = [
                [
                    self.likeliest(variant, (*self.opening, *tokens[:at])).get(tokens[at], UNLIKELY)
                    for at in range(len(tokens))
                ]
                for variant in variants
            ]
            marginal = estimator.combine(per_variant)[-1]
            return with_image(tokens[:-1])[tokens[-1]] - weight * marginal

        def terms(tokens: tuple[int, ...]) -> list[float]:
            """The contrast of the last token and of those that follow it greedily."""
            summands = [term(tokens)]
            while len(summands) < lookahead and not ended(tokens):
                following = with_image(tokens)
                tokens += (max(following, key=lambda token: following[token]),)
                summands.append(term(tokens))
            return summands

        tokens: tuple[int, ...] = ()
        while not ended(tokens):
            ranked = sorted(with_image(tokens).items(), key=lambda item: -item[1])
            candidates = plausible(dict(ranked[:LIKELIEST]), share)
            likeliest = ranked[0][0]
            best = max(candidates, key=lambda token: (term((*tokens, token)), candidates[token], -token))
            if best != likeliest:
                own, other = terms((*tokens, likeliest)), terms((*tokens, best))
                shorter = min(len(own), len(other))
                if sum(other[:shorter]) <= sum(own[:shorter]):
                    best = likeliest
            tokens += (best,)
        return tokens

    def _chain(self, suffix: str, number: int) -> str | FakeText:
        del number
        description = suffix.removeprefix(self.tags.description[0]).partition(self.tags.description[1])[0]
        answer = self.chain_texts.get(description.strip(), str(len(description) % 3))
        if isinstance(answer, FakeText):
            return answer
        return f"<think>so</think><answer>{answer}</answer>"
