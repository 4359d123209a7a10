"""The rule of `advise` on tables of figures, by hand and generated."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from mirl_core.evaluation.advise.rule import (
    FEWEST,
    Decision,
    GateVerdict,
    decide,
    gate_verdict,
    shares_chains,
)
from mirl_core.tasks.resampling import Estimate
from tests.unit.evaluation.advise.advise_cases import table

EQUAL = {"greedy": (30.0, 0.6), "sc@4": (120.0, 0.6), "waves": (300.0, 0.6)}
GAINING = {"greedy": (30.0, 0.50), "sc@4": (120.0, 0.60), "waves": (300.0, 0.62)}
RISING = {"greedy": (30.0, 0.50), "sc@4": (120.0, 0.60), "waves": (300.0, 0.70)}


@pytest.mark.parametrize(
    ("figures", "half", "advised", "ruled_out"),
    [
        pytest.param(EQUAL, 0.03, "greedy", {}, id="nothing gains"),
        pytest.param(GAINING, 0.04, "sc@4", {"greedy": "waves"}, id="votes gain, the gate no more"),
        pytest.param(RISING, 0.04, "waves", {"greedy": "waves", "sc@4": "waves"}, id="the gate gains"),
        pytest.param(RISING, 0.095, "sc@4", {"greedy": "waves"}, id="the same with less certainty"),
        pytest.param(
            {"greedy": (30, 0.6), "sc@16": (440, 0.608)}, 0.002, "greedy", {}, id="a gain below the tolerance"
        ),
        pytest.param(
            {"greedy": (30, 0.6), "sc@16": (440, 0.62)}, 0.011, "greedy", {}, id="a bound below the tolerance"
        ),
        pytest.param(
            {"greedy": (30, 0.6), "sc@16": (440, 0.5)}, 0.03, "greedy", {"sc@16": "greedy"}, id="votes harm"
        ),
        pytest.param({"sc@4": (120, 0.5), "steered": (120, 0.52)}, 0.02, "steered", {}, id="equal tokens"),
        pytest.param({"greedy": (30, 0.6)}, 0.0, "greedy", {}, id="no rival"),
    ],
)
def test_the_cheapest_that_nothing_certainly_beats(
    figures: dict[str, tuple[float, float]], half: float, advised: str, ruled_out: dict[str, str]
) -> None:
    decision = decide(*table(figures, half), 300)
    assert (decision.advised, decision.too_small, decision.needed) == (advised, False, None)
    assert {name: rival.name for name, rival in decision.ruled_out.items()} == ruled_out
    assert decision.cheapest == (figures[advised][0] == min(tokens for tokens, _ in figures.values()))


def test_the_tolerance_and_the_smallest_gain_are_the_users() -> None:
    contenders, gains = table({"greedy": (30, 0.6), "sc@16": (440, 0.63)}, 0.015)
    assert decide(contenders, gains, 300).advised == "sc@16"
    assert decide(contenders, gains, 300, tolerance=0.02).advised == "greedy"
    contenders, gains = table(EQUAL, 0.03)
    assert decide(contenders, gains, 300, smallest_gain=0.03).too_small
    assert not decide(contenders, gains, 300, smallest_gain=0.0301).too_small
    for smallest_gain in (0.01, 0.005):
        with pytest.raises(ValueError, match="above tolerance"):
            decide(contenders, gains, 300, 0.01, smallest_gain)
    with pytest.raises(ValueError, match="no candidate"):
        decide([], {}, 300)


def test_a_sample_that_could_hide_a_gain_decides_nothing() -> None:
    decision = decide(*table(EQUAL, 0.06), 300)
    assert (decision.advised, decision.too_small, decision.cheapest) == ("greedy", True, True)
    assert decision.open is not None
    assert decision.open.gain.high == pytest.approx(0.06)
    # Intervals of 6 points shrink to 5 points with (6/5)² times the questions.
    assert decision.needed == 432


@pytest.mark.parametrize(
    ("gain", "half", "needed"),
    [
        # 2 points may become certainly below 5 (half of 3), or certainly above 1 (half of 1).
        (0.02, 0.06, 400),
        # 6 points are above 5: only a certain gain can decide, with a half of 5.
        (0.06, 0.10, 400),
        # 4 points: a half of 3 shows the gain, one of 1 that it is small.
        (0.04, 0.06, 400),
    ],
)
def test_the_questions_that_would_decide(gain: float, half: float, needed: int) -> None:
    decision = decide(*table({"greedy": (30, 0.5), "sc@16": (440, 0.5 + gain)}, half), 100)
    assert decision.too_small
    assert decision.needed == needed


def test_few_questions_decide_nothing_however_clear_they_look() -> None:
    for questions in (1, FEWEST - 1):
        decision = decide(*table(RISING, 0.01), questions)
        assert (decision.advised, decision.too_small, decision.needed) == ("greedy", True, FEWEST)
    assert decide(*table(RISING, 0.01), FEWEST).advised == "waves"


def test_best_and_open_are_seen_from_the_advised_candidate() -> None:
    decision = decide(*table(GAINING, 0.04), 300)
    assert decision.best is not None
    assert (decision.best.name, decision.best.gain.mean) == ("waves", pytest.approx(0.02))
    assert decision.open == decision.best
    decision = decide(*table(EQUAL, 0.03), 300)
    assert decision.best is None


def drawn(seed: int) -> tuple[dict[str, tuple[float, float]], float]:
    rng = random.Random(seed)
    count = rng.randint(2, 9)
    figures = {f"m{n}": (rng.uniform(20, 500), rng.uniform(0.4, 0.8)) for n in range(count)}
    return figures, rng.choice([0.005, 0.02, 0.05, 0.1])


@pytest.mark.parametrize("seed", range(200))
def test_generated_tables(seed: int) -> None:
    figures, half = drawn(seed)
    contenders, gains = table(figures, half)
    decision = decide(contenders, gains, 300)
    tokens = {name: cost for name, (cost, _) in figures.items()}
    top = max(figures, key=lambda name: figures[name][1])
    assert top not in decision.ruled_out
    # By the definition: certain means a distance of more than the tolerance and half an interval.
    behind = {name for name, (_, accuracy) in figures.items() if figures[top][1] - accuracy - half > 0.01}
    assert set(decision.ruled_out) == behind
    if decision.too_small:
        assert tokens[decision.advised] == min(tokens.values())
        assert figures[top][1] - figures[decision.advised][1] + half >= 0.05
    else:
        assert tokens[decision.advised] == min(tokens[name] for name in figures if name not in behind)
    # The order of the candidates plays no role.
    shuffled = random.Random(seed).sample(contenders, len(contenders))
    assert decide(shuffled, gains, 300).advised == decision.advised
    # With more noise the advice is never more expensive.
    noisier = decide(*table(figures, 2 * half), 300)
    assert tokens[noisier.advised] <= tokens[decision.advised]


@pytest.mark.parametrize(("share", "shared"), [(0.0, True), (0.1, True), (0.101, False), (0.5, False)])
def test_votes_share_chains_where_at_most_a_tenth_of_repeats_disagrees(share: float, shared: bool) -> None:
    assert shares_chains(Estimate(share, 0.0, 1.0, 100)) is shared


def test_without_repeats_chains_are_shared() -> None:
    assert shares_chains(Estimate(math.nan, math.nan, math.nan, 0))


BETTER, WORSE, UNKNOWN = (
    Estimate(0.05, 0.02, 0.08, 300),
    Estimate(-0.05, -0.08, -0.02, 300),
    Estimate(0.01, -0.02, 0.04, 300),
)
WAVES, GREEDY = decide(*table(RISING, 0.04), 300), decide(*table(EQUAL, 0.03), 300)
HARM = decide(*table({"greedy": (30, 0.6), "waves": (300, 0.5)}, 0.03), 300)


@pytest.mark.parametrize(
    ("decision", "ranks", "verdict"),
    [
        (WAVES, BETTER, GateVerdict.use),
        (WAVES, WORSE, GateVerdict.use),
        (GREEDY, BETTER, GateVerdict.unproven),
        (GREEDY, UNKNOWN, GateVerdict.unproven),
        (GREEDY, None, GateVerdict.unproven),
        (GREEDY, WORSE, GateVerdict.against),
        (GREEDY, replace(WORSE, n=FEWEST - 1), GateVerdict.unproven),
        (HARM, BETTER, GateVerdict.against),
        (replace(HARM, too_small=True), BETTER, GateVerdict.unproven),
        (replace(WAVES, too_small=True), BETTER, GateVerdict.unproven),
        (None, UNKNOWN, GateVerdict.unproven),
        (None, WORSE, GateVerdict.against),
    ],
)
def test_the_gate(decision: Decision | None, ranks: Estimate | None, verdict: GateVerdict) -> None:
    assert gate_verdict(decision, ["waves"], ranks) is verdict
