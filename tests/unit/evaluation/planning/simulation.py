"""A simulated engine with continuous batching, to check latency under load against.

Time goes in steps. In each the engine takes up to `CHUNK` seconds of undivided work (prefills, images,
scoring passes) from the front of its queue, and decodes one token of every running sequence. Requests arrive
independently of each other. Nothing here is shared with the plan's formulas but the rates.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mirl_core.algorithm.costs import Rates, Work
from mirl_core.evaluation.planning.requests import Course

__all__ = ["simulated_latency"]

CHUNK = 0.02
"""Seconds of undivided work in a step, at most."""


@dataclass(slots=True)
class _Request:
    """A request on its way; stages run one after the other."""

    arrival: float
    stages: deque[Work]
    ready: float
    """Seconds at which its next call reaches the engine."""
    undivided: float = 0.0
    steps: float = 0.0
    sequences: float = 0.0
    ended: float | None = None


def simulated_latency(
    courses: Sequence[Course], rates: Rates, *, per_second: float, requests: int, seed: int
) -> float:
    """Return the mean seconds of the requests, without the first tenth.

    Args:
        per_second: requests that arrive.
    """
    draw = random.Random(seed)
    time, arrivals = 0.0, []
    for _ in range(requests):
        time += draw.expovariate(per_second)
        (course,) = draw.choices(courses, [each.probability for each in courses])
        works = sorted(course.works, key=lambda work: work.start)
        begins = rates.render if works[0].images else 0.0
        arrivals.append(_Request(time, deque(works[1:]), time + begins + rates.call))
    clock, coming = 0.0, deque(arrivals)
    waiting: list[_Request] = []
    prefilling: deque[_Request] = deque()
    decoding: list[_Request] = []
    while coming or waiting or prefilling or decoding:
        while coming and coming[0].arrival <= clock:
            waiting.append(coming.popleft())
        for request in [each for each in waiting if each.ready <= clock]:
            waiting.remove(request)
            work = request.stages.popleft()
            request.undivided = (
                rates.image * work.images + work.prefill / rates.prefill + work.scored / rates.score
            )
            # The sequences of a call that ends early are fewer, not shorter.
            request.steps = work.steps
            request.sequences = work.generated / work.steps if work.steps else 0.0
            prefilling.append(request)
        if not prefilling and not decoding:
            clock = min([each.ready for each in waiting] + ([coming[0].arrival] if coming else []))
            continue
        room, prefilled = CHUNK, []
        while prefilling and room > 0:
            part = min(room, prefilling[0].undivided)
            prefilling[0].undivided -= part
            room -= part
            if prefilling[0].undivided > 1e-12:
                break
            prefilled.append(prefilling.popleft())
        clock += CHUNK - room
        if decoding:
            step = rates.step(sum(request.sequences for request in decoding))
            # Steps until something else happens, at once.
            events = [each.ready for each in waiting] + [each.arrival for each in itertools.islice(coming, 1)]
            quiet = math.ceil((min(events, default=math.inf) - clock) / step) if events else math.inf
            left = math.ceil(min(request.steps for request in decoding))
            count = 1 if prefilling or prefilled else max(1, min(left, quiet))
            clock += count * step
            for request in decoding:
                request.steps -= count
        over = [request for request in decoding if request.steps <= 0]
        decoding = [request for request in decoding if request.steps > 0]
        for request in prefilled:
            (decoding if request.steps else over).append(request)
        for request in over:
            if request.stages:
                request.ready = clock + rates.call
                waiting.append(request)
            else:
                request.ended = clock
    return fmean(each.ended - each.arrival for each in arrivals[requests // 10 :] if each.ended)
