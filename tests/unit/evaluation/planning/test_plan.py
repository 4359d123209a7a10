"""`plan`: conservation, monotony, scaling with the rate, latency under load against a simulated engine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.budget import fanout
from mirl_core.algorithm.costs import Load, Rates
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.planning.inputs import Expected, Workload
from mirl_core.evaluation.planning.plan import (
    Plan,
    engine_load,
    in_flight_latency,
    latency,
    plan,
)
from mirl_core.evaluation.planning.requests import Course, courses, planned_methods
from mirl_core.presets import PRESETS
from tests.unit.evaluation.planning.simulation import simulated_latency

RATES = Rates(
    prefill=20000.0,
    steps=((1, 1 / 150), (16, 16 / 2000), (64, 64 / 6000)),
    score=15000.0,
    call=0.002,
    image=0.01,
    render=0.005,
)
WORKLOAD = Workload(text_tokens=80, image_tokens=1200, description_tokens=60, chain_tokens=200)
EXPECTED = Expected()
METHODS = "greedy,sc@16,paper,gate,waves,steered,triple,fast"


def planned(workload: Workload, rates: Rates = RATES, methods: str = METHODS, **expected: Any) -> Plan:
    values = Expected(**expected)
    return plan(planned_methods(methods, ModelSettings(), workload, values), workload, values, rates)


workloads = st.builds(
    Workload,
    text_tokens=st.integers(1, 4000),
    image_tokens=st.integers(0, 8000),
    images=st.integers(0, 4),
    description_tokens=st.integers(1, 120),
    chain_tokens=st.integers(1, 2000),
    rate=st.floats(0.01, 1e4),
    utilization=st.floats(0.05, 0.95),
)
gated = st.builds(
    MIRLOptions,
    descriptions=st.integers(1, 16),
    keep=st.integers(1, 16),
    forks=st.integers(1, 4),
    gate=st.sampled_from(["mi", "confidence", "random", "none"]),
    waves=st.booleans(),
    wave=st.integers(1, 4),
    fork_image=st.sampled_from(["keep", "drop"]),
)
steered = st.builds(
    MIRLOptions,
    contrast=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=4).map(tuple),
    descriptions=st.integers(0, 8),
    ahead=st.integers(0, 3),
    wave=st.integers(1, 3),
    draft_tokens=st.integers(8, 32),
    share_chains=st.booleans(),
)
options = st.one_of(gated, steered, st.sampled_from([MIRLOptions(preset=name) for name in PRESETS]))
expectations = st.builds(
    Expected,
    distinct=st.floats(0.05, 1),
    chain_share=st.floats(0, 1),
    second_wave=st.floats(0, 1),
    switches=st.floats(0, 3),
    sample_waves=st.floats(0, 8),
    own_chains=st.floats(0.05, 1),
)


def idle(paths: tuple[Course, ...], rates: Rates = RATES) -> float:
    return sum(latency(paths, rates).values())


def gpu_seconds(paths: tuple[Course, ...], workload: Workload, rates: Rates = RATES) -> float:
    (method,) = plan({"it": paths}, workload, EXPECTED, rates).methods
    return method.total_gpu_seconds


@settings(max_examples=40)
@given(workloads, options, expectations)
def test_courses_are_all_that_can_happen_and_stay_within_the_fanout(
    workload: Workload, chosen: MIRLOptions, expected: Expected
) -> None:
    paths = courses(chosen, workload, expected)
    assert sum(course.probability for course in paths) == pytest.approx(1.0)
    most = fanout(chosen, workload.trajectory_tokens)
    for course in paths:
        chains = sum(work.sequences for work in course.works if work.stage == "fork")
        assert 1 <= chains <= most.chains + 1e-9
        assert sum(work.generated for work in course.works if work.stage == "fork") <= (
            chains * workload.chain_tokens + 1e-9
        )


@settings(max_examples=40)
@given(workloads, options, expectations)
def test_stages_add_up_to_the_request(workload: Workload, chosen: MIRLOptions, expected: Expected) -> None:
    paths = courses(chosen, workload, expected)
    (method,) = plan({"it": paths}, workload, expected, RATES).methods
    # The whole from the tokens, without the stages.
    tokens = method.tokens.values()
    whole = (
        sum(each.prefilled for each in tokens) / RATES.prefill
        + sum(each.scored for each in tokens) / RATES.score
        + sum(each.generated for each in tokens) * RATES.step(64) / 64
        + RATES.image
        * sum(
            course.probability * work.images
            for course in paths
            for work in course.works
            if work.stage != "render"
        )
    )
    assert method.total_gpu_seconds == pytest.approx(whole)
    assert method.idle_seconds == pytest.approx(idle(paths))
    assert method.gpus == pytest.approx(workload.rate * whole / workload.utilization)


@settings(max_examples=40)
@given(workloads, options, expectations)
def test_no_method_is_cheaper_or_faster_than_greedy(
    workload: Workload, chosen: MIRLOptions, expected: Expected
) -> None:
    if chosen.fork_image == "drop":
        chosen = chosen.model_copy(update={"fork_image": "keep"})
    greedy = planned_methods("greedy", ModelSettings(), workload, expected)["greedy"]
    paths = courses(chosen, workload, expected)
    assert gpu_seconds(paths, workload) >= gpu_seconds(greedy, workload) - 1e-9
    assert idle(paths) >= idle(greedy) - 1e-9


@settings(max_examples=40)
@given(
    workloads,
    options,
    expectations,
    st.sampled_from(["image_tokens", "images", "description_tokens", "chain_tokens", "text_tokens"]),
    st.integers(1, 300),
)
def test_more_tokens_cost_more(
    workload: Workload, chosen: MIRLOptions, expected: Expected, field: str, more: int
) -> None:
    # From 256 tokens on the server scores a prompt through the prefix cache, which is cheaper.
    short = workload.model_copy(update={"text_tokens": min(workload.text_tokens, 255 - more % 200)})
    long = workload.model_copy(update={"text_tokens": workload.text_tokens + 256})
    for base in (short, long):
        if base is short and field == "text_tokens":
            more = min(more, 255 - base.text_tokens)
        grown = base.model_copy(update={field: getattr(base, field) + more})
        before, after = courses(chosen, base, expected), courses(chosen, grown, expected)
        assert gpu_seconds(after, grown) >= gpu_seconds(before, base) - 1e-9
        assert idle(after) >= idle(before) - 1e-9


@settings(max_examples=40)
@given(workloads, gated, st.sampled_from(["descriptions", "keep", "forks"]), st.integers(1, 5))
def test_more_sequences_cost_more(workload: Workload, chosen: MIRLOptions, field: str, more: int) -> None:
    grown = chosen.model_copy(update={field: getattr(chosen, field) + more})
    expected = Expected(second_wave_share=1.0)
    before, after = courses(chosen, workload, expected), courses(grown, workload, expected)
    assert gpu_seconds(after, workload) >= gpu_seconds(before, workload) - 1e-9
    assert idle(after) >= idle(before) - 1e-9


@settings(max_examples=40)
@given(workloads, options, st.sampled_from(["prefill", "score", "decode"]), st.floats(1, 10))
def test_a_slower_engine_costs_more(
    workload: Workload, chosen: MIRLOptions, rate: str, factor: float
) -> None:
    slower = Rates(
        RATES.prefill / (factor if rate == "prefill" else 1),
        tuple((batch, seconds * (factor if rate == "decode" else 1)) for batch, seconds in RATES.steps),
        RATES.score / (factor if rate == "score" else 1),
    )
    free = Rates(RATES.prefill, RATES.steps, RATES.score)
    paths = courses(chosen, workload, EXPECTED)
    assert gpu_seconds(paths, workload, slower) >= gpu_seconds(paths, workload, free) - 1e-9
    assert idle(paths, slower) >= idle(paths, free) - 1e-9


@settings(max_examples=40)
@given(workloads, options, st.floats(0.1, 100))
def test_gpus_scale_with_the_rate_and_latency_does_not(
    workload: Workload, chosen: MIRLOptions, factor: float
) -> None:
    paths = courses(chosen, workload, EXPECTED)
    (single,) = plan({"it": paths}, workload, EXPECTED, RATES).methods
    more = workload.model_copy(update={"rate": factor * workload.rate})
    (many,) = plan({"it": paths}, more, EXPECTED, RATES).methods
    assert many.gpus == pytest.approx(factor * single.gpus)
    assert many.loaded_seconds == single.loaded_seconds


@settings(max_examples=20)
@given(workloads, options, st.floats(0.05, 0.9), st.floats(0.01, 0.09))
def test_latency_grows_with_utilization_from_that_of_an_idle_engine(
    workload: Workload, chosen: MIRLOptions, utilization: float, more: float
) -> None:
    paths = courses(chosen, workload, EXPECTED)
    seconds = [
        plan({"it": paths}, workload.model_copy(update={"utilization": share}), EXPECTED, RATES)
        .methods[0]
        .loaded_seconds
        for share in (1e-9, utilization, utilization + more)
    ]
    assert seconds[0] == pytest.approx(idle(paths), rel=1e-4)
    assert seconds[0] <= seconds[1] + 1e-9
    assert seconds[1] <= seconds[2] + 1e-9


def test_the_load_keeps_its_own_balance() -> None:
    paths = courses(MIRLOptions(preset="paper"), WORKLOAD, EXPECTED)
    load = engine_load(paths, RATES, 1.0, 64)
    generated = sum(c.probability * w.generated for c in paths for w in c.works)
    assert 0 < load.busy < 1
    assert load.batch == pytest.approx(generated * RATES.step(load.batch) / (1 - load.busy))
    assert engine_load(paths, RATES, 1e-12, 64).batch == pytest.approx(0, abs=1e-6)


def test_more_than_a_gpu_can_do_has_no_steady_state() -> None:
    paths = courses(MIRLOptions(preset="paper"), WORKLOAD, EXPECTED)
    with pytest.raises(ConfigError, match="capacity"):
        engine_load(paths, RATES, 5.0, 64)


def test_requests_in_flight_meet_the_others() -> None:
    paths = courses(MIRLOptions(preset="gate"), WORKLOAD, EXPECTED)
    seconds = [in_flight_latency(paths, RATES, together, 256) for together in (1, 2, 4, 8)]
    assert seconds[0] == pytest.approx(idle(paths), rel=1e-6)
    assert seconds == sorted(seconds)
    # Batching: eight at once take less than eight times as long.
    assert seconds[3] < 8 * seconds[0]


@pytest.mark.parametrize(("name", "utilization"), [("sc@16", 0.7), ("paper", 0.4), ("waves", 0.7)])
def test_latency_under_load_agrees_with_a_simulated_engine(name: str, utilization: float) -> None:
    paths = planned_methods(name, ModelSettings(), WORKLOAD, EXPECTED)[name]
    workload = WORKLOAD.model_copy(update={"utilization": utilization})
    (method,) = plan({name: paths}, workload, EXPECTED, RATES).methods
    simulated = simulated_latency(
        paths, RATES, per_second=utilization / method.total_gpu_seconds, requests=400, seed=1
    )
    assert method.loaded_seconds == pytest.approx(simulated, rel=0.12)


def test_the_reference_is_sixteen_votes() -> None:
    made = planned(WORKLOAD)
    assert made.reference.name == "sc@16"
    ratios = {name: of["ratios"]["gpu_seconds"] for name, of in made.to_json()["methods"].items()}
    assert ratios["sc@16"] == 1
    assert ratios["greedy"] < ratios["fast"] < ratios["waves"] < ratios["gate"] < ratios["paper"] < 1
    assert planned(WORKLOAD, methods="fast,greedy").reference.name == "fast"


def test_the_load_of_an_idle_engine_is_none() -> None:
    paths = courses(MIRLOptions(preset="gate"), WORKLOAD, EXPECTED)
    assert latency(paths, RATES, Load()) == latency(paths, RATES)
