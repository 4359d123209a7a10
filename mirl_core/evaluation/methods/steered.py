"""The methods that a server answers by, `mirl` and the presets; those that decode descriptions by contrast.

A decoded description is the same in every draw, and so is its greedy chain. Samples and further chains are
the draw's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from mirl_core.algorithm import voting
from mirl_core.algorithm.confidence import reported
from mirl_core.algorithm.gates import GATES
from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.evaluation.bank.records import (
    BankedChain,
    BankedDecoded,
    BankedDescription,
    BankedQuestion,
)
from mirl_core.evaluation.methods.base import Replay, ReplayDraw
from mirl_core.evaluation.methods.gated import (
    UNREPLAYABLE,
    ByOptions,
    Gated,
    as_descriptions,
    mutual_information,
)
from mirl_core.evaluation.methods.parsing import MethodSpec
from mirl_core.evaluation.methods.replay_chains import chains_of, drawn, fallback, refuse
from mirl_core.evaluation.methods.replay_steered import Entrant, Finish, race
from mirl_core.pipeline.steered.readings import mi_options
from mirl_core.presets import PRESETS, PresetName
from mirl_core.types import Description

__all__ = ["Served", "Steered", "weights_text"]


class Served:
    """`mirl` and the presets' names: gated or steered, as the options say."""

    @classmethod
    def make(cls, spec: MethodSpec) -> Gated | Steered:
        spec.plain()
        preset = cast("PresetName", spec.base) if spec.base in PRESETS else None
        options = spec.request_options(preset, refused=UNREPLAYABLE)
        return (Steered if options.steered else Gated).of(spec, options)


class Steered(ByOptions):
    """Options with `contrast`: decoded descriptions vote first, samples follow."""

    __slots__ = ()

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        finish = self._finish(banked, draw)
        decodes = self._decodes(banked)
        generated, scored = finish.generated_tokens, finish.scored_tokens
        if any(self.options.contrast):
            drafts = {number for decode in decodes for number in (*decode.drafts, *decode.wasted)}
            passes = {number for decode in decodes for number in decode.verified}
            generated += sum(banked.drafts[number] for number in drafts)
            scored += sum(banked.verified[number] for number in passes)
        else:
            # The product decodes it in a single draft, and all zeros are one decode.
            generated += decodes[0].description.tokens
        if not finish.any_usable:
            played = fallback(banked, (), self.options.aggregate, generated, scored)
            return replace(played, ticks=finish.ticks + played.generated_tokens - generated)
        outcome = finish.outcome
        share = None if outcome is None else outcome.confidence
        return Replay(
            answer=None if outcome is None else outcome.representative.answer,
            right=finish.right,
            generated_tokens=generated,
            scored_tokens=scored,
            trajectories=finish.trajectories,
            confidence=reported(share, finish.descriptions, self.calibration).value,
            ticks=finish.ticks,
            descriptions=finish.descriptions,
            chains=finish.chains,
        )

    def described(self, banked: BankedQuestion, draw: ReplayDraw) -> Sequence[Description]:
        """Return the descriptions of a replay, by which a vote's confidence is calibrated."""
        return self._finish(banked, draw).descriptions

    @property
    def _ranks(self) -> bool:
        """Whether the vote ranks descriptions by MI."""
        return voting.ranks(self.options.aggregate)

    def _finish(self, banked: BankedQuestion, draw: ReplayDraw) -> Finish:
        options = self.options
        decodes = self._decodes(banked)
        samples = drawn(banked, draw, options.descriptions, self.name)
        both = [*(decode.description for decode in decodes), *samples]
        descriptions = self._measured(both)
        chains = chains_of(banked)
        decoded = [
            Entrant(
                replace(description, votes=votes),
                self._ticks(decode, banked),
                self._chains(decode, votes, draw),
                self._scored(decode.description, known=decode.weight > 0),
            )
            for decode, votes, description in zip(decodes, options.votes, descriptions, strict=False)
        ]
        sampled = [
            Entrant(
                replace(description, votes=1),
                sample.tokens,
                () if sample.reason else (chains[index, draw.forks[0]],),
                self._scored(sample, known=False),
            )
            for sample, index, description in zip(
                samples, draw.descriptions, descriptions[len(decodes) :], strict=False
            )
        ]
        return race(decoded, sampled, options)

    def _decodes(self, banked: BankedQuestion) -> list[BankedDecoded]:
        """Return the decode for each λ of the options."""
        by_weight = {decode.weight: decode for decode in banked.decoded}
        if not by_weight.keys() >= set(self.options.contrast):
            refuse(
                self.name,
                f"needs descriptions decoded with λ = {weights_text(self.options.contrast)}, the bank holds "
                f"{weights_text(by_weight) or 'none'}; bank them with "
                f"--contrast {weights_text({*self.options.contrast, *by_weight})}",
            )
        return [by_weight[weight] for weight in self.options.contrast]

    def _chains(self, decode: BankedDecoded, votes: int, draw: ReplayDraw) -> Sequence[BankedChain]:
        """Return the chains that the description may have: the greedy one, then the draw's."""
        count = 1 if self.options.share_chains else votes
        if not decode.chains:
            return ()
        if count > len(decode.chains):
            # The same chain twice would be a vote without evidence.
            refuse(
                self.name,
                f"needs {count} chains of a decoded description, the bank holds {len(decode.chains)}; bank "
                f"more with --forks {count}",
            )
        ranks = {fork: rank for rank, fork in enumerate(draw.forks)}
        greedy, *others = decode.chains
        return (greedy, *sorted(others, key=lambda chain: ranks.get(chain.fork, len(ranks))))

    def _ticks(self, decode: BankedDecoded, banked: BankedQuestion) -> int:
        if not any(self.options.contrast):
            return decode.description.tokens
        rounds = decode.rounds if decode.weight else 0
        return sum(banked.drafts[number] for number in decode.drafts) + rounds

    def _measured(self, banked: Sequence[BankedDescription]) -> list[Description]:
        """Return the descriptions in the product's form, ranked by MI where the vote takes it."""
        if not self._ranks or all(description.reason for description in banked):
            return as_descriptions(banked)
        options = mi_options(self.options)
        descriptions = as_descriptions(banked, mutual_information(banked, options, self.name))
        return [
            description
            if description.reason
            else replace(description, score=GATES["mi"].rank([description], options, random.Random(0))[0])
            for description in descriptions
        ]

    def _scored(self, description: BankedDescription, known: bool) -> int:
        """Return the tokens that its MI takes; `known`: the decode has the image-free term already."""
        options = self.options
        if known or not (self._ranks or options.token_mi) or description.reason:
            return 0
        passes = ESTIMATORS[options.estimator].passes(self.references)
        return passes * (self.opening_tokens + description.content_tokens)


def weights_text(weights: Sequence[float] | set[float] | dict[float, BankedDecoded]) -> str:
    """Return values of λ as the option `--contrast` takes them."""
    return ",".join(f"{weight:g}" for weight in sorted(weights))
