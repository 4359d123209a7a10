"""Hand-made bank records."""

from __future__ import annotations

from collections.abc import Sequence

from mirl_core.evaluation.bank.records import (
    BankedChain,
    BankedDecoded,
    BankedDescription,
    BankedQuestion,
)
from mirl_core.evaluation.methods import ReplayDraw
from mirl_core.types import FinishReason


def said(
    text: str,
    logprobs: Sequence[float] = (-1.0,),
    marginal: Sequence[float] | None = None,
    *,
    right: bool | None = None,
    reason: str | None = None,
) -> BankedDescription:
    """A description with one token for the closing tag; without a `marginal`, -2 nats a token."""
    return BankedDescription(
        text=text,
        tokens=len(logprobs) + 1,
        content_tokens=len(logprobs),
        reason=reason,
        logprobs=tuple(logprobs),
        marginals={} if reason else {"text": tuple(marginal or (-2.0,) * len(logprobs))},
        right=right,
    )


def reasoned(
    description: int,
    fork: int,
    answer: str | None,
    tokens: int = 5,
    *,
    truth: str = "1",
    confidence: float | None = 1.0,
    lowest: float | None = 1.0,
) -> BankedChain:
    """A chain that ended by itself, or was cut off where it has no answer."""
    ending: FinishReason = "length" if answer is None else "stop"
    return BankedChain(description, fork, answer, answer == truth, tokens, ending, confidence, lowest)


def question(
    descriptions: Sequence[BankedDescription],
    chains: Sequence[BankedChain],
    key: str = "q",
    family: str = "sum",
    plain: BankedChain | None = None,
) -> BankedQuestion:
    """A question whose truth is 1, and whose greedy trajectory is its first one."""
    first = chains[0] if chains and descriptions[0].reason is None else None
    return BankedQuestion(
        key, "world", family, "1", (key,), tuple(descriptions), tuple(chains), (descriptions[0], first), plain
    )


def decoded(
    weight: float,
    description: BankedDescription,
    chains: Sequence[BankedChain],
    drafts: Sequence[int] = (0,),
    wasted: Sequence[int] = (),
    verified: Sequence[int] = (),
) -> BankedDecoded:
    """A decoded description; a switch for every wasted draft."""
    return BankedDecoded(
        weight, description, len(wasted), tuple(drafts), tuple(wasted), tuple(verified), tuple(chains)
    )


def in_order(banked: BankedQuestion, seed: int = 0) -> ReplayDraw:
    """The draw that takes everything as banked."""
    forks = sorted({chain.fork for chain in banked.chains}) or [0]
    return ReplayDraw(tuple(range(len(banked.descriptions))), tuple(forks), seed)
