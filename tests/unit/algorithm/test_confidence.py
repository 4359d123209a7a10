"""Confidence: the formula, what it holds for, and what the pipeline reports of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.algorithm.confidence import (
    NEUTRAL,
    Confidence,
    Traits,
    calibration_for,
    is_familiar,
    probability,
    reported,
    traits_of,
)
from mirl_core.algorithm.gates import select
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.types import Description, Result
from tests.unit.pipeline.pipeline_cases import chain, described, result_of

CALIBRATION = Calibration(intercept=-1.0, vote_share=3.0, distinct_share=-2.0)
OPTIONS = MIRLOptions(descriptions=4, keep=2, forks=1, early_stop=False)
SETTINGS = ModelSettings(instruction="", options=OPTIONS, calibration=CALIBRATION)
SAMPLING = Sampling(max_tokens=64, seed=1)
# Two of the four say the same: a distinct share of 3/4.
FOUR = [
    described("a cat", -1, -4),
    described("a dog", -1, -5),
    described("a cat", -1, -4),
    described("fog", -1),
]
SHARES = st.floats(0, 1)
WEIGHTS = st.floats(-1e6, 1e6)


def made(index: int, *content: int, reason: str | None = None) -> Description:
    """A description of these content tokens and one for the closing tag."""
    return Description(index, "x", (*content, 99), len(content), -1.0, mi=float(index), reason=reason)


def test_an_example() -> None:
    assert probability(CALIBRATION, 1.0, 0.5) == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert probability(CALIBRATION, 0.0, 0.0) == pytest.approx(1 / (1 + math.e))
    for logit in (29.5, 30.0, 31.0, 1e9):
        extreme = Calibration(intercept=0, vote_share=logit, distinct_share=-logit)
        assert probability(extreme, 1.0, 0.0) == 1 / (1 + math.exp(-min(logit, 30.0)))
        assert probability(extreme, 0.0, 1.0) == 1 / (1 + math.exp(min(logit, 30.0)))


@given(WEIGHTS, WEIGHTS, WEIGHTS, SHARES, SHARES)
def test_never_certain(
    intercept: float, share: float, distinct: float, observed_share: float, observed_distinct: float
) -> None:
    calibration = Calibration(intercept=intercept, vote_share=share, distinct_share=distinct)
    assert 0 < probability(calibration, observed_share, observed_distinct) < 1


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-5, 5), SHARES, SHARES, SHARES)
def test_more_votes_more_confidence(
    intercept: float, weight: float, other: float, first_share: float, second_share: float, distinct: float
) -> None:
    low, high = sorted((first_share, second_share))
    calibration = Calibration(intercept=intercept, vote_share=weight, distinct_share=other)
    assert probability(calibration, low, distinct) <= probability(calibration, high, distinct)
    if high - low > 1e-6:
        assert probability(calibration, low, distinct) < probability(calibration, high, distinct)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_are_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Calibration(intercept=value, vote_share=1, distinct_share=1)


@pytest.mark.parametrize("distinct", [False, True])
def test_traits_are_the_same_before_and_after_the_gate(distinct: bool) -> None:
    # The closing tag is no content, so the first two say the same; the last can't be used.
    some = [
        made(0, 1, 2),
        replace(made(1, 1, 2), token_ids=(1, 2, 98)),
        made(2, 1),
        made(3, 5, reason="truncated"),
    ]
    before = traits_of(some)
    assert before is not None
    assert before.distinct == pytest.approx(2 / 3)
    gated = select(some, MIRLOptions(keep=1, distinct=distinct), None)
    assert {description.reason for description in gated} > {None, "gate"}
    assert traits_of(gated) == before
    assert traits_of(some[3:]) is None


def test_reported() -> None:
    some = [made(0, 1), made(1, 2)]
    assert reported(0.8, some, CALIBRATION) == Confidence(probability(CALIBRATION, 0.8, 1.0), None)
    assert reported(0.8, some, None, "why") == Confidence(0.8, "why")
    assert reported(None, some, CALIBRATION) == Confidence(None, "there was no vote")
    unusable = [made(0, 1, reason="empty")]
    assert reported(0.8, unusable, CALIBRATION) == Confidence(0.8, "no description was usable")


def test_traits_are_means_over_usable_descriptions() -> None:
    # −1 and −2 nats a token, an MI of 3 and 0.5 nats a token; of the unusable one only its share counts.
    some = [
        replace(made(0, 1, 2), logprob=-2.0, mi=6.0),
        replace(made(1, 3, 4), logprob=-4.0, mi=1.0),
        replace(made(2, 5, reason="empty"), logprob=-99.0),
        replace(made(3, 6, reason="truncated"), logprob=-99.0),
    ]
    assert traits_of(some) == Traits(distinct=1.0, logprob=-1.5, mi=1.75, unusable=0.5)
    unscored = [replace(description, mi=None) for description in some[:2]]
    assert traits_of(unscored) == Traits(distinct=1.0, logprob=-1.5, mi=None, unusable=0.0)


TRAITS = Traits(distinct=0.5, logprob=-1.5, mi=0.25, unusable=0.1)


@pytest.mark.parametrize(
    ("bounds", "familiar"),
    [
        ({}, True),
        ({"least_logprob": -1.5, "least_mi": 0.25, "most_unusable": 0.1}, True),
        ({"least_logprob": -1.49}, False),
        ({"least_mi": 0.26}, False),
        ({"most_unusable": 0.09}, False),
    ],
)
def test_a_familiar_request_is_within_every_bound(bounds: dict[str, float], familiar: bool) -> None:
    assert is_familiar(TRAITS, CALIBRATION.model_copy(update=bounds)) is familiar
    # Without scores there is nothing to hold against the bound on MI.
    unscored = replace(TRAITS, mi=None)
    assert is_familiar(unscored, CALIBRATION.model_copy(update={"least_mi": 9.0}))


@pytest.mark.parametrize(("least", "calibrated"), [(None, True), (-1.0, True), (-0.5, False)])
def test_unfamiliar_descriptions_are_not_called_calibrated(least: float | None, calibrated: bool) -> None:
    calibration = CALIBRATION.model_copy(update={"least_logprob": least})
    confidence = reported(0.8, [made(0, 1)], calibration)
    assert (confidence.reason is None) is calibrated
    assert (confidence.value == 0.8) is not calibrated
    if not calibrated:
        assert "unlike what the model knows" in str(confidence.reason)


CHANGED: dict[str, Any] = {
    "contrast": (0.5,),
    "prior_votes": (2,),
    "plausibility": 0.2,
    "certainty": 0.8,
    "wave": 3,
    "waves": True,
    "ahead": 1,
    "draft_tokens": 4,
    "lookahead": 1,
    "share_chains": False,
    "descriptions": 5,
    "keep": 3,
    "forks": 2,
    "adaptive_keep": 0.9,
    "gate": "confidence",
    "estimator": "blank",
    "mi_weight": 0.5,
    "normalize": "sum",
    "clip": 1.0,
    "distinct": True,
    "fork_image": "drop",
    "aggregate": "majority",
    "early_stop": True,
    "description_tokens": 9,
}


def test_a_changed_option_is_another_vote() -> None:
    assert calibration_for(SETTINGS, OPTIONS, SAMPLING) == CALIBRATION
    assert (
        calibration_for(
            SETTINGS,
            OPTIONS.model_copy(
                update={"timeout": 9.0, "max_total_tokens": 999, "token_mi": True, "preset": "gate"}
            ),
        )
        is not None
    )
    assert set(CHANGED) | NEUTRAL == set(MIRLOptions.model_fields), "every option is one or the other"
    for name, value in CHANGED.items():
        assert calibration_for(SETTINGS, OPTIONS.model_copy(update={name: value})) is None, name


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"top_k": 5},
        {"min_p": 0.1},
        {"presence_penalty": 1.0},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.1},
        {"structure": "{}"},
    ],
)
def test_another_distribution_is_another_vote(changed: dict[str, float]) -> None:
    assert calibration_for(SETTINGS, OPTIONS, replace(SAMPLING, **changed)) is None  # type: ignore[arg-type]
    same = replace(SAMPLING, max_tokens=7, seed=None, stop=("x",), alternatives=3, top_logprobs=2)
    assert calibration_for(SETTINGS, OPTIONS, same) == CALIBRATION
    cool = SETTINGS.model_copy(update={"temperature": 0.25})
    assert calibration_for(cool, OPTIONS, replace(SAMPLING, temperature=0.25)) == CALIBRATION
    assert calibration_for(cool, OPTIONS, SAMPLING) is None


def engine() -> FakeEngine:
    return FakeEngine(FOUR, lambda suffix, branch: chain("dog" if "dog" in suffix else "cat"))


async def ask(settings: ModelSettings = SETTINGS, **changed: Any) -> Result:
    options = settings.options.model_dump() | changed
    return await result_of(engine(), settings=settings, sampling=SAMPLING, **options)


@pytest.mark.parametrize("aggregate", ["auto", "majority", "mi_weighted"])
async def test_the_models_own_vote_is_calibrated(aggregate: str) -> None:
    own = SETTINGS.model_copy(update={"options": OPTIONS.model_copy(update={"aggregate": aggregate})})
    result = await ask(own)
    assert result.vote is not None
    assert 0.5 <= result.vote.share < 1
    assert result.calibrated
    assert result.confidence == probability(CALIBRATION, result.vote.share, 3 / 4)


@pytest.mark.parametrize("changed", [{"keep": 3}, {"early_stop": True}, {"gate": "none"}])
async def test_another_vote_reports_its_share(changed: dict[str, Any]) -> None:
    result = await ask(**changed)
    assert result.vote is not None
    assert (result.confidence, result.calibrated) == (result.vote.share, False)
    assert result.uncalibrated == "it was fitted for other options or sampling parameters than this request's"


async def test_an_unfamiliar_request_is_reported_as_such() -> None:
    familiar = await ask()
    assert (familiar.calibrated, familiar.uncalibrated, familiar.warnings) == (True, None, ())
    strict = CALIBRATION.model_copy(update={"least_logprob": 0.0})
    result = await ask(SETTINGS.model_copy(update={"calibration": strict}))
    assert result.vote is not None
    assert (result.confidence, result.calibrated) == (result.vote.share, False)
    assert "unlike those it was fitted on" in str(result.uncalibrated)
    assert result.warnings == ("The picture or the question may be unlike what the model knows.",)


@pytest.mark.parametrize(("marginal", "warned"), [(-1.5, False), (-1.0, True), (-0.5, True)])
async def test_a_description_that_owes_nothing_to_the_image_is_reported(
    marginal: float, warned: bool
) -> None:
    texts = [replace(text, marginal=marginal) for text in FOUR]
    fake = FakeEngine(texts, chains=[chain("cat")])
    result = await result_of(fake, settings=SETTINGS, sampling=SAMPLING, **OPTIONS.model_dump())
    assert [warning.startswith("The answer's description owes nothing") for warning in result.warnings] == [
        True
    ] * warned


async def test_without_a_calibration_or_a_vote() -> None:
    plain = await ask(SETTINGS.model_copy(update={"calibration": None}))
    assert plain.vote is not None
    assert (plain.confidence, plain.calibrated) == (plain.vote.share, False)
    best = await ask(
        SETTINGS.model_copy(update={"options": OPTIONS.model_copy(update={"aggregate": "best"})})
    )
    assert (best.confidence, best.calibrated) == (None, False)


async def test_a_fallback_is_no_such_vote() -> None:
    unusable = FakeEngine([FakeText("never ends", -1.0, -1.0, "length")], plain=[chain("cat")])
    result = await result_of(unusable, settings=SETTINGS, sampling=SAMPLING, **OPTIONS.model_dump())
    assert result.fallback
    assert (result.confidence, result.calibrated) == (1.0, False)
