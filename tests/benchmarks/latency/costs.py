"""The cost model: seconds of a request from the work of its engine calls and an engine's rates.

An engine call with n sequences, of which the longest has T tokens, takes

    seconds = call + c · Σ (image · images + prefilled / prefill_rate + scored / score_rate) + T · step(c · b)

The sum is over the call itself and the request's other calls that run beside it, each weighted by the share
of its time that it does so; b is the number of sequences, summed over the same calls and weighted by the
share of this call's time. c is the number of requests in flight, all of which have the same work at once.
`step(b)` is the time of one decoding step of b sequences, b / decode_rate(b), linear between the measured
batches.

A call begins when the calls that ended before it began are done. A request takes as long as its slowest
sequence of such calls, and each stage as long as its calls in that sequence. For gated requests these are all
calls: render, describe, score, fork.

The model leaves out Python between the calls, the voting, attention's growth with length, and the requests'
different phases under load.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.latency.meter import Work

__all__ = ["Prediction", "Rates", "decode_rates", "fitted", "predict"]


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
class Prediction:
    """The model's seconds of one request."""

    seconds: float
    stages: Mapping[str, float]
    """Seconds by stage, which add up to `seconds`."""


def predict(works: Sequence[Work], rates: Rates, together: int = 1) -> Prediction:
    """Return the seconds of a request with this work, while `together` such requests are in flight."""
    best: list[tuple[float, int | None]] = []
    ordered = sorted(works, key=lambda work: work.start)
    for work in ordered:
        before = [number for number in range(len(best)) if ordered[number].end <= work.start]
        latest = max(before, key=lambda number: best[number][0], default=None)
        ready = 0.0 if latest is None else best[latest][0]
        best.append((ready + _seconds(work, works, rates, together), latest))
    stages: dict[str, float] = defaultdict(float)
    number = max(range(len(best)), key=lambda number: best[number][0], default=None)
    total = 0.0 if number is None else best[number][0]
    while number is not None:
        done, earlier = best[number]
        stages[ordered[number].stage] += done - (0.0 if earlier is None else best[earlier][0])
        number = earlier
    return Prediction(total, dict(stages))


def decode_rates(text: str) -> tuple[tuple[int, float], ...]:
    """Return the steps of `Rates` from text such as `1:40,16:400`: tokens per second by batch size.

    Raises:
        ValueError: the text has another form, or a number that is not positive.
    """
    rates = {}
    for part in text.split(","):
        batch, _, rate = part.rpartition(":")
        rates[int(batch or 1)] = float(rate)
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


def _seconds(work: Work, works: Sequence[Work], rates: Rates, together: int) -> float:
    """Return the seconds of one call."""
    if work.stage == "render":
        return rates.render if work.images else 0.0
    shared, batch = 0.0, 0.0
    for other in works:
        if other.stage == "render":
            continue
        overlap = max(0.0, min(work.end, other.end) - max(work.start, other.start))
        tokens = other.prefill / rates.prefill + other.scored / rates.score
        shared += _share(overlap, other, work) * (rates.image * other.images + tokens)
        if other.steps:
            batch += _share(overlap, work, other) * other.sequences
    decoding = work.steps * rates.step(together * batch) if work.steps else 0.0
    return rates.call + together * shared + decoding


def _share(overlap: float, of: Work, other: Work) -> float:
    """Return the share of a call's time that `overlap` is; 1 for the call itself, however short."""
    if of is other:
        return 1.0
    return overlap / (of.end - of.start) if overlap else 0.0
