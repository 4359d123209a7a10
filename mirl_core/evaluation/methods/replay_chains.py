"""Replay of a stage of chains against a clock of tokens, with the product's vote and stopping rule.

All trajectories of a stage run side by side and sample one token a tick; one of t tokens ends at tick t. At
the end of the first tick after which `voting.decided`, the others are aborted, having sampled as many tokens
as ticks have passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from mirl_core.algorithm import voting
from mirl_core.algorithm.aggregators import Pending
from mirl_core.config import Aggregation
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.plan import temperature_key
from mirl_core.evaluation.bank.records import BankedChain, BankedDescription, BankedQuestion
from mirl_core.evaluation.methods.base import Replay, ReplayDraw
from mirl_core.types import Chain

__all__ = ["Trace", "at_temperature", "chains_of", "drawn", "fallback", "refuse", "run", "trajectories"]


@dataclass(frozen=True, slots=True)
class Trace:
    """One trajectory of a stage."""

    chain: Chain
    """The chain at its end; its `description` is the index in the draw."""
    right: bool
    ticks: int
    """Tokens that the trajectory samples in this stage."""
    confidence: float | None = None
    lowest_confidence: float | None = None
    reaches_answer: bool = True
    """False for a trajectory that ends with an unusable description."""


def refuse(method: str, message: str) -> NoReturn:
    """Raise ConfigError with the method's name; `param` is `methods`."""
    raise ConfigError(f"methods: {method}: {message}", param="methods")


def drawn(banked: BankedQuestion, draw: ReplayDraw, count: int, method: str) -> list[BankedDescription]:
    """Return the draw's first `count` descriptions."""
    if count > len(banked.descriptions):
        refuse(
            method,
            f"needs {count} descriptions, the bank holds {len(banked.descriptions)} a question; bank more "
            f"with --descriptions {count}",
        )
    return [banked.descriptions[index] for index in draw.descriptions[:count]]


def at_temperature(
    banked: BankedQuestion, draw: ReplayDraw, temperature: float | None, method: str
) -> tuple[BankedQuestion, ReplayDraw]:
    """Return the question with the samples of a further temperature, and the draw that fits them.

    Args:
        temperature: None: the question and the draw are returned as they are.
    """
    if temperature is None:
        return banked, draw
    key = temperature_key(temperature)
    if key not in banked.at_temperatures:
        keys = sorted({*banked.at_temperatures, key}, key=float)
        refuse(
            method,
            f"the bank holds no samples at temperature {key}; bank them with --temperatures {','.join(keys)}",
        )
    samples = banked.at_temperatures[key]
    question = replace(
        banked,
        descriptions=samples.descriptions,
        chains=samples.chains,
        plain_fallback=samples.plain_fallback,
    )
    # There is one chain of each description.
    return question, replace(draw, forks=(0,))


def chains_of(banked: BankedQuestion) -> dict[tuple[int, int], BankedChain]:
    """Return the bank's chains by (description, fork)."""
    return {(chain.description, chain.fork): chain for chain in banked.chains}


def trace(index: int, fork: int, banked: BankedChain, score: float | None, before: int = 0) -> Trace:
    """Return a banked chain as fork `fork` of the draw's description `index`.

    `before`: tokens of the description, where one stage samples both.
    """
    chain = Chain(
        description=index,
        fork=fork,
        text="",
        reasoning="",
        answer=banked.answer,
        tokens=banked.tokens,
        finish_reason=banked.finish_reason,
        score=score,
    )
    return Trace(chain, banked.right, before + banked.tokens, banked.confidence, banked.lowest_confidence)


def forked(
    banked: BankedQuestion, draw: ReplayDraw, kept: Mapping[int, float | None], forks: int, method: str
) -> list[Trace]:
    """Return the chains of the descriptions `kept` (index → gate score), m = `forks` of each."""
    if forks > len(draw.forks):
        refuse(
            method,
            f"needs {forks} chains a description, the bank holds {len(draw.forks)}; bank more with "
            f"--forks {forks}",
        )
    chains = chains_of(banked)
    return [
        trace(index, number, chains[draw.descriptions[index], draw.forks[number]], score)
        for index, score in kept.items()
        for number in range(forks)
    ]


def trajectories(banked: BankedQuestion, draw: ReplayDraw, count: int, method: str) -> list[Trace]:
    """Return `count` complete trajectories, each a description with its chain, as plain sampling gives them.

    A trajectory with an unusable description ends with it and has no answer.
    """
    descriptions = drawn(banked, draw, count, method)
    chains = chains_of(banked)
    traces = []
    for index, description in enumerate(descriptions):
        if description.reason is None:
            chain = chains[draw.descriptions[index], draw.forks[0]]
            traces.append(trace(index, 0, chain, 0.0, description.tokens))
        else:
            nothing = Chain(index, 0, "", "", None, 0, "stop", 0.0)
            traces.append(Trace(nothing, False, description.tokens, reaches_answer=False))
    return traces


