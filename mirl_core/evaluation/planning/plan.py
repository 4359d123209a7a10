"""A plan: the tokens and GPU seconds of a request, the GPUs for an arrival rate, and latency, by method.

**GPU seconds** are those of `engine_seconds` with a full GPU, which decodes `batch` sequences at every step.
A GPU's capacity is 1 / GPU seconds, in requests per second, and the arriving requests need

    GPUs = rate · GPU seconds / utilization

**Latency under load** is a mean, by mean values: requests arrive independently of each other (Poisson) and
share the engine as in processor sharing, as continuous batching does. Let one GPU get x requests per second,
each of which takes P seconds of prefills, images and scoring and samples G tokens. Then the share

    busy = x · P

of its time is undivided work, and it decodes on average as many sequences as x · G tokens per second keep
there, the smallest B with

    B = x · G · step(B) / (1 − busy)

An arriving request meets this load in every one of its calls (`Load`). What the approximation leaves out
makes latency longer: bursts, queues for KV blocks or admission, and the spread of lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_core.algorithm.costs import IDLE, Load, Rates, Work, engine_seconds, predict
from mirl_core.errors import ConfigError
from mirl_core.evaluation.planning.inputs import Expected, Workload
from mirl_core.evaluation.planning.requests import Course

__all__ = ["MethodPlan", "Plan", "engine_load", "in_flight_latency", "latency", "plan"]

STAGES = ("render", "describe", "score", "fork", "sample")
REFERENCE = "sc@16"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Expected tokens of a request in one stage."""

    prefilled: float
    generated: float
    scored: float
    """Of scoring passes, the prompts' included."""


