"""Every method on banks so small that the outcome can be worked out by hand; and names that don't parse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirl_core.algorithm.confidence import probability
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods import METHODS, Replay, ReplayDraw, parse_methods, replay_draws
from mirl_core.evaluation.methods.replay_chains import trajectories
from mirl_core.presets import PRESETS
from tests.unit.evaluation.bank.bank_cases import decoded, in_order, question, reasoned, said

SETTINGS = ModelSettings(options=MIRLOptions(descriptions=3, keep=1, forks=2, early_stop=False))

# Three descriptions of 1, 2 and 3 content tokens (and one for the closing tag). MI per token: 0.5, 3, -0.5;
# confidence per token: -1, -2, -0.1. Chains of 5 tokens where nothing is said.
HAND = question(
    [
        said("cat", [-1.0], [-1.5], right=False),
        said("red dog", [-2.0, -2.0], [-5.0, -5.0], right=True),
        said("fog or smoke", [-0.1] * 3, [0.4] * 3, right=False),
    ],
    [
        reasoned(0, 0, "2", confidence=1.0, lowest=5.0),
        reasoned(0, 1, "3"),
        reasoned(1, 0, "1", 7, confidence=5.0, lowest=1.0),
        reasoned(1, 1, "1", 9),
        reasoned(2, 0, "2", 20, confidence=2.0, lowest=3.0),
        reasoned(2, 1, None, 30),
    ],
)


def play(name: str, banked: BankedQuestion = HAND, draw: ReplayDraw | None = None) -> Replay:
    (method,) = parse_methods(name, SETTINGS)
    assert method.name == name
    return method.play(banked, draw or in_order(banked))


def test_direct_is_the_first_trajectory_of_the_draw() -> None:
    assert play("direct") == Replay("2", False, 2 + 5, 0, 1, None)
    assert play("direct", draw=ReplayDraw((1, 0, 2), (1, 0), 0)) == Replay("1", True, 3 + 9, 0, 1, None)


def test_greedy_is_the_banked_trajectory_in_every_draw() -> None:
    assert (
        play("greedy")
        == play("greedy", draw=ReplayDraw((1, 0, 2), (1, 0), 0))
        == Replay("2", False, 7, 0, 1, None)
    )
    broken = replace(HAND, greedy=(said("", reason="empty"), None))
    assert play("greedy", broken) == Replay(None, False, 2, 0, 0, None)


def test_self_consistency_votes_over_whole_trajectories() -> None:
    assert play("sc@3") == Replay("2", False, (2 + 5) + (3 + 7) + (4 + 20), 0, 3, pytest.approx(2 / 3))
    assert play("sc@1") == Replay("2", False, 7, 0, 1, 1.0)


def test_stopping_counts_what_was_sampled_until_the_vote_was_decided() -> None:
    chains = [reasoned(j, 0, answer, 8) for j, answer in enumerate("1112")]
    banked = question([said("x" * (j + 1), [-1.0] * (j + 1)) for j in range(4)], chains)
    # They end at ticks 10, 11, 12 and 13. At 11 it is two votes for 1 with two outstanding: those could tie
    # with an answer of their own, but a tie goes to the lower place. At 10 nothing is decided.
    assert play("sc@4+stop", banked) == Replay("1", True, 10 + 11 + 11 + 11, 0, 2, 1.0)
    assert play("sc@4", banked).generated_tokens == 10 + 11 + 12 + 13


def test_chains_that_end_in_one_tick_are_all_counted() -> None:
    chains = [reasoned(j, 0, "1" if j < 3 else "2", 8) for j in range(4)]
    banked = question([said(f"{j}") for j in range(4)], chains)
    assert play("sc@4+stop", banked) == Replay("1", True, 40, 0, 4, 0.75)


def test_gates_keep_different_descriptions() -> None:
    described = 2 + 3 + 4
    scored = (1 + 1) + (1 + 2) + (1 + 3)
    assert play("mirl") == Replay("1", True, described + 16, scored, 2, 1.0)
    assert play("confidence") == Replay("2", False, described + 50, 0, 2, 1.0)
    assert play("none") == Replay("2", False, described + 76, 0, 6, pytest.approx(2 / 5))


def test_gate_none_breaks_ties_by_place() -> None:
    # 1 and 2 have two votes each; the first chain of the draw says 2.
    assert play("none", draw=ReplayDraw((0, 1, 2), (0, 1), 0)).answer == "2"
    assert play("none", draw=ReplayDraw((1, 0, 2), (0, 1), 0)).answer == "1"


def test_random_gate_depends_on_the_draw_alone() -> None:
    kept = {play("random", draw=ReplayDraw((0, 1, 2), (0, 1), seed)).generated_tokens for seed in range(40)}
    assert kept == {9 + 10, 9 + 16, 9 + 50}
    assert play("random", draw=ReplayDraw((0, 1, 2), (0, 1), 7)) == play(
        "random", draw=ReplayDraw((0, 1, 2), (0, 1), 7)
    )


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("mi_weight=0", "2"),
        ("mi_weight=0.5;normalize=sum", "1"),
        ("gate=confidence", "2"),
        ("clip=0.1", "2"),
        ("keep=3;aggregate=best", "1"),
        ("keep=3;aggregate=mi_weighted", "1"),
        ("descriptions=1", "2"),
    ],
)
def test_options_change_what_is_kept(options: str, answer: str) -> None:
    assert play(f"mirl({options})").answer == answer


@pytest.mark.parametrize(
    ("name", "calibrated"),
    [
        ("mirl", True),
        ("mirl(keep=1)", True),
        ("mirl(gate=confidence)", False),
        ("mirl(keep=2)", False),
        ("confidence", False),
        ("none", False),
        ("sc@3", False),
        # These rank by what no request can ask for, whatever their options say.
        ("auto-information", False),
        ("auto-agreement", False),
        ("oracle", False),
    ],
)
def test_only_what_a_request_gets_by_default_is_calibrated(name: str, calibrated: bool) -> None:
    # Three distinct descriptions of three.
    calibration = Calibration(intercept=-2, vote_share=1, distinct_share=1)
    own = SETTINGS.options.model_copy(update={"normalize": "sum"})
    (raw,) = parse_methods(name, SETTINGS.model_copy(update={"options": own}))
    (method,) = parse_methods(name, SETTINGS.model_copy(update={"options": own, "calibration": calibration}))
    share = raw.play(HAND, in_order(HAND)).confidence
    assert share is not None
    expected = probability(calibration, share, 1.0) if calibrated else share
    assert method.play(HAND, in_order(HAND)).confidence == pytest.approx(expected)


def test_adaptive_keep_spends_fewer_forks() -> None:
    # Softmax of 0.5, 3 and -0.5 gives the best 90%.
    assert play("mirl(keep=3;adaptive_keep=0.8)").trajectories == 2
    assert play("mirl(keep=3;adaptive_keep=0.95)").trajectories == 4
    assert play("mirl(keep=3;adaptive_keep=none)").trajectories == 6


def test_identical_descriptions_are_scored_once_and_dropped_where_distinct() -> None:
    twins = question(
        [said("cat"), said("cat"), said("dog", [-1.0], [-1.5])],
        [reasoned(j, fork, answer) for j, answer in enumerate("231") for fork in range(2)],
    )
    assert play("mirl(keep=3)", twins).scored_tokens == 2 * 2
    assert play("mirl(keep=3)", twins).trajectories == 6
    assert play("mirl(keep=3;distinct=true)", twins).trajectories == 4


def test_reference_estimator_scores_once_per_image() -> None:
    marginals = {"text": (-2.0,), "reference": (-2.0,)}
    description = replace(said("cat"), marginals=marginals)
    banked = question([description], [reasoned(0, 0, "1")])
    settings = ModelSettings(options=MIRLOptions(descriptions=1, forks=1), reference_images=("a", "b", "c"))
    text, reference = parse_methods("mirl,mirl(estimator=reference)", settings, opening_tokens=4)
    assert text.play(banked, in_order(banked)).scored_tokens == 5
    assert reference.play(banked, in_order(banked)).scored_tokens == 15


def test_unusable_descriptions_cost_tokens_and_never_go_on() -> None:
    banked = question(
        [said("never ends", [-1.0] * 6, reason="truncated"), said("cat")],
        [reasoned(1, 0, "1"), reasoned(1, 1, "1")],
    )
    assert play("mirl(descriptions=2)", banked) == Replay("1", True, 7 + 2 + 10, 2, 2, 1.0)
    assert play("sc@2", banked) == Replay("1", True, 7 + 7, 0, 1, 1.0)
    assert play("sc@2+stop", banked).generated_tokens == 14, "both are done at tick 7"
    assert play("deepconf@2", banked) == Replay("1", True, 14, 0, 1, 1.0)
    # The first alone is unusable, and the bank holds no plain generation since not all are.
    assert play("direct", banked) == Replay(None, False, 7, 0, 0, None)


@pytest.mark.parametrize("name", ["mirl", "sc@3", "sc@3+stop", "deepconf@3", "adaptive@3", "auto-average"])
def test_without_a_usable_description_it_falls_back(name: str) -> None:
    banked = question([said("", reason="empty")] * 3, [], plain=reasoned(-1, 0, "1", 6))
    assert play(name, banked) == Replay("1", True, 6 + 6, 0, 1, 1.0)
    assert play(name, replace(banked, plain_fallback=None)) == Replay(None, False, 6, 0, 0, None)


def test_deepconf_weighs_votes_by_confidence_and_drops_the_least_sure() -> None:
    # Mean confidences 1 (says 2), 5 (says 1), 2 (says 2). All: 5 against 3. The lowest groups: 5, 1, 3.
    assert play("deepconf@3(keep=1)") == Replay("1", True, 41, 0, 3, pytest.approx(5 / 8))
    assert play("deepconf@3") == Replay("1", True, 41, 0, 3, pytest.approx(5 / 7))
    assert play("deepconf@3(keep=0.1)").confidence == 1.0
    assert play("deepconf-low@3(keep=1)") == Replay("2", False, 41, 0, 3, pytest.approx(8 / 9))


def test_adaptive_consistency_stops_when_the_leader_is_likely_to_stay() -> None:
    # P(Beta(4, 1) > 1/2) = 15/16 < 0.95 ≤ 31/32 = P(Beta(5, 1) > 1/2): four equal answers are enough.
    agreed = question([said(f"{j}") for j in range(6)], [reasoned(j, 0, "1") for j in range(6)])
    assert play("adaptive@6", agreed) == Replay("1", True, 4 * 7, 0, 4, 1.0)
    assert play("adaptive@6(threshold=0.9)", agreed).trajectories == 3
    assert play("adaptive@3", agreed).trajectories == 3
    # After 2, 1, 1, 1, 1, 1: P(Beta(6, 2) > 1/2) = 0.9375: all are needed.
    mixed = question([said(f"{j}") for j in range(6)], [reasoned(j, 0, a) for j, a in enumerate("211111")])
    assert play("adaptive@6", mixed) == Replay("1", True, 6 * 7, 0, 6, pytest.approx(5 / 6))


@pytest.mark.parametrize(("leading", "second"), [(1, 0), (3, 0), (4, 0), (5, 1), (7, 2), (9, 8)])
def test_adaptive_probability_is_the_beta_distributions(leading: int, second: int) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    answers = "1" * leading + "2" * second
    banked = question([said("x")] * len(answers), [reasoned(j, 0, a) for j, a in enumerate(answers)])
    exact = float(beta.sf(0.5, leading + 1, second + 1))
    traces = trajectories(banked, in_order(banked), len(answers), "x")
    for threshold, enough in ((exact - 1e-6, True), (exact + 1e-6, False)):
        (method,) = parse_methods(f"adaptive@20(threshold={threshold})", SETTINGS)
        assert method.enough(traces) is enough


def test_early_stopping_self_consistency_stops_after_a_window_that_agrees() -> None:
    answers = "12111111"
    banked = question([said(f"{j}") for j in range(8)], [reasoned(j, 0, a) for j, a in enumerate(answers)])
    assert play("esc@8(window=2)", banked) == Replay("1", True, 4 * 7, 0, 4, 0.75)
    assert play("esc@8", banked).trajectories == 8
    silent = question(
        [said(f"{j}") for j in range(4)], [reasoned(j, 0, None if j == 1 else "1") for j in range(4)]
    )
    assert play("esc@4(window=2)", silent).trajectories == 4, "no answer agrees with none"


def test_oracle_takes_right_descriptions_first() -> None:
    assert play("oracle") == Replay("1", True, 9 + 16, 0, 2, 1.0)
    # k = 2: the wrong one that came first fills up.
    assert play("oracle(keep=2)").generated_tokens == 9 + 16 + 10
    unknown = replace(
        HAND, descriptions=tuple(replace(description, right=None) for description in HAND.descriptions)
    )
    with pytest.raises(ConfigError, match=r"oracle.*can't tell"):
        play("oracle", unknown)


def test_oracle_answer_is_right_if_any_is() -> None:
    assert play("oracle-answer@3") == Replay("1", True, 41, 0, 3, None)
    assert play("oracle-answer@1").right is False


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("", "at least one"),
        ("mirl,mirl", "mirl comes twice"),
        ("mirrl", "no 'mirrl'; there are direct"),
        ("sc", "sc@16"),
        ("sc@0", "sc@16"),
        ("mirl@3", "takes no @K"),
        ("mirl+stop", "takes no .stop"),
        ("adaptive@3+stop", "takes no .stop"),
        ("mirl(kep=3)", "unknown key 'kep'; known keys: adaptive_keep"),
        ("mirl(keep=0)", "keep"),
        ("mirl(keep)", "key=value"),
        ("mirl(keep=1;keep=2)", "twice"),
        ("mirl(keep=1", "not of the form"),
        ("confidence(gate=mi)", "'gate' is what the name says"),
        ("oracle(normalize=token)", "'normalize' is what the name says"),
        ("mirl(fork_image=drop)", "'fork_image' can't be replayed"),
        ("deepconf@3(keep=2)", "keep"),
        ("direct(keep=2)", "unknown key 'keep'"),
    ],
)
def test_names_that_make_no_sense_say_why(names: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_methods(names, SETTINGS)
    assert caught.value.param == "methods"
    assert "methods" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sc@4", "--descriptions 4"),
        ("mirl(descriptions=9)", "--descriptions 9"),
        ("mirl(forks=3)", "--forks 3"),
        ("mirl(estimator=blank)", "--estimators"),
        ("auto-stable(estimator=blank)", "--estimators"),
    ],
)
def test_what_the_bank_lacks_is_reported_with_the_remedy(name: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy) as caught:
        play(name)
    assert caught.value.param == "methods"


def test_names_keep_their_order_and_lose_white_space() -> None:
    methods = parse_methods(" sc@3+stop , mirl( mi_weight = 0.5; keep = 2 ),direct", SETTINGS)
    assert [method.name for method in methods] == ["sc@3+stop", "mirl(mi_weight=0.5;keep=2)", "direct"]


def test_every_method_plays() -> None:
    greedy = said("cat")
    decodes = tuple(
        decoded(weight, greedy, [reasoned(-1, 0, "1")], verified=[0]) for weight in (0.0, 0.25, 0.5, 1.0)
    )
    banked = replace(HAND, decoded=decodes, drafts=(2,), verified=(2,))
    for base in METHODS:
        takes_count = base in ("sc", "deepconf", "deepconf-low", "adaptive", "esc", "oracle-answer")
        changes = "(descriptions=3)" if base in PRESETS else ""
        (method,) = parse_methods(f"{base}@2" if takes_count else f"{base}{changes}", SETTINGS)
        if base in ("auto-traffic", "auto-prior"):
            method = method.prepare([banked])
        assert method.play(banked, in_order(banked)).generated_tokens > 0


def test_draws_are_permutations_and_functions_of_seed_and_key() -> None:
    draws = replay_draws(HAND, 6, 0)
    assert len(draws) == 6
    for draw in draws:
        assert sorted(draw.descriptions) == [0, 1, 2]
        assert sorted(draw.forks) == [0, 1]
    assert draws == replay_draws(HAND, 6, 0)
    assert draws != replay_draws(HAND, 6, 1)
    assert draws != replay_draws(replace(HAND, key="other"), 6, 0)
    assert len({draw.seed for draw in draws}) == 6


def test_draws_use_every_sample_equally_often() -> None:
    banked = question([said(f"{j}") for j in range(16)], [reasoned(j, 0, "1") for j in range(16)])
    firsts = [draw.descriptions[0] for draw in replay_draws(banked, 8, 3)]
    assert len(set(firsts)) == 8
    used = [index for draw in replay_draws(banked, 16, 3) for index in draw.descriptions[:10]]
    assert {used.count(index) for index in range(16)} == {10}
