"""The pipeline's results for one question as the bank's records, judged by the question's truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mirl_core.engines.base import RequestContext
from mirl_core.engines.wrappers.recording import RecordingEngine
from mirl_core.evaluation.bank.records import (
    BankedChain,
    BankedDecoded,
    BankedDescription,
    BankedQuestion,
    BankedTrajectories,
)
from mirl_core.tasks.questions import Question, is_right
from mirl_core.types import Chain, Description, Result

__all__ = ["WINDOW", "Judge", "Marginals", "Run", "judged_by", "lowest_group"]

WINDOW = 16
"""Tokens in a group of the lowest group confidence: DeepConf's 2,048 scaled to chains of dozens of tokens."""
Marginals = Mapping[tuple[int, ...], Mapping[str, tuple[float, ...]]]
"""Content token ids → estimator → log p of each token without the image; nats."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the pipeline on the question."""

    result: Result
    context: RequestContext
    """Of the pipeline's request."""


class Judge:
    """Makes the records of one question.

    Args:
        question: knows the truth.
        recorded: the engine of all runs.
        marginals: of every usable description that is scored.
    """

    def __init__(self, question: Question, recorded: RecordingEngine, marginals: Marginals) -> None:
        self._question = question
        self._recorded = recorded
        self._marginals = marginals

    def descriptions(self, run: Run) -> tuple[BankedDescription, ...]:
        """Return the run's sampled descriptions with their log-probabilities and marginals."""
        return tuple(
            self._description(
                description, self._recorded.sample(run.context, "describe", description.index).logprobs
            )
            for description in run.result.descriptions
        )

    def chains(self, run: Run) -> tuple[BankedChain, ...]:
        """Return the chains of the run's sampled descriptions, in order; none where it fell back."""
        if run.result.fallback:
            return ()
        chains = [self._sampled_chain(run, chain) for chain in run.result.chains]
        return tuple(sorted(chains, key=lambda chain: (chain.description, chain.fork)))

    def greedy(self, run: Run) -> tuple[BankedDescription, BankedChain | None]:
        """Return the run's only trajectory; no chain where it fell back."""
        (only,) = run.result.descriptions
        logprobs = self._recorded.sample(run.context, "describe", 0).logprobs
        description = replace(self._description(only, logprobs), marginals={})
        if run.result.fallback:
            return description, None
        return description, replace(self._sampled_chain(run, run.result.chains[0]), description=-1)

    def fallback(self, run: Run) -> BankedChain | None:
        """Return the plain chain that the run fell back to; None where a description was usable."""
        return self._sampled_chain(run, run.result.chains[0]) if run.result.fallback else None

    def trajectories(self, run: Run) -> BankedTrajectories:
        """Return the run's trajectories for methods that only vote: without log-probabilities."""
        return BankedTrajectories(
            descriptions=tuple(
                replace(self._description(description, ()), marginals={})
                for description in run.result.descriptions
            ),
            chains=self.chains(run),
            plain_fallback=self.fallback(run),
        )

    def decoded(self, run: Run) -> dict[str, Any]:
        """Return `BankedQuestion.decoded`, `.drafts` and `.verified` of a run that decoded."""
        drafts: set[int] = set()
        verified: dict[int, int] = {}
        records = []
        for description in run.result.descriptions:
            decoding = description.decoding
            assert decoding is not None, "the run samples no description"
            drafts.update(decoding.drafts, decoding.wasted)
            verified |= decoding.verified
            chains = [chain for chain in run.result.chains if chain.description == description.index]
            records.append(
                BankedDecoded(
                    weight=decoding.weight,
                    description=self._description(description, decoding.logprobs),
                    switches=len(decoding.switches),
                    drafts=decoding.drafts,
                    wasted=decoding.wasted,
                    verified=tuple(number for number, _ in decoding.verified),
                    chains=tuple(
                        replace(self._chain(chain), description=-1)
                        for chain in sorted(chains, key=lambda chain: chain.fork)
                    ),
                )
            )
        return {
            "decoded": tuple(records),
            "drafts": tuple(
                len(self._recorded.sample(run.context, f"describe-draft-{number}", 0).token_ids)
                for number in range(len(drafts))
            ),
            "verified": tuple(verified[number] for number in range(len(verified))),
        }

    def _description(self, description: Description, logprobs: Sequence[float]) -> BankedDescription:
        """Return a description; `logprobs` are those of its tokens given the image, nats."""
        length = description.content_tokens
        marginals = self._marginals.get(description.token_ids[:length], {})
        describes = self._question.describes
        return BankedDescription(
            text=description.text,
            tokens=len(description.token_ids),
            content_tokens=length,
            reason=description.reason,
            logprobs=tuple(logprobs[:length]),
            marginals=marginals if description.reason is None else {},
            right=describes(description.text) if describes else None,
        )

    def _sampled_chain(self, run: Run, chain: Chain) -> BankedChain:
        """Return a chain with the confidence of its trajectory, where the run recorded it."""
        recorded, context = self._recorded, run.context
        if chain.description is None:
            tokens = recorded.sample(context, "plain", chain.fork).confidence
        else:
            before = recorded.sample(context, "describe", chain.description).confidence
            tokens = (*before, *recorded.sample(context, f"fork-{chain.description}", chain.fork).confidence)
        return replace(
            self._chain(chain),
            confidence=sum(tokens) / len(tokens) if tokens else None,
            lowest_confidence=lowest_group(tokens),
        )

    def _chain(self, chain: Chain) -> BankedChain:
        """Return a chain without confidence."""
        return BankedChain(
            description=-1 if chain.description is None else chain.description,
            fork=chain.fork,
            answer=chain.answer,
            right=is_right(self._question, chain.answer),
            tokens=chain.tokens,
            finish_reason=chain.finish_reason,
            confidence=None,
            lowest_confidence=None,
        )