@dataclass(frozen=True, slots=True)
class MethodPlan:
    """What one method takes."""

    name: str
    tokens: Mapping[str, Tokens]
    """By stage."""
    gpu_seconds: Mapping[str, float]
    """Of a request, by stage."""
    gpus: float
    """GPUs for the arrival rate; round up."""
    idle: Mapping[str, float]
    """Mean seconds of a request on an idle engine, by stage."""
    loaded: Mapping[str, float]
    """Mean seconds of a request among the arriving ones, by stage."""
    load: Load
    """Of each GPU."""

    @property
    def total_gpu_seconds(self) -> float:
        """GPU seconds of a request, all stages."""
        return sum(self.gpu_seconds.values())

    @property
    def idle_seconds(self) -> float:
        """Mean seconds of a request on an idle engine."""
        return sum(self.idle.values())

    @property
    def loaded_seconds(self) -> float:
        """Mean seconds of a request among the arriving ones."""
        return sum(self.loaded.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """The methods side by side, and what the plan was made from."""

    workload: Workload
    expected: Expected
    rates: Rates
    batch: float
    """Sequences that a full GPU decodes at once."""
    methods: tuple[MethodPlan, ...]

    @property
    def reference(self) -> MethodPlan:
        """The method that the others are compared with: `sc@16`, or the first."""
        return next((method for method in self.methods if method.name == REFERENCE), self.methods[0])

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON; seconds, tokens, and ratios to the reference."""
        rates = {name: getattr(self.rates, name) for name in Rates.__dataclass_fields__}
        return {
            "workload": self.workload.model_dump(),
            "expected": self.expected.model_dump(),
            "rates": rates | {"steps": [list(step) for step in self.rates.steps]},
            "batch": self.batch,
            "reference": self.reference.name,
            "methods": {method.name: self._method(method) for method in self.methods},
        }

    def _method(self, method: MethodPlan) -> dict[str, Any]:
        against = self.reference
        fields = Tokens.__dataclass_fields__
        return {
            "tokens": {
                stage: {name: getattr(tokens, name) for name in fields}
                for stage, tokens in method.tokens.items()
            },
            "gpu_seconds": {**method.gpu_seconds, "total": method.total_gpu_seconds},
            "gpus": method.gpus,
            "requests_per_second_of_a_gpu": 1 / method.total_gpu_seconds,
            "idle_seconds": {**method.idle, "total": method.idle_seconds},
            "loaded_seconds": {**method.loaded, "total": method.loaded_seconds},
            "load_of_a_gpu": {"decoded_sequences": method.load.batch, "busy": method.load.busy},
            "ratios": {
                "gpu_seconds": method.total_gpu_seconds / against.total_gpu_seconds,
                "idle_seconds": method.idle_seconds / against.idle_seconds,
                "loaded_seconds": method.loaded_seconds / against.loaded_seconds,
            },
        }


def plan(
    methods: Mapping[str, Sequence[Course]], workload: Workload, expected: Expected, rates: Rates
) -> Plan:
    """Return the plan of these methods, whose courses are given by name."""
    batch = workload.batch or rates.steps[-1][0]
    return Plan(
        workload,
        expected,
        rates,
        batch,
        tuple(_method(name, courses, workload, rates, batch) for name, courses in methods.items()),
    )


def engine_load(courses: Sequence[Course], rates: Rates, per_second: float, batch: float) -> Load:
    """Return the load of a GPU by arriving requests.

    Args:
        per_second: requests that arrive at this GPU.
        batch: sequences that it decodes at once, at most.

    Raises:
        ConfigError: they are more than the GPU's capacity.
    """
    undivided, generated = 0.0, 0.0
    for course in courses:
        for work in course.works:
            tokens = course.probability * work.generated
            generated += tokens
            undivided += course.probability * engine_seconds(work, rates, batch)
            undivided -= tokens * rates.step(batch) / batch
    busy = per_second * max(0.0, undivided)
    decoding = per_second * generated
    if busy + decoding * rates.step(batch) / batch >= 1:
        raise ConfigError(
            f"rate: {per_second:.4g} requests/s are more than a GPU's capacity; use more GPUs", param="rate"
        )
    low, high = 0.0, batch
    for _ in range(100):
        middle = (low + high) / 2
        if middle < decoding * rates.step(middle) / (1 - busy):
            low = middle
        else:
            high = middle
    return Load(high if decoding else 0.0, busy)


def latency(courses: Sequence[Course], rates: Rates, load: Load = IDLE) -> dict[str, float]:
    """Return the mean seconds of a request by stage."""
    stages = dict.fromkeys(_stages(courses), 0.0)
    for course in courses:
        for stage, seconds in predict(course.works, rates, load=load).stages.items():
            stages[stage] += course.probability * seconds
    return stages


def in_flight_latency(courses: Sequence[Course], rates: Rates, together: int, batch: float) -> float:
    """Return the mean seconds of a request where always `together` requests are in flight on a GPU.

    Each meets the load that the others make, which arrive as fast as they are answered.

    Args:
        together: at least 1.
        batch: sequences that the GPU decodes at once, at most.
    """
    idle = sum(latency(courses, rates).values())
    low, high = idle, 1e3 * together * idle
    for _ in range(60):
        middle = (low + high) / 2
        try:
            load = engine_load(courses, rates, (together - 1) / middle, batch)
        except ConfigError:
            low = middle
            continue
        if sum(latency(courses, rates, load).values()) > middle:
            low = middle
        else:
            high = middle
    return high


def _method(
    name: str, courses: Sequence[Course], workload: Workload, rates: Rates, batch: float
) -> MethodPlan:
    stages = _stages(courses)
    tokens, seconds = {}, {}
    for stage in stages:
        works = _of(courses, stage)
        tokens[stage] = Tokens(
            sum(share * work.prefill for share, work in works),
            sum(share * work.generated for share, work in works),
            sum(share * work.scored for share, work in works),
        )
        seconds[stage] = sum(share * engine_seconds(work, rates, batch) for share, work in works)
    whole = sum(seconds.values())
    load = engine_load(courses, rates, workload.utilization / whole, batch)
    return MethodPlan(
        name,
        tokens,
        seconds,
        workload.rate * whole / workload.utilization,
        latency(courses, rates),
        latency(courses, rates, load),
        load,
    )


def _of(courses: Sequence[Course], stage: str) -> list[tuple[float, Work]]:
    """Return the works of a stage in all courses, with their probability."""
    return [(course.probability, work) for course in courses for work in course.works if work.stage == stage]


def _stages(courses: Sequence[Course]) -> tuple[str, ...]:
    """Return the stages of the courses, in their order."""
    present = {work.stage for course in courses for work in course.works}
    return tuple(stage for stage in STAGES if stage in present)
