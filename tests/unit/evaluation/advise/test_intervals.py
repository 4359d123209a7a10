"""Joint intervals: that they hold together, and what that means for the rule."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from mirl_core.evaluation.advise.intervals import joint_gains
from mirl_core.evaluation.advise.rule import Contender, decide
from mirl_core.tasks.resampling import Resampling

Array = npt.NDArray[np.float64]
NAMES = [f"m{number}" for number in range(8)]


def sample(rng: np.random.Generator, truths: list[float], n: int) -> dict[str, Array]:
    """Right and wrong of candidates that are right more often on easy questions: name → [questions]."""
    easy = rng.normal(0, 0.25, n)
    return {
        name: (rng.random(n) < np.clip(truth + easy, 0, 1)).astype(np.float64)
        for name, truth in zip(NAMES, truths, strict=False)
    }


@cache
def resampling(n: int) -> Resampling:
    return Resampling([()] * n, draws=400)


def advised(answers: dict[str, Array], n: int) -> str:
    contenders = [Contender(name, 10 + 10 * i, float(answers[name].mean())) for i, name in enumerate(answers)]
    return decide(contenders, joint_gains(answers, resampling(n)), n, smallest_gain=0.99).advised


def test_gains_are_the_differences_of_means_and_mirror_each_other() -> None:
    rng = np.random.default_rng(0)
    answers = sample(rng, [0.5, 0.6, 0.7], 200)
    gains = joint_gains(answers, resampling(200))
    assert list(gains) == NAMES[:3]
    assert list(gains["m1"]) == ["m0", "m2"]
    for a in answers:
        for b, gain in gains[a].items():
            assert gain.mean == pytest.approx(answers[b].mean() - answers[a].mean())
            assert gain.mean == pytest.approx(-gains[b][a].mean)
            assert gain.high - gain.mean == pytest.approx(gain.mean - gain.low)
            assert gain.n == 200


def test_joint_intervals_are_wider_than_a_single_interval_and_equal_it_for_two() -> None:
    answers = sample(np.random.default_rng(1), [0.5] * 8, 200)
    single = Resampling([()] * 200).difference(answers["m1"], answers["m0"])
    joint = joint_gains(answers, Resampling([()] * 200))["m0"]["m1"]
    pair = joint_gains({name: answers[name] for name in ("m0", "m1")}, Resampling([()] * 200))["m0"]["m1"]
    assert pair.high - pair.low == pytest.approx(single.high - single.low, rel=0.05)
    assert 1.2 < (joint.high - joint.low) / (pair.high - pair.low) < 1.6


def test_candidates_that_answer_alike_may_differ_on_what_the_sample_lacks() -> None:
    answers = sample(np.random.default_rng(2), [0.5, 0.6], 100)
    answers["same"] = answers["m0"]
    # A kind of question that 100 questions don't show may still be 1 - 0.025^(1/100) of all.
    unseen = pytest.approx(0.0362, abs=1e-4)
    for names in (("m0", "m1", "same"), ("m0", "same")):
        gain = joint_gains({name: answers[name] for name in names}, resampling(100))["m0"]["same"]
        assert (gain.mean, -gain.low, gain.high) == (0, unseen, unseen)


def test_noise_hardly_ever_advises_more_than_the_cheapest() -> None:
    rng = np.random.default_rng(3)
    runs = 100
    wrong = sum(advised(sample(rng, [0.6] * 8, 150), 150) != "m0" for _ in range(runs))
    assert wrong <= 0.05 * runs


def test_single_intervals_would_advise_too_much() -> None:
    # The search among eight is real: without the wider intervals the rule above would not hold.
    rng = np.random.default_rng(3)
    runs, wrong = 100, 0
    for _ in range(runs):
        answers = sample(rng, [0.6] * 8, 150)
        alone = [resampling(150).difference(answers[name], answers["m0"]) for name in NAMES[1:]]
        wrong += any(gain.low > 0.01 for gain in alone)
    assert wrong > 0.05 * runs


def test_a_true_gain_is_detected() -> None:
    rng = np.random.default_rng(4)
    truths = [0.45, 0.45, *[0.62] * 6]
    names = [advised(sample(rng, truths, 300), 300) for _ in range(50)]
    # m2 is the cheapest that is truly good enough.
    assert sum(name == "m2" for name in names) >= 40
    assert sum(name > "m2" for name in names) <= 2
