"""Presets: what each sets, what goes over it, and what it leaves to the model."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.config import Limits, MIRLOptions, ModelSettings
from mirl_core.errors import RequestError
from mirl_core.presets import PRESETS

# A model and an operator that set everything otherwise.
OTHER = MIRLOptions(
    contrast=(2.0,), prior_votes=(3,), descriptions=1, keep=1, forks=1, adaptive_keep=0.5, gate="random",
    estimator="blank", mi_weight="auto", normalize="sum", clip=1.0, distinct=True, fork_image="drop",
    aggregate="best", early_stop=False, plausibility=0.5, certainty=0.6, waves=True, wave=9, ahead=9,
    draft_tokens=99, lookahead=2,
    share_chains=False, description_tokens=7, timeout=3.0, max_total_tokens=999, token_mi=True,
)  # fmt: skip
BOUNDS = {"description_tokens", "timeout", "max_total_tokens", "token_mi", "share_chains"}


def test_paper_is_the_paper_whatever_the_model_sets() -> None:
    options = MIRLOptions.parse({"preset": "paper"}, OTHER)
    kept = {name: getattr(OTHER, name) for name in BOUNDS}
    assert options == MIRLOptions(preset="paper").model_copy(update=kept)
    assert options.model_dump(exclude={"preset", *BOUNDS}) == MIRLOptions().model_dump(
        exclude={"preset", *BOUNDS}
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_decides_all_but_bounds_and_what_the_model_is_like(name: str) -> None:
    left = BOUNDS | ({"estimator", "fork_image"} if name != "paper" else set())
    assert set(PRESETS[name]) == set(MIRLOptions.model_fields) - left - {"preset"}
    options = MIRLOptions.parse({"preset": name}, OTHER)
    for field in left:
        assert getattr(options, field) == getattr(OTHER, field)
    for field, value in PRESETS[name].items():
        assert getattr(options, field) == value
    Limits().check(options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gate", {"keep": 3, "mi_weight": 0.5, "clip": 2.0}),
        (
            "waves",
            {"descriptions": 12, "keep": 4, "mi_weight": 0.35, "clip": 2.0, "waves": True, "certainty": 0.85},
        ),
        ("steered", {"contrast": (0.0, 0.5, 1.0), "prior_votes": (2, 2, 1), "descriptions": 8, "ahead": 2}),
        (
            "triple",
            {"contrast": (0.0, 0.5, 1.0), "descriptions": 0, "aggregate": "mi_weighted", "normalize": "sum",
             "mi_weight": 0.5, "clip": 2.0},
        ),
        ("fast", {"contrast": (0.25,), "descriptions": 0}),
    ],
)  # fmt: skip
def test_presets_beside_the_papers(name: Any, expected: dict[str, Any]) -> None:
    assert MIRLOptions(preset=name) == MIRLOptions().model_copy(update={"preset": name, **expected})


def test_options_beside_a_preset_go_over_it() -> None:
    options = MIRLOptions.parse({"preset": "steered", "descriptions": 4, "estimator": "blank"}, OTHER)
    assert (options.descriptions, options.estimator, options.votes) == (4, "blank", (2, 2, 1))
    model = ModelSettings.model_validate({"options": {"preset": "fast", "plausibility": 0.2}})
    assert model.options == MIRLOptions(preset="fast", plausibility=0.2)
    # A request without a preset changes only what it names.
    assert MIRLOptions.parse({"certainty": 0.8}, model.options) == MIRLOptions(
        preset="fast", plausibility=0.2, certainty=0.8
    )


def test_other_values_of_contrast_leave_the_votes_of_the_defaults_behind() -> None:
    steered = MIRLOptions(preset="steered")
    assert MIRLOptions.parse({"contrast": [0.5]}, steered).votes == (1,)
    plain = MIRLOptions.parse({"contrast": []}, steered)
    assert (plain.steered, plain.votes, plain.most_descriptions) == (False, (), 8)
    for options in (
        MIRLOptions.parse({"preset": "steered", "contrast": [0, 0.5]}),
        MIRLOptions.model_validate({"preset": "steered", "contrast": [0, 0.5]}),
    ):
        assert (options.votes, options.descriptions) == ((1, 1), 8)
    with pytest.raises(RequestError, match="at least 1 where contrast is empty"):
        MIRLOptions.parse({"contrast": []}, MIRLOptions(preset="fast"))


def test_decoded_descriptions_count_within_the_limit() -> None:
    options = MIRLOptions(contrast=(0.0, 1.0), descriptions=6)
    assert options.most_descriptions == 8
    Limits(max_descriptions=8).check(options)
    with pytest.raises(RequestError, match=r"mirl\.descriptions is 8; this server allows at most 7"):
        Limits(max_descriptions=7).check(options)