def judged_by(banked: BankedQuestion, question: Question) -> BankedQuestion:
    """Return the record with truth, family, clusters and right answers of the present question.

    Samples don't depend on them, so a record outlives a corrected truth, another rule of the data set and
    another version's comparison of answers. Whether descriptions are right stays: text and pictures, of which
    a judge of descriptions speaks, are the record's own.
    """
    verdicts: dict[str | None, bool] = {}

    def chain(of: BankedChain) -> BankedChain:
        if of.answer not in verdicts:
            verdicts[of.answer] = is_right(question, of.answer)
        return of if of.right == verdicts[of.answer] else replace(of, right=verdicts[of.answer])

    def chains(of: Sequence[BankedChain]) -> tuple[BankedChain, ...]:
        return tuple(map(chain, of))

    description, greedy = banked.greedy
    fallback = banked.plain_fallback
    judged = replace(
        banked,
        truth=question.answer,
        family=question.family,
        clusters=question.clusters or (question.key,),
        chains=chains(banked.chains),
        greedy=(description, chain(greedy) if greedy else None),
        plain_fallback=chain(fallback) if fallback else None,
        decoded=tuple(replace(decoded, chains=chains(decoded.chains)) for decoded in banked.decoded),
        at_temperatures={
            key: replace(
                samples,
                chains=chains(samples.chains),
                plain_fallback=chain(samples.plain_fallback) if samples.plain_fallback else None,
            )
            for key, samples in banked.at_temperatures.items()
        },
    )
    return banked if judged == banked else judged


def lowest_group(confidence: Sequence[float], window: int = WINDOW) -> float | None:
    """Return the lowest mean over `window` neighbouring tokens, or over all of fewer; nats.

    None without tokens.

    DeepConf's lowest group confidence (Fu et al. 2025, section 3.1), with its windows fully inside the
    trajectory.
    """
    if not confidence:
        return None
    width = min(window, len(confidence))
    total = lowest = sum(confidence[:width])
    for index in range(width, len(confidence)):
        total += confidence[index] - confidence[index - width]
        lowest = min(lowest, total)
    return lowest / width
