"""Rules for λ: by hand where a request is enough, in an exact world where it takes traffic."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods import Prepared, parse_methods, replay_draws, unlabelled
from mirl_core.evaluation.methods.auto_weight import (
    Average,
    Conflict,
    InformationShare,
    ScoredDescription,
    Stable,
    fixed_weight,
)
from mirl_core.evaluation.methods.automatic import Automatic, FromTraffic
from mirl_core.evaluation.methods.traffic import TrafficPrior, TrafficWeight
from tests.unit.algorithm.mi.tabular_world import scenes
from tests.unit.evaluation.bank.bank_cases import in_order, question, reasoned, said

OPTIONS = MIRLOptions(mi_weight=0.3)


def sampled(*pairs: tuple[float, float]) -> list[ScoredDescription]:
    """Descriptions of one token: (log p(d | I), log p(d))."""
    return [
        ScoredDescription(f"{number}", np.array([posterior]), np.array([prior]))
        for number, (posterior, prior) in enumerate(pairs)
    ]


def test_information_share_is_what_the_image_explains() -> None:
    rule = InformationShare()
    assert rule.weight(sampled((-1.0, -4.0), (-1.0, -4.0))) == pytest.approx(0.75)
    assert rule.weight(sampled((-4.0, -4.0))) == 0
    assert rule.weight(sampled((-9.0, -4.0))) == 0
    assert rule.weight(sampled((0.0, 0.0))) == 0, "no λ changes a ranking here"


def test_conflict_is_zero_where_the_image_agrees_with_the_prior() -> None:
    # Evidence 2, 1 against prior -1, -2: they agree; evidence 1, 2: they don't.
    agree, against = sampled((1.0, -1.0), (-1.0, -2.0)), sampled((0.0, -1.0), (0.0, -2.0))
    assert Conflict().weight(agree, OPTIONS) == pytest.approx(0)
    assert Conflict().weight(against, OPTIONS) == pytest.approx(1)
    assert Conflict().weight(sampled((-1.0, -2.0)), OPTIONS) == 0.3


def test_where_a_rule_can_not_tell_auto_means_the_information_share() -> None:
    alone = sampled((-1.0, -4.0))
    assert Conflict().weight(alone, MIRLOptions(mi_weight="auto")) == pytest.approx(0.75)
    assert TrafficWeight.fit([alone, alone], MIRLOptions(mi_weight="auto")).weight == pytest.approx(0.75)


def test_stable_is_the_middle_of_the_longest_stretch() -> None:
    # The second overtakes at -1 + λ = -2 + 3λ, λ = ½: from 0.6 to 2.0 it is first, whose middle is 1.3.
    assert Stable().weight(sampled((-1.0, -1.0), (-2.0, -3.0)), OPTIONS) == pytest.approx(1.3)
    assert Stable().weight(sampled((-1.0, -1.0)), OPTIONS) == pytest.approx(1.0)


def test_average_lies_between_the_weights_it_averages() -> None:
    pairs = sampled((-1.0, -1.0), (-2.0, -3.2))
    scores = Average().scores(pairs, OPTIONS)
    assert scores[1] > scores[0], "ahead by 1.2 at λ = 1, behind by 1 at λ = 0"
    even = Average().scores(sampled((-1.0, -1.0), (-2.0, -3.0)), OPTIONS)
    assert even[0] == pytest.approx(even[1])


def test_rules_rank_as_the_gate_does_at_their_weight() -> None:
    banked = question(
        [
            said("a b", [-1.0, -0.5], [-1.0, -2.0]),
            said("c", [-0.2], [-0.4]),
            said("d e f", [-1.0] * 3, [-3.0] * 3),
        ],
        [reasoned(j, 0, str(j)) for j in range(3)],
    )
    settings = ModelSettings(options=MIRLOptions(descriptions=3, keep=1, forks=1))
    (auto,) = parse_methods("auto-information", settings)
    assert isinstance(auto, Automatic)
    weight = InformationShare().weight(auto.sampled(banked, banked.descriptions))
    (fixed,) = parse_methods(f"mirl(mi_weight={weight})", settings)
    assert auto.play(banked, in_order(banked)) == fixed.play(banked, in_order(banked))
    scores = fixed_weight(auto.sampled(banked, banked.descriptions), weight, auto.options)
    assert auto.play(banked, in_order(banked)).answer == str(int(scores.argmax()))


@pytest.mark.parametrize(
    "options",
    ["clip=none", "clip=0.5", "normalize=sum", "distinct=true", "adaptive_keep=0.6;aggregate=mi_weighted"],
)
def test_the_products_auto_is_auto_information(options: str) -> None:
    settings = ModelSettings(options=MIRLOptions(descriptions=16, keep=2, forks=1))
    names = f"auto-information({options}),mirl(mi_weight=auto;{options}),mirl({options})"
    rule, product, fixed = (
        [
            method.play(banked, draw)
            for banked in scenes(40, 0.25, seed=7)
            for draw in replay_draws(banked, 2, 0)
        ]
        for method in parse_methods(names, settings)
    )
    # A share of MI mass may differ in its last digit: the gate divides by lengths once more.
    assert product == [replace(replay, confidence=pytest.approx(replay.confidence)) for replay in rule]
    assert product != fixed, "or λ wouldn't matter here"


def test_rules_score_even_where_they_choose_confidence() -> None:
    banked = question([said("a b", [-1.0, -1.0], [-1.0, -1.0])], [reasoned(0, 0, "1")])
    settings = ModelSettings(options=MIRLOptions(descriptions=1, keep=1, forks=1))
    (method,) = parse_methods("auto-information", settings)
    assert method.play(banked, in_order(banked)).scored_tokens == 3


def test_agreement_takes_the_weight_whose_chains_agree_and_pays_for_all() -> None:
    # λ = 0 keeps a and b, λ = ½ a and c, λ = 1 c and d.
    banked = question(
        [
            said("a", [-1.0], [-1.2]),
            said("b", [-1.5], [-1.1]),
            said("c", [-2.0], [-4.0]),
            said("d", [-3.0], [-4.5]),
        ],
        [reasoned(j, 0, answer, 5 + j) for j, answer in enumerate("2311")],
    )
    settings = ModelSettings(options=MIRLOptions(descriptions=4, keep=2, forks=1))
    (method,) = parse_methods("auto-agreement", settings)
    played = method.play(banked, in_order(banked))
    assert (played.answer, played.right, played.confidence) == ("1", True, 1.0)
    assert played.generated_tokens == 4 * 2 + 5 + 6 + 7 + 8
    assert (played.trajectories, played.scored_tokens) == (4, 4 * 2)


@cache
def traffic(usual: float) -> list[BankedQuestion]:
    """Return 500 questions of a deployment whose usual value has this probability."""
    return scenes(500, usual, seed=3)


def accuracy(names: str, banked: list[BankedQuestion]) -> list[float]:
    accuracies = []
    for method in parse_methods(names, ModelSettings(options=MIRLOptions(descriptions=16, keep=1, forks=1))):
        ready = method.prepare(banked) if isinstance(method, Prepared) else method
        accuracies.append(
            float(np.mean([ready.play(entry, replay_draws(entry, 1, 0)[0]).right for entry in banked]))
        )
    return accuracies


def accuracy_at(weight: float, banked: list[BankedQuestion]) -> float:
    """Return the accuracy of `mirl(mi_weight=weight)` with keep=1 and forks=1: that of the best description.

    All descriptions have the same length, so sums rank as means do.
    """
    terms = [
        [(sum(description.logprobs), sum(description.marginals["text"])) for description in q.descriptions]
        for q in banked
    ]
    right = np.array([[description.right for description in q.descriptions] for q in banked])
    scores = np.array(terms) @ np.array([1.0, -weight])
    return float(right[np.arange(len(banked)), scores.argmax(axis=1)].mean())


@pytest.mark.parametrize(
    ("usual", "expected"),
    # p'(c) ∝ p(c)^(1−λ): log-odds of the usual value log(usual · 3 / (1 − usual)) against log 9 in training.
    [(0.75, 0.0), (0.25, 1.0), (0.04, 1.95)],
)
def test_traffic_finds_the_weight_that_theory_says(usual: float, expected: float) -> None:
    banked = traffic(usual)
    (method,) = parse_methods("auto-traffic(descriptions=16)", ModelSettings())
    assert isinstance(method, FromTraffic)
    rule = method.prepare(banked).rule
    assert isinstance(rule, TrafficWeight)
    assert rule.weight == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("usual", [0.75, 0.04])
def test_traffic_rules_come_close_to_the_best_weight_in_either_deployment(usual: float) -> None:
    banked = traffic(usual)
    weights = [accuracy_at(weight, banked) for weight in (0, 0.5, 1, 1.5, 2)]
    few = banked[:60]
    assert accuracy("mirl(mi_weight=0),mirl(mi_weight=1.5)", few) == [
        accuracy_at(0, few),
        accuracy_at(1.5, few),
    ]
    assert max(weights) - min(weights) > 0.1, "or λ wouldn't matter here"
    for reached in accuracy("auto-traffic,auto-prior", banked):
        assert reached > max(weights) - 0.02


def test_prior_learns_what_one_weight_can_not_express() -> None:
    """The first slot's usual value has become rare, the second's is as usual as in training."""
    weight, prior = accuracy("auto-traffic,auto-prior", scenes(500, (0.04, 0.75), seed=4))
    assert prior > weight + 0.02


def test_prior_changes_little_in_distribution() -> None:
    (method,) = parse_methods("auto-prior(descriptions=16)", ModelSettings())
    assert isinstance(method, FromTraffic)
    rule = method.prepare(scenes(500, 0.75, seed=4)).rule
    assert isinstance(rule, TrafficPrior)
    assert rule.corrections, "contexts repeat in this traffic"
    assert max(abs(value) for context in rule.corrections.values() for value in context.values()) < 1


def test_without_shared_contexts_the_options_weight_holds() -> None:
    banked = question(
        [said("a", [-1.0], [-2.0]), said("b", [-1.0], [-3.0])], [reasoned(j, 0, "1") for j in (0, 1)]
    )
    (method,) = parse_methods("auto-traffic(mi_weight=0.4;descriptions=2)", ModelSettings())
    assert isinstance(method, FromTraffic)
    assert method.prepare([banked]).rule == TrafficWeight(0.4)


def test_fitting_sees_no_truth() -> None:
    banked = scenes(50, 0.25, seed=5)
    twisted = [
        replace(
            banked_question,
            truth="?",
            descriptions=tuple(replace(said, right=not said.right) for said in banked_question.descriptions),
            chains=(),
        )
        for banked_question in banked
    ]
    for name in ("auto-traffic", "auto-prior"):
        (method,) = parse_methods(f"{name}(descriptions=16)", ModelSettings())
        assert isinstance(method, FromTraffic)
        assert method.prepare(banked) == method.prepare(twisted)
    blind = unlabelled(banked[0])
    assert (blind.truth, blind.chains, blind.greedy[1], blind.plain_fallback) == ("", (), None, None)
    assert {description.right for description in (*blind.descriptions, blind.greedy[0])} == {None}


def test_a_rule_without_traffic_refuses_to_play() -> None:
    (method,) = parse_methods("auto-traffic", ModelSettings())
    banked = scenes(1, 0.75, seed=6)[0]
    with pytest.raises(ValueError, match="prepared"):
        method.play(banked, in_order(banked))
