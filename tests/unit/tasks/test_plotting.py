"""A method has one colour, whichever other methods a plot shows."""

from __future__ import annotations

import re

import pytest

from mirl_core.evaluation.methods import METHODS
from mirl_core.tasks.plotting import COLOURS, METHOD_COLOURS, method_colour, method_styles


@pytest.mark.parametrize(
    ("method", "colour"),
    [
        ("sc@16", "#0072B2"),
        ("sc@4+stop", "#0072B2"),
        ("sc@16(temperature=0.5)", "#0072B2"),
        ("mirl", "#D55E00"),
        ("mirl(mi_weight=0.5;keep=3)", "#D55E00"),
        ("greedy", "#000000"),
        ("direct", "#7F7F7F"),
        ("steered(ahead=0;contrast=0,0.5)", "#009E73"),
        ("deepconf-low@16", "#44AA99"),
        ("auto-prior", "#6699CC"),
        ("oracle-answer@16", "#661100"),
    ],
)
def test_names_have_the_colour_of_their_first_word(method: str, colour: str) -> None:
    assert method_colour(method) == colour


def test_every_method_has_a_colour_of_its_own_kind() -> None:
    words = {re.split("-", name)[0] for name in METHODS}
    assert words == set(METHOD_COLOURS)
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS)


def test_unknown_methods_keep_a_colour_that_no_known_one_has() -> None:
    colours = {name: method_colour(name) for name in ("newcomer", "newcomer@4", "newcomer(k=1)")}
    assert set(colours.values()) == {"#7A5FB5"}
    others = {method_colour(f"method{number}") for number in range(100)}
    assert len(others) == 4
    assert not others & {*METHOD_COLOURS.values(), *COLOURS}


def test_styles_depend_on_no_other_method_but_by_the_marker_within_a_colour() -> None:
    alone, crowd = method_styles(["mirl"]), method_styles([*METHODS, "x", "y", "mirl", "mirl(keep=3)"])
    assert crowd["mirl"] == alone["mirl"]
    assert crowd["mirl(keep=3)"][0] == crowd["mirl"][0]
    assert len(set(crowd.values())) == len(crowd)
    twelve = method_styles(f"sc@{k}" for k in range(1, 13))
    assert len({marker for _, marker in twelve.values()}) == 12


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", METHOD_COLOURS.values())
def test_colours_stand_out_on_white(colour: str) -> None:
    # Okabe & Ito's orange is the palest: 2.2 to 1.
    assert 1.05 / (luminance(colour) + 0.05) > 2.1
