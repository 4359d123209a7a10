"""A method has one colour, whichever other methods a plot shows."""

from __future__ import annotations

import itertools
import re

import numpy as np
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
        ("direct", "#595959"),
        ("steered(ahead=0;contrast=0,0.5)", "#009E73"),
        ("deepconf-low@16", "#33BBCC"),
        ("auto-prior", "#9966FF"),
        ("oracle-answer@16", "#EE7744"),
    ],
)
def test_names_have_the_colour_of_their_first_word(method: str, colour: str) -> None:
    assert method_colour(method) == colour


def test_every_method_has_a_colour_of_its_own_kind() -> None:
    words = {re.split("-", name)[0] for name in METHODS}
    assert words == set(METHOD_COLOURS)
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS)


def test_unknown_methods_keep_a_colour_that_no_known_method_has() -> None:
    colours = {name: method_colour(name) for name in ("newcomer", "newcomer@4", "newcomer(k=1)")}
    assert set(colours.values()) == {"#000044"}
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


# Machado, Oliveira & Fernandes (2009): linear RGB as normal, deuteranopic and protanopic eyes see it.
EYES = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(colour: str, eye: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as the eye sees it."""
    x, y, z = np.cbrt(XYZ @ np.clip(eye @ linear(colour), 0, 1) / XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_colours_of_methods_differ_for_eyes_of_all_kinds(eye: str) -> None:
    """By 13 at least; a difference of 2.3 is just noticeable."""
    seen = {word: lab(colour, EYES[eye]) for word, colour in METHOD_COLOURS.items()}
    near = {
        pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in itertools.combinations(seen, 2)
    }
    assert min(near.values()) > 13, min(near, key=lambda pair: near[pair])


@pytest.mark.parametrize("colour", METHOD_COLOURS.values())
def test_colours_stand_out_on_white(colour: str) -> None:
    # WCAG's contrast; Okabe & Ito's orange is the palest: 2.2 to 1.
    assert 1.05 / (XYZ[1] @ linear(colour) + 0.05) > 2.1
