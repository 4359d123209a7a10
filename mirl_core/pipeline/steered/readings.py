"""Descriptions of a steered request, decoded or sampled, with their MI where it is known or needed."""

from __future__ import annotations

import random
from dataclasses import replace

from mirl_core.algorithm import voting
from mirl_core.algorithm.gates import GATES
from mirl_core.algorithm.mi.scoring import measure
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Sample
from mirl_core.pipeline.request import Request
from mirl_core.pipeline.steered.calls import Calls
from mirl_core.pipeline.steered.decode import Decoder
from mirl_core.types import Description

__all__ = ["Readings", "mi_options"]


def mi_options(options: MIRLOptions) -> MIRLOptions:
    """Return the options with a number for λ of the MI: descriptions that come one by one share no `auto`."""
    return options.model_copy(update={"mi_weight": 1.0}) if options.mi_weight == "auto" else options


class Readings:
    """Makes the descriptions of one request."""

    def __init__(self, request: Request, calls: Calls, decoder: Decoder) -> None:
        self._request = request
        self._calls = calls
        self._decoder = decoder
        self._options = mi_options(request.options)
        self._ranks = voting.ranks(request.options.aggregate)

    async def decoded(self, index: int) -> Description:
        """Return the decoded description number `index`."""
        options = self._options
        result = await self._decoder.decode(index, options.contrast[index])
        description = await self._measured(result.sample, result.marginals)
        return replace(description, votes=options.votes[index], decoding=result.decoding)

    async def sampled(self, index: int) -> Description:
        """Return the sampled description number `index`, counted after the decoded ones."""
        request = self._request
        # The branch that it would be among the descriptions of a gated request.
        sampling = request.description_sampling(index - len(request.options.contrast))
        sample = await self._calls.generate(
            "describe", str(index), request.rendered, request.opening, sampling
        )
        return replace(await self._measured(replace(sample, index=index), None), votes=1)

    async def _measured(self, sample: Sample, marginals: tuple[float, ...] | None) -> Description:
        """Return a sample as description; `marginals` are its image-free terms where they are known."""
        request = self._request
        description = request.read_description(sample)
        if sample.finish_reason == "abort":
            return replace(description, reason="stopped")
        if description.reason is not None:
            return description
        content = description.token_ids[: description.content_tokens]
        if marginals is None and (self._ranks or self._options.token_mi):
            marginals = await self._decoder.image_free_logprobs(content)
        if marginals is not None:
            terms = {content: marginals[: len(content)]}
            ((description,), _) = measure(
                (description,), {sample.index: sample.logprobs}, terms, self._options, request.engine.decode
            )
        if self._ranks:
            (score,) = GATES["mi"].rank([description], self._options, random.Random(0))
            description = replace(description, score=score)
        return description
