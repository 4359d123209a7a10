"""The cost model: seconds of a request from the work of its engine calls and an engine's rates.

An engine call with n sequences, of which the longest has T tokens, takes

    seconds = call + c · shared / (1 − busy) + T · step(c · b + batch) / (1 − busy)
    shared = Σ (image · images + prefilled / prefill_rate + scored / score_rate)

The sum is over the call itself and the request's other calls that run beside it, each weighted by the share
of its time that it does so; b is the number of sequences, summed over the same calls and weighted by the
share of this call's time. `step(b)` is the time of one decoding step of b sequences, b / decode_rate(b),
linear between the measured batches.

Other requests come in by either of two ways: c is the number of requests in flight, all of which have the
same work at once; or the engine has a `Load` of requests in all phases, which decode `batch` sequences on
average and keep it `busy` with prefills and scoring for a share of the time. Both default to none.

A call begins when the calls that ended before it began are done. A request takes as long as its slowest
sequence of such calls, and each stage as long as its calls in that sequence. For gated requests these are all
calls: render, describe, score, fork.

The model leaves out Python between the calls, the voting, attention's growth with length, the limits of the
KV cache, and the spread of lengths around their mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "IDLE",
    "Load",
    "Prediction",
    "Rates",
    "Work",
    "decode_rates",
    "engine_seconds",
    "fitted",
    "predict",
]


@dataclass(frozen=True, slots=True)
class Work:
    """The work of an engine call: measured, or expected."""

    stage: str
    """`render`, `describe`, `score`, `fork`, `plain`, or `sample`: whole trajectories."""
    start: float
    """Seconds since the request's first call; of expected calls only the order counts."""
    end: float
    sequences: float = 0
    """Requests to the engine."""
    prefill: float = 0
    """Tokens that the call has to prefill before it samples, without those in the prefix cache."""
    scored: float = 0
    """Tokens of scoring passes, the prompts' included."""
    steps: float = 0
    """Tokens of the longest sample: decoding steps."""
    generated: float = 0
    """Tokens of all samples."""
    images: float = 0
    """Images that the call encodes."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast an engine is."""

    prefill: float
    """Tokens per second that are prefilled."""
    steps: tuple[tuple[int, float], ...]
    """Batch sizes, ascending, and the seconds of one decoding step."""
    score: float
    """Tokens per second of scoring passes."""
    call: float = 0.0
    """Seconds of a call besides its tokens: messages, scheduling, detokenization."""
    image: float = 0.0
    """Seconds of the vision encoder for an image."""
    render: float = 0.0
    """Seconds of rendering a conversation with an image: template, tokenizer, image processor."""

    def step(self, batch: float) -> float:
        """Return the seconds of one decoding step of `batch` sequences.

        Linear between the measured batches, and beyond the largest with the last slope.
        """
        if batch <= self.steps[0][0] or len(self.steps) == 1:
            return self.steps[0][1]
        pairs = list(zip(self.steps, self.steps[1:], strict=False))
        (low, fast), (high, slow) = next((pair for pair in pairs if batch <= pair[1][0]), pairs[-1])
        return fast + (slow - fast) * (batch - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Load:
    """What other requests, in all phases, have an engine do."""

    batch: float = 0.0
    """Sequences that they decode, on average over time."""
    busy: float = 0.0
    """Share of the time that their prefills, images and scoring passes take: 0 to below 1."""


IDLE = Load()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's seconds of one request."""

    seconds: float
    stages: Mapping[str, float]
    """Seconds by stage, which add up to `seconds`."""


def predict(works: Sequence[Work], rates: Rates, together: int = 1, load: Load = IDLE) -> Prediction:
    """Return the seconds of a request with this work.

    Args:
        together: such requests in flight, in the same phase.
        load: of the engine by requests in all phases.
    """
    best: list[tuple[float, int | None]] = []
    ordered = sorted(works, key=lambda work: work.start)
    for work in ordered:
        before = [number for number in range(len(best)) if ordered[number].end <= work.start]
        latest = max(before, key=lambda number: best[number][0], default=None)
        ready = 0.0 if latest is None else best[latest][0]
        best.append((ready + _seconds(work, works, rates, together, load), latest))
    stages: dict[str, float] = defaultdict(float)
    number = max(range(len(best)), key=lambda number: best[number][0], default=None)
    total = 0.0 if number is None else best[number][0]
    while number is not None:
        done, earlier = best[number]
        stages[ordered[number].stage] += done - (0.0 if earlier is None else best[earlier][0])
        number = earlier
    return Prediction(total, dict(stages))


def engine_seconds(work: Work, rates: Rates, batch: float) -> float:
    """Return the seconds of an engine that a call takes up while the engine decodes `batch` sequences.

    A token costs the same in every request. Rendering and the overhead of calls cost nothing: other processes
    do both.
    """
    if work.stage == "render":
        return 0.0
    return _undivided(work, rates) + work.generated * rates.step(batch) / batch


def decode_rates(text: str) -> tuple[tuple[int, float], ...]:
    """Return the steps of `Rates` from text such as `1:40,16:400`: tokens per second by batch size.

    Raises:
        ValueError: the text has another form, a batch twice, or a number that is not positive.
    """
    rates = {}
    for part in text.split(","):
        batch, _, rate = part.rpartition(":")
        number = int(batch or 1)
        if number in rates:
            raise ValueError(f"{number} sequences come twice in {text!r}")
        rates[number] = float(rate)
    if min(rates) < 1 or min(rates.values()) <= 0:
        raise ValueError(f"batches and rates are positive, unlike {text!r}")
    return tuple((batch, batch / rate) for batch, rate in sorted(rates.items()))


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept (seconds) and rate (tokens per second) of the line through (tokens, seconds).

    Least squares; an intercept below zero becomes zero.

    Raises:
        ValueError: fewer than two different numbers of tokens, or a time that doesn't grow with them.
    """
    count = len(points)
    if len({tokens for tokens, _ in points}) < 2:
        raise ValueError("a line needs two different numbers of tokens")
    tokens_mean = sum(tokens for tokens, _ in points) / count
    seconds_mean = sum(seconds for _, seconds in points) / count
    spread = sum((tokens - tokens_mean) ** 2 for tokens, _ in points)
    slope = sum((tokens - tokens_mean) * (seconds - seconds_mean) for tokens, seconds in points) / spread
    if slope <= 0:
        raise ValueError("the measured seconds don't grow with the tokens; measure on an idle machine")
    return max(0.0, seconds_mean - slope * tokens_mean), 1 / slope


def _seconds(work: Work, works: Sequence[Work], rates: Rates, together: int, load: Load) -> float:
    """Return the seconds of one call."""
    if work.stage == "render":
        return rates.render if work.images else 0.0
    shared, batch = 0.0, 0.0
    for other in works:
        if other.stage == "render":
            continue
        overlap = max(0.0, min(work.end, other.end) - max(work.start, other.start))
        shared += _share(overlap, other, work) * _undivided(other, rates)
        if other.steps:
            batch += _share(overlap, work, other) * other.sequences
    decoding = work.steps * rates.step(together * batch + load.batch) if work.steps else 0.0
    return rates.call + (together * shared + decoding) / (1 - load.busy)


def _undivided(work: Work, rates: Rates) -> float:
    """Return the seconds of a call's images, prefills and scoring passes, which no batch makes cheaper."""
    return rates.image * work.images + work.prefill / rates.prefill + work.scored / rates.score


def _share(overlap: float, of: Work, other: Work) -> float:
    """Return the share of a call's time that `overlap` is; 1 for the call itself, however short."""
    if of is other:
        return 1.0
    return overlap / (of.end - of.start) if overlap else 0.0
