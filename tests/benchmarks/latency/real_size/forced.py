"""An engine wrapper that forces the lengths of descriptions and chains, for models with random weights.

A model with random weights closes no tag and gives no answer. `ForcedLengths` lets the engine sample exactly
as many tokens as a trajectory has, without stop strings, and then writes the tags and the answer over the
tokens at their positions. The engine computes every step that it computes for a model that writes the tags
itself. The model must have no end-of-turn token, as that of `checkpoint.py`.

Contrastive decodes depend on how often the two terms disagree, which random weights don't tell. So a decode
with λ > 0 switches to another token at `switches` positions, and every other token is the only plausible one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from mirl_core.config import Tags
from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling, derive_seed
from mirl_core.engines.wrappers.forwarding import ForwardingEngine
from mirl_core.errors import EngineError

__all__ = ["ForcedLengths", "Lengths"]

ANSWERS = ("1", "2", "3", "4")
"""The answers of chains: the first is the frequent one."""
SURE, DRAFTED, ALTERNATIVE = -0.01, -0.6, -0.8
"""Log p, given the image, of a token without a rival, of a drafted token and of its rival; nats."""
IMAGE_FREE, RIVAL_IMAGE_FREE = -0.1, -3.0
"""Log p without the image of every token, and of a rival; nats."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths and the vote of every request."""

    description: int = 60
    """Tokens of a description, closing tag included."""
    chain: int = 120
    """Tokens of a chain after its description, the answer's closing tag included."""
    agreement: float = 0.8
    """Share of chains with the frequent answer, 0 to 1; the others have one of three answers."""
    switches: int = 1
    """Tokens of a description at which a decode with λ > 0 takes another token than its draft."""


class ForcedLengths(ForwardingEngine):
    """Passes every call on, and returns samples of the forced lengths.

    Raises:
        ValueError: a length is too short for its tags.
    """

    def __init__(self, engine: Engine, tags: Tags, lengths: Lengths) -> None:
        super().__init__(engine)
        self._lengths = lengths
        self._closing = tags.description[1]
        self._opening_ids = engine.encode(tags.description[0])
        closing = engine.encode(self._closing)
        if lengths.description <= len(closing):
            raise ValueError(f"a description of {lengths.description} tokens has no room for its content")
        self._description = (*(None,) * (lengths.description - len(closing)), *closing)
        self._chains = [self._chain(tags, answer) for answer in ANSWERS]
        every_tag = (*tags.description, *tags.reasoning, *tags.answer)
        self._tag_ids = {token for tag in every_tag for token in engine.encode(tag)}
        plain = [token for token in engine.encode("a b c d e f") if token not in self._tag_ids]
        self._filler, self._rival = plain[0], next(token for token in plain if token != plain[0])
        step = lengths.description // (lengths.switches + 1)
        self._switches = {step * number for number in range(1, lengths.switches + 1)}

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        body = self._body(suffix_ids)
        rests = [self._rest(body, sampling, branch) for branch in range(n)]
        forced = replace(
            sampling, max_tokens=min(sampling.max_tokens, len(rests[0])), stop=(), structure=None
        )
        source = self._engine.generate(rendered, suffix_ids, n, forced, context)
        async with aclosing(source):
            async for sample in source:
                yield self._written(sample, rests[sample.index], forced, len(body))

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        """See the base class; the values are those of the forced switches."""
        positions = await self._engine.score_likeliest(rendered, suffix_ids, start, top, context)
        first = start - (len(suffix_ids) - len(self._body(suffix_ids)))
        values = []
        for offset in range(len(positions)):
            token = suffix_ids[start + offset]
            known = {token: IMAGE_FREE}
            if first + offset in self._switches:
                known[self._rival_of(token)] = RIVAL_IMAGE_FREE
            values.append(known)
        return values

    def _body(self, suffix_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens after the description's opening tag."""
        ids, opening = tuple(suffix_ids), self._opening_ids
        return ids[len(opening) :] if ids[: len(opening)] == opening else ids

    def _rest(self, body: tuple[int, ...], sampling: Sampling, branch: int) -> tuple[int | None, ...]:
        """Return the tokens that follow `body`: forced ones, and None where the model's stay."""
        seed = derive_seed(sampling.branch_seed(branch), "answer") or 0
        share = seed / 2**31
        agrees = share < self._lengths.agreement
        chain = self._chains[0 if agrees else 1 + seed % (len(self._chains) - 1)]
        if self._closing in self.decode(body):
            return chain
        rest = self._description[len(body) :]
        return rest if self._closing in sampling.stop else (*rest, *chain)

    def _written(
        self, sample: Sample, rest: tuple[int | None, ...], sampling: Sampling, before: int
    ) -> Sample:
        """Return the sample with the forced tokens.

        Args:
            before: tokens of the description before the sample.
        """
        if sample.finish_reason == "abort":
            return sample
        if len(sample.token_ids) != sampling.max_tokens:
            raise EngineError(
                f"a sample ended after {len(sample.token_ids)} of {sampling.max_tokens} tokens; forced "
                "lengths need a model without an end-of-turn token"
            )
        ids = tuple(
            self._allowed(token) if forced is None else forced
            for token, forced in zip(sample.token_ids, rest, strict=False)
        )
        written = replace(
            sample,
            token_ids=ids,
            text=self.decode(ids),
            finish_reason="stop" if len(ids) == len(rest) else "length",
        )
        if sampling.top_logprobs is None:
            return written
        likeliest = tuple(self._likeliest(token, before + index) for index, token in enumerate(ids))
        return replace(written, likeliest=likeliest, logprobs=tuple(entries[0][1] for entries in likeliest))

    def _likeliest(self, token: int, position: int) -> tuple[tuple[int, float], ...]:
        """Return the plausible tokens at a position of a draft, with log p; nats."""
        if position not in self._switches:
            return ((token, SURE),)
        return ((token, DRAFTED), (self._rival_of(token), ALTERNATIVE))

    def _rival_of(self, token: int) -> int:
        return self._rival if token == self._filler else self._filler

    def _allowed(self, token: int) -> int:
        """Return a sampled token, or a filler in the stead of a tag's token."""
        return self._filler if token in self._tag_ids else token

    def _chain(self, tags: Tags, answer: str) -> tuple[int | None, ...]:
        """Return a chain of the forced length that gives `answer`."""
        start = self.encode(tags.reasoning[0])
        end = self.encode(f"{tags.reasoning[1]}{tags.answer[0]}{answer}{tags.answer[1]}")
        free = self._lengths.chain - len(start) - len(end)
        if free < 0:
            raise ValueError(f"a chain of {self._lengths.chain} tokens has no room for its tags")
        return (*start, *(None,) * free, *end)