def run(
    traces: Sequence[Trace],
    aggregate: Aggregation,
    early_stop: bool,
    generated_before: int = 0,
    scored: int = 0,
) -> Replay:
    """Play one stage to its end, or until the vote is decided.

    Args:
        generated_before: tokens sampled in earlier stages.
        scored: tokens scored in earlier stages.
    """
    last = max(trace.ticks for trace in traces)
    now = _decided_at(traces, aggregate) if early_stop else last
    ended = [trace for trace in traces if trace.ticks <= now]
    generated = generated_before + sum(min(trace.ticks, now) for trace in traces)
    return _voted(ended, aggregate, generated, scored)


def run_in_waves(
    waves: Sequence[Sequence[Trace]],
    aggregate: Aggregation,
    early_stop: bool,
    certainty: float,
    generated_before: int = 0,
    scored: int = 0,
) -> Replay:
    """Play waves of chains one after the other, until the vote is certain or decided.

    Args:
        waves: the chains of each wave.
        certainty: as `mirl_core.config.MIRLOptions.certainty`.
        generated_before: tokens sampled in earlier stages.
        scored: tokens scored in earlier stages.
    """
    ended: list[Trace] = []
    generated, stopped = generated_before, False
    for number, wave in enumerate(waves):
        chains = [trace.chain for trace in ended]
        if stopped or voting.certain(chains, aggregate, certainty):
            break
        later = [trace for other in waves[number + 1 :] for trace in other]
        now = max(trace.ticks for trace in wave)
        for tick in sorted({trace.ticks for trace in wave}) if early_stop else ():
            complete = [trace for trace in wave if trace.ticks <= tick]
            chains = [trace.chain for trace in (*ended, *complete)]
            running = [trace for trace in wave if trace.ticks > tick]
            outstanding = [
                Pending(trace.chain.description, trace.chain.fork, trace.chain.score)
                for trace in (*running, *later)
            ]
            if outstanding and (
                voting.certain(chains, aggregate, certainty) or voting.decided(chains, outstanding, aggregate)
            ):
                now, stopped = tick, True
                break
        generated += sum(min(trace.ticks, now) for trace in wave)
        ended += [trace for trace in wave if trace.ticks <= now]
    return _voted(ended, aggregate, generated, scored)


def _voted(ended: Sequence[Trace], aggregate: Aggregation, generated: int, scored: int) -> Replay:
    """Return the vote of the trajectories that ended."""
    outcome = voting.tally([trace.chain for trace in ended], aggregate)
    winner = None if outcome is None else outcome.representative
    return Replay(
        answer=None if winner is None else winner.answer,
        right=any(trace.right for trace in ended if trace.chain is winner),
        generated_tokens=generated,
        scored_tokens=scored,
        trajectories=sum(trace.reaches_answer for trace in ended),
        confidence=None if outcome is None else outcome.confidence,
        chains=tuple(trace.chain for trace in ended if trace.reaches_answer),
    )


def _decided_at(traces: Sequence[Trace], aggregate: Aggregation) -> int:
    """Return the first tick after which the vote is decided, at the latest the last chain's end.

    Bisection finds it: a decided vote stays decided, since `voting.decided` weighs every way in which the
    outstanding chains may end, and each chain that ends leaves fewer ways.
    """
    ticks = sorted({trace.ticks for trace in traces})
    low, high = 0, len(ticks) - 1
    while low < high:
        middle = (low + high) // 2
        ended = [trace.chain for trace in traces if trace.ticks <= ticks[middle]]
        outstanding = [
            Pending(trace.chain.description, trace.chain.fork, trace.chain.score)
            for trace in traces
            if trace.ticks > ticks[middle]
        ]
        if voting.decided(ended, outstanding, aggregate):
            high = middle
        else:
            low = middle + 1
    return ticks[low]


def fallback(
    banked: BankedQuestion,
    descriptions: Iterable[BankedDescription],
    aggregate: Aggregation,
    generated_before: int = 0,
    scored: int = 0,
) -> Replay:
    """Replay plain generation, as the pipeline does where no description is usable.

    The bank holds it only where none of *all* its sampled, or none of its decoded, descriptions is usable; a
    smaller draw with only unusable descriptions counts as unanswered.

    Args:
        generated_before: tokens sampled besides the descriptions.
        scored: tokens scored.
    """
    spent = generated_before + sum(description.tokens for description in descriptions)
    plain = banked.plain_fallback
    if plain is None:
        return Replay(None, False, spent, scored, 0, None)
    chain = Chain(None, 0, "", "", plain.answer, plain.tokens, plain.finish_reason)
    return run([Trace(chain, plain.right, plain.tokens)], aggregate, False, spent, scored)
