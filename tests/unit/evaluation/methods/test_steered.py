"""Steered methods: costs worked out by hand, and the real pipeline on the same samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mirl_core.algorithm.confidence import probability
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods import Replay, ReplayDraw, parse_methods
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.steered import Steered
from mirl_core.presets import PRESETS
from tests.unit.evaluation.bank.bank_cases import decoded, in_order, question, reasoned, said

SETTINGS = ModelSettings(options=MIRLOptions(descriptions=6, keep=2, forks=2))
CAT, DOG = said("a cat", [-1.0] * 18), said("a dog", [-1.0] * 12)

# λ = 0 takes the drafts 0, 1 and 2: 8 + 8 + 3 = 19 ticks. λ = 1 switches in draft 0, which wastes draft 1,
# and goes on with draft 3: 8 + 5 and two rounds of verification are 15 ticks. Six samples of 3 tokens.
HAND = replace(
    question(
        [said(f"sample {number}", [-1.0] * 2) for number in range(6)],
        [
            reasoned(number, fork, answer, tokens)
            for number, (answer, tokens) in enumerate(
                [("1", 5), ("1", 5), ("1", 4), ("2", 9), ("2", 6), ("1", 6)]
            )
            for fork in range(2)
        ],
    ),
    decoded=(
        decoded(0.0, CAT, [reasoned(-1, 0, "1", 5), reasoned(-1, 1, "2", 6)], [0, 1, 2]),
        decoded(1.0, DOG, [reasoned(-1, 0, "2", 10), reasoned(-1, 1, "2", 7)], [0, 3], [1], [0, 1]),
    ),
    drafts=(8, 8, 3, 5),
    verified=(9, 8),
)
BOTH = "contrast=0,1;prior_votes=2,2"


def play(
    name: str,
    banked: BankedQuestion = HAND,
    draw: ReplayDraw | None = None,
    settings: ModelSettings = SETTINGS,
) -> Replay:
    (method,) = parse_methods(name, settings)
    assert method.name == name
    return method.play(banked, draw or in_order(banked))


def test_waves_follow_until_the_vote_is_certain() -> None:
    # The chains end at 24 (1) and 25 (2). The first wave's end at 33: 3 to 1, which is 0.81. Of the second,
    # sample 2's ends at 40: 4 to 1 is 0.89, and sample 3's chain is stopped after 4 tokens.
    chains = 5 + 10 + 5 + 5 + 4
    certain = Replay("1", True, 24 + 4 * 3 + chains + 4, 17, 5, pytest.approx(4 / 5), 40)
    assert play("mirl(contrast=0,1;certainty=0.85)") == certain
    # With two votes each it is 5 to 3 at 45. Once the last samples are complete, their votes change nothing.
    decided = Replay("1", True, 24 + 6 * 3 + chains + 9, 17, 6, pytest.approx(5 / 8), 48)
    assert play(f"mirl({BOTH})") == decided
    patient = Replay("1", True, 24 + 6 * 3 + chains + 9 + 6 + 6, 17, 8, pytest.approx(6 / 10), 54)
    assert play(f"mirl({BOTH};early_stop=false)") == patient


def test_samples_ahead_start_beside_the_decodes() -> None:
    # Samples 0 and 1 end at 3, their chains at 8. At 24 it is 4 to 0: the other chain has sampled 9 of 10.
    ahead = Replay("1", True, 24 + 2 * 3 + (5 + 5 + 5 + 9), 17, 3, 1.0, 24)
    assert play(f"mirl({BOTH};ahead=2)") == ahead


def test_what_still_runs_at_the_stop_counts_its_ticks() -> None:
    # Sample 0's chain ends at 8. Of sample 1's 30 tokens there are 24 when it is 3 to 0, and 9 of a chain.
    slow = (HAND.descriptions[0], said("long", [-1.0] * 29), *HAND.descriptions[2:])
    banked = replace(HAND, descriptions=slow)
    stopped = Replay("1", True, 24 + (3 + 24) + (5 + 5 + 9), 17, 2, 1.0, 24)
    assert play(f"mirl({BOTH};ahead=2)", banked) == stopped
    # One vote is enough for 0.75, and decodes count in full.
    early = Replay("1", True, 24 + (3 + 8) + 5, 17, 1, 1.0, 8)
    assert play(f"mirl({BOTH};ahead=2;certainty=0.75)", banked) == early


def test_greedy_decoding_with_votes_verifies_nothing() -> None:
    assert play("mirl(contrast=0;prior_votes=3;descriptions=0)") == Replay("1", True, 24, 0, 1, 1.0, 24)
    # Two votes are not enough, and the first sample's chain makes it three.
    waved = Replay("1", True, 19 + 5 + (3 + 5) * 2, 0, 3, 1.0, 32)
    assert play("steered(contrast=0;prior_votes=2;ahead=0;descriptions=4)") == replace(
        waved, trajectories=2 + 1
    )


def test_a_decode_alone_costs_its_own_drafts_and_passes() -> None:
    # Draft 2 is λ = 0's alone.
    assert play("fast(contrast=1)") == Replay("2", False, 8 + 8 + 5 + 10, 17, 1, 1.0, 25)


def test_equal_descriptions_share_a_chain_and_its_votes() -> None:
    same = replace(HAND, descriptions=(CAT, DOG, *HAND.descriptions[2:]))
    # Samples 0 and 1 add a vote each to the chains that there are; then 2, 3, and 4, 5 follow.
    played = play(f"mirl({BOTH};early_stop=false)", same)
    samples = 19 + 13 + 4 * 3
    chains = 5 + 10 + 4 + 9 + 6 + 6
    assert played == Replay("1", True, 24 + samples + chains, 17, 6, 0.5, 44 + (3 + 9) + (3 + 6))
    apart = play(f"mirl({BOTH};share_chains=false;early_stop=false;descriptions=2)", same)
    # Every vote has a chain: 1 and 2 of the greedy description, 2 and 2 of the other, 1 and 1 of the samples.
    chains = (5 + 6) + (10 + 7) + (5 + 5)
    assert apart == Replay("1", True, 24 + (19 + 13) + chains, 17, 6, 0.5, 49)


def test_further_chains_are_the_draws_and_the_greedy_chain_stays() -> None:
    three = [reasoned(-1, fork, str(fork + 1), fork + 5) for fork in range(3)]
    banked = replace(
        HAND,
        decoded=(decoded(0.0, CAT, three),),
        chains=tuple(reasoned(number, fork, "1") for number in range(6) for fork in range(3)),
    )
    name = "mirl(contrast=0;prior_votes=2;share_chains=false;descriptions=0;early_stop=false)"
    tokens = {
        forks: play(name, banked, ReplayDraw(tuple(range(6)), forks, 0)).generated_tokens
        for forks in ((0, 1, 2), (1, 0, 2), (2, 1, 0))
    }
    assert tokens == {(0, 1, 2): 19 + 5 + 6, (1, 0, 2): 19 + 5 + 6, (2, 1, 0): 19 + 5 + 7}


def test_votes_weighed_by_mi_score_what_no_decode_has_scored() -> None:
    name = f"triple({BOTH};mi_weight=1;clip=none;early_stop=false)"
    # MI is 18 and 12 nats. λ = 0 has no image-free terms yet: the opening tag and 18 tokens.
    share = 1 / (1 + math.exp(-6))
    assert play(name) == Replay("1", True, 24 + 15, 17 + 19, 2, pytest.approx(share), 25)
    # By weights no vote is certain: every sample is drawn, and scored.
    sampled = play(name.replace("early_stop", "descriptions=3;early_stop"))
    assert (sampled.scored_tokens, sampled.trajectories) == (17 + 19 + 3 * (1 + 2), 5)
    missing = replace(HAND, decoded=tuple(_without_marginals(decode) for decode in HAND.decoded))
    with pytest.raises(ConfigError, match="--estimators"):
        play(name, missing)
    assert play(f"mirl({BOTH};descriptions=0)", missing).answer == "1", "no vote needs them"


def _without_marginals(record: object) -> object:
    return replace(record, description=replace(record.description, marginals={}))  # type: ignore[attr-defined, type-var]


def test_unusable_decodes_leave_the_answer_to_samples_or_to_plain_generation() -> None:
    broken = said("on and on", [-1.0] * 18, reason="truncated")
    banked = replace(
        HAND,
        decoded=(decoded(0.0, broken, []),),
        drafts=(19,),
        plain_fallback=reasoned(-1, 0, "1", 6),
    )
    name = "mirl(contrast=0;descriptions=0)"
    assert play(name, banked) == Replay("1", True, 19 + 6, 0, 1, 1.0, 19 + 6)
    assert play(name, replace(banked, plain_fallback=None)) == Replay(None, False, 19, 0, 0, None, 19)
    # Samples 0 and 1 agree, which is not certain enough; 2 and 3 follow, and 2's chain makes it three at 34.
    waves = Replay("1", True, 19 + 4 * 3 + (5 + 5 + 4 + 4), 0, 3, 1.0, 34)
    assert play("mirl(contrast=0)", banked) == waves


def test_confidence_is_calibrated_under_the_models_own_options() -> None:
    own = MIRLOptions(contrast=(0.0, 1.0), prior_votes=(2, 1), descriptions=0)
    calibration = Calibration(intercept=-2, vote_share=3, distinct_share=1)
    settings = ModelSettings(options=own, calibration=calibration)
    # Decided at 24, before the other vote.
    expected = probability(calibration, 1.0, 1.0)
    assert play("mirl", settings=settings).confidence == pytest.approx(expected)
    assert play("mirl(early_stop=false)", settings=settings).confidence == pytest.approx(2 / 3)
    assert play("mirl(prior_votes=2,2;early_stop=false)", settings=settings).confidence == 0.5
    (method,) = parse_methods("mirl", settings)
    assert isinstance(method, Steered)
    assert [item.text for item in method.described(HAND, in_order(HAND))] == ["a dog", "a cat"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_what_a_request_with_it_gets(name: str) -> None:
    own = MIRLOptions(keep=5, mi_weight=0.25, description_tokens=64)
    (method,) = parse_methods(name, ModelSettings(options=own))
    assert isinstance(method, Steered if PRESETS[name].get("contrast") else Gated)
    assert method.options == MIRLOptions.parse({"preset": name}, own)
    assert method.options.description_tokens == 64
    (changed,) = parse_methods(f"{name}(token_mi=true)", ModelSettings(options=own))
    assert changed.options == method.options.model_copy(update={"token_mi": True})


def test_the_gate_none_is_a_name() -> None:
    (method,) = parse_methods("waves(gate=none;keep=3;clip=none)", SETTINGS)
    assert (method.options.gate, method.options.clip) == ("none", None)


def test_options_may_be_lists() -> None:
    (method,) = parse_methods("steered(contrast=0,0.5;prior_votes=3,1)", SETTINGS)
    assert (method.options.contrast, method.options.prior_votes) == ((0.0, 0.5), (3, 1))
    single, none, preset = parse_methods(
        "steered(contrast=0.5;prior_votes=none),mirl(contrast=none),mirl(preset=triple;contrast=2,3,4)",
        SETTINGS,
    )
    assert (single.options.contrast, single.options.votes) == ((0.5,), (1,))
    assert isinstance(none, Gated)
    assert (preset.options.contrast, preset.options.aggregate) == ((2.0, 3.0, 4.0), "mi_weighted")


def test_a_models_decoding_is_no_gates() -> None:
    steered = ModelSettings(options=MIRLOptions(preset="steered", descriptions=4))
    mirl, confidence, automatic = parse_methods("mirl,confidence,auto-stable", steered)
    assert isinstance(mirl, Steered)
    assert isinstance(confidence, Gated)
    for gated in (confidence, automatic):
        assert (gated.options.contrast, gated.options.prior_votes) == ((), ())
    decoding_only = ModelSettings(options=MIRLOptions(preset="triple"))
    with pytest.raises(ConfigError, match="at least 1 where contrast is empty"):
        parse_methods("confidence", decoding_only)
    assert parse_methods("confidence(descriptions=4)", decoding_only)[0].options.descriptions == 4


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("steered@3", "takes no @K"),
        ("steered(preset=gate)", "'preset' is what the name says"),
        ("steered(contrast=0,x)", "contrast"),
        ("steered(contrast=0,-1)", "contrast"),
        ("steered(contrast=0,0.5;prior_votes=1)", "a number of votes for each of the 2 values of contrast"),
        ("steered(certainty=0.5)", "certainty"),
        ("fast(fork_image=drop)", "'fork_image' can't be replayed"),
        ("confidence(contrast=0)", "'contrast' is what the name says"),
        ("sc@3(temperature=0)", "temperature"),
        ("direct(temperature=warm)", "temperature"),
        ("deepconf@3(temperature=0.5)", "unknown key 'temperature'"),
    ],
)
def test_names_that_make_no_sense_say_why(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_methods(name, SETTINGS)
    assert caught.value.param == "methods"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("steered(descriptions=4)", "holds 0,1; bank them with --contrast 0,0.5,1"),
        ("mirl(contrast=0,1;descriptions=7)", "--descriptions 7"),
        ("mirl(contrast=0,1;prior_votes=1,3;share_chains=false)", "--forks 3"),
        ("sc@2(temperature=0.5)", "no samples at temperature 0.5; bank them with --temperatures 0.5"),
    ],
)
def test_what_the_bank_lacks_is_named_with_the_remedy(name: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy) as caught:
        play(name)
    assert caught.value.param == "methods"
