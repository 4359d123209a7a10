"""What `calibrate` chooses, on banks whose accuracies and costs are counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.calibration.options import Candidate, Choice, Grid, calibrate, frontier
from tests.unit.evaluation.bank.bank_cases import question, reasoned, said

GRID = Grid(
    mi_weight=(1.0,),
    descriptions=(4,),
    keep=(1, 3),
    forks=(1,),
    estimator=("text",),
    normalize=("token",),
    clip=(None,),
    adaptive_keep=(None,),
    distinct=(False,),
)
SETTINGS = ModelSettings(
    options=MIRLOptions(descriptions=4, keep=2, forks=1),
    calibration=Calibration(intercept=1, vote_share=1, distinct_share=0),
)


def banked(key: str, best: bool, others: bool) -> BankedQuestion:
    """Four descriptions of MI 4, 3, 2, 1: is the chain of the best right, and those of the others?

    With k = 1 the best one decides, with k = 3 the two others of the three outvote it where they differ.
    """
    drawn = [said("abcd"[place], [-1.0], [-5.0 + place]) for place in range(4)]
    answers = ["1" if best else "2", *(["1" if others else "2"] * 3)]
    return question(drawn, [reasoned(place, 0, answer) for place, answer in enumerate(answers)], key=key)


def questions(gained: int, lost: int, count: int = 100) -> list[BankedQuestion]:
    """`gained` where only k = 3 is right, `lost` where only k = 1 is, half of the rest right anyway."""
    kinds = [(False, True)] * gained + [(True, False)] * lost
    kinds += [(True, True) if place % 2 else (False, False) for place in range(count - len(kinds))]
    return [banked(f"q{place}", *kind) for place, kind in enumerate(kinds)]


def chosen(gained: int, lost: int) -> Choice:
    return calibrate(questions(gained, lost), SETTINGS, GRID, budget=1000.0, count=1)


def keeps(candidate: Candidate) -> object:
    return dict(candidate.options)["keep"]


def test_the_cheapest_within_one_standard_error_is_chosen() -> None:
    # 2 points better with a standard error of √(0.14 − 0.02²) / 10 = 3.7 points: not worth the tokens.
    choice = chosen(8, 6)
    assert (keeps(choice.best), keeps(choice.chosen)) == (3, 1)
    assert choice.best.mean - choice.chosen.mean == pytest.approx(0.02)
    assert choice.error == pytest.approx(math.sqrt(0.14 - 0.0004) / 10, rel=0.06)
    # Every description's 2 tokens are sampled, and read again to score it; then chains of 5 tokens.
    assert (choice.chosen.cost, choice.best.cost) == (8 + 8 + 5, 8 + 8 + 15)


@pytest.mark.parametrize(("gained", "lost"), [(9, 4), (14, 8)])
def test_what_is_better_by_more_than_one_standard_error_is_chosen(gained: int, lost: int) -> None:
    """By 1.4 and 1.3 standard errors: two would not be enough to pay for it."""
    choice = chosen(gained, lost)
    gap = (gained - lost) / 100
    error = math.sqrt((gained + lost) / 100 - gap**2) / 10
    assert 1.2 < gap / error < 1.5
    assert keeps(choice.chosen) == keeps(choice.best) == 3
    assert choice.chosen is choice.best
    assert choice.error == 0


def test_a_budget_leaves_out_what_costs_more() -> None:
    few = questions(5, 0, 8)
    for budget, best in ((31.0, 3), (30.9, 1)):
        choice = calibrate(few, SETTINGS, GRID, budget=budget, count=1)
        assert (choice.budget, keeps(choice.best)) == (budget, best)
    with pytest.raises(
        ConfigError, match="nothing fits 20 tokens a question; the cheapest takes 21"
    ) as caught:
        calibrate(few, SETTINGS, GRID, budget=20.4, count=1)
    assert caught.value.param == "budget"


def test_the_budget_is_what_self_consistency_costs() -> None:
    choice = calibrate(questions(5, 0, 8), SETTINGS, GRID, count=1)
    # Four trajectories of 7 tokens that end in one tick.
    assert choice.budget == choice.baseline.cost == 28
    assert choice.baseline.options == ()
    assert keeps(choice.chosen) == 1


def test_the_settings_get_the_options_and_lose_the_calibration() -> None:
    choice = chosen(8, 6)
    assert choice.settings.calibration is None
    options = choice.settings.options
    assert (options.descriptions, options.keep, options.forks, options.gate) == (4, 1, 1, "mi")
    assert choice.tried == 2
    assert {keeps(candidate) for candidate in choice.finalists} == {1, 3}
    assert choice.chosen.to_json() == {
        "options": dict(choice.chosen.options),
        "accuracy": choice.chosen.mean,
        "tokens": 21.0,
    }


def test_there_must_be_questions() -> None:
    with pytest.raises(ConfigError) as caught:
        calibrate([], SETTINGS, GRID)
    assert caught.value.param == "data"


def test_rounds_say_how_far_they_are() -> None:
    heard: list[tuple[str, int, int]] = []
    calibrate(questions(1, 0, 4), SETTINGS, GRID, budget=99.0, count=1, tick=lambda *each: heard.append(each))
    assert heard == [
        ("scores", 0, 2),
        ("scores", 1, 2),
        ("scores", 2, 2),
        ("shapes", 0, 0),
        ("extras", 0, 0),
        ("scores again", 0, 0),
        ("candidates on all questions", 0, 2),
        ("candidates on all questions", 1, 2),
        ("candidates on all questions", 2, 2),
    ]


def test_a_grid_tries_each_weightless_score_once() -> None:
    grid = replace(GRID, mi_weight=(0.0, 1.0), estimator=("text", "blank"), clip=(None, 2.0))
    tried = [(scorer["mi_weight"], scorer["estimator"], scorer["clip"]) for scorer in grid.scorers()]
    assert tried == [
        (0.0, "text", None),
        (0.0, "text", 2.0),
        (1.0, "text", None),
        (1.0, "text", 2.0),
        (1.0, "blank", None),
        (1.0, "blank", 2.0),
    ]


def test_a_grid_tries_shapes_that_drop_something_and_extras_that_add_something() -> None:
    grid = replace(
        GRID, descriptions=(2, 3), keep=(1, 2, 3), adaptive_keep=(None, 0.8), distinct=(False, True)
    )
    assert [(shape["descriptions"], shape["keep"]) for shape in grid.shapes()] == [(2, 1), (3, 1), (3, 2)]
    assert grid.extras() == [
        {"adaptive_keep": None, "distinct": True},
        {"adaptive_keep": 0.8, "distinct": False},
        {"adaptive_keep": 0.8, "distinct": True},
    ]


def test_a_grid_within_a_bank_asks_for_no_more_than_it_has() -> None:
    grid = Grid(descriptions=(4, 6, 8), forks=(1, 2, 3))
    within = grid.within(6, 2, ("blank",))
    assert within == replace(grid, descriptions=(4, 6), forks=(1, 2), estimator=("blank",))
    assert grid.within(3, 1, ["text"]).descriptions == (3,)


def test_the_frontier_has_what_no_cheaper_candidate_reaches() -> None:
    def made(accuracy: float, tokens: float) -> Candidate:
        return Candidate((), np.array([accuracy]), np.array([tokens]))

    dear, cheap, equal, better, worse = (
        made(0.9, 40),
        made(0.5, 10),
        made(0.5, 20),
        made(0.7, 20),
        made(0.6, 30),
    )
    assert frontier([dear, worse, equal, better, cheap]) == [cheap, better, dear]
    assert frontier([]) == []
