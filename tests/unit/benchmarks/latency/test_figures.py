"""Percentiles, ratios with their intervals, stages and tables of timed runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mirl_core.algorithm.costs import Rates, Work
from mirl_core.evaluation.bank.live import LiveRun
from tests.benchmarks.latency.figures import cost_table, costs, latency_table, ratio, summarise
from tests.benchmarks.latency.measure import Pass, TimedRun

RUN = LiveRun("q", "1", "2", True, 100, 20, 2, None, 1.0, {"describe": 0.5, "fork": 0.3})
WORKS = (
    Work("render", 0.0, 0.1, images=1),
    Work("describe", 0.1, 0.6, 10, prefill=70, steps=5, generated=50),
    Work("score", 0.6, 0.7, 9, scored=90),
    Work("fork", 0.7, 1.0, 4, prefill=30, steps=10, generated=40),
)


def timed(method: str, block: int, seconds: float) -> TimedRun:
    return TimedRun(method, block, replace(RUN, seconds=seconds), WORKS)


def measured(*, together: int = 1) -> Pass:
    slow = [timed("sc@16", block, seconds) for block, seconds in enumerate((1.0, 2.0, 3.0, 6.0))]
    fast = [timed("gate", block, seconds) for block, seconds in enumerate((0.5, 1.0, 1.5, 3.0))]
    return Pass(together, (*slow, *fast), {"sc@16": 12.0, "gate": 8.0})


def test_a_ratio_of_pairs_is_free_of_what_both_share() -> None:
    result = ratio([0.5, 5.0, 50.0], [1.0, 10.0, 100.0], [0, 1, 2])
    assert (result.value, result.low, result.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_of_a_ratio_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        shared = rng.lognormal(0, 0.3, 40)
        ours = 0.9 * shared * rng.lognormal(0, 0.1, 40) * np.exp(-(0.1**2) / 2)
        result = ratio(ours.tolist(), shared.tolist(), range(40), draws=200, seed=trial)
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.9 <= result.high
    assert 0.88 <= covered / 100 <= 0.99


def test_blocks_are_resampled_whole() -> None:
    ours, theirs = [1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0]
    by_question, by_block = ratio(ours, theirs, [0, 1, 2, 3]), ratio(ours, theirs, [0, 0, 1, 1])
    assert by_question.value == by_block.value == 2.0
    # Of two blocks, every fourth draw has the first alone.
    assert (by_block.low, by_block.high) == (1.0, 3.0)
    assert ratio(ours, theirs, [0, 0, 0, 0]).low is None
    with pytest.raises(ValueError, match="not paired"):
        ratio(ours, theirs, [0])


def test_figures_of_a_pass() -> None:
    figures = summarise(measured(), "sc@16")
    votes, gate = figures["sc@16"], figures["gate"]
    assert (votes["p50_seconds"], votes["mean_seconds"]) == (2.5, 3.0)
    assert votes["p90_seconds"] == pytest.approx(5.1)
    assert votes["requests_per_second"] == pytest.approx(4 / 12)
    assert "ratio_of_means" not in votes
    assert gate["ratio_of_means"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert gate["ratio_of_p50"]["value"] == pytest.approx(0.5)
    assert (gate["generated_tokens"], gate["scored_tokens"], gate["prefilled_tokens"]) == (100, 20, 190)
    assert (gate["rounds"], gate["sequences"], gate["scoring_passes"]) == (3, 14, 9)
    assert gate["stages"] == pytest.approx({"describe": 0.5, "fork": 0.3, "render": 0.1})


def test_the_cost_model_is_compared_by_stage() -> None:
    figures = costs(measured(together=2), Rates(1000.0, ((1, 0.01),), 1000.0))
    assert figures["gate"]["measured"] == pytest.approx(1.5)
    assert figures["gate"]["predicted_stages"] == pytest.approx(
        {"render": 0.0, "describe": 2 * 0.07 + 0.05, "score": 2 * 0.09, "fork": 2 * 0.03 + 0.1}
    )
    row = cost_table(figures, "sc@16").splitlines()[3]
    assert row.startswith(
        "| gate | 0.530 / 1.500 | 1.00 / 0.50 | 0.000 / 0.100 | 0.190 / 0.500 | 0.180 / 0.000 |"
    )


def test_accuracy_is_left_out_where_answers_are_forced() -> None:
    figures = summarise(measured(), "sc@16")
    graded, forced = latency_table(figures, "sc@16", True), latency_table(figures, "sc@16", False)
    assert graded.splitlines()[0].endswith("| fork, s | right, % |")
    assert forced.splitlines()[0].endswith("| fork, s |")
    assert "| 0.50 [0.50, 0.50] |" in forced.splitlines()[3]


def test_runs_survive_json() -> None:
    run = timed("gate", 3, 0.5)
    assert TimedRun.from_json(run.to_json()) == run
