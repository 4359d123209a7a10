"""The contrastive choice of a token: against its definition, and where its terms end."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.algorithm.contrast import choose, contrast, plausible

LOGPROBS = st.dictionaries(st.integers(0, 30), st.floats(-20, 0), min_size=1, max_size=12)


@given(LOGPROBS, st.floats(0.01, 1))
def test_plausible_tokens_are_those_of_the_definition(with_image: dict[int, float], share: float) -> None:
    top = max(map(math.exp, with_image.values()))
    kept = plausible(with_image, share)
    assert kept.items() <= with_image.items()
    for token, logprob in with_image.items():
        ratio = math.exp(logprob) / top / share
        if abs(ratio - 1) > 1e-6:
            assert (token in kept) == (ratio > 1)
    assert max(with_image, key=lambda token: with_image[token]) in kept


def test_a_token_of_exactly_the_share_is_plausible() -> None:
    with_image = {1: math.log(0.5), 2: math.log(0.05), 3: math.log(0.0499)}
    assert set(plausible(with_image, 0.1)) == {1, 2}
    assert set(plausible({1: -1.0, 2: -1.0, 3: -1.1}, 1)) == {1, 2}


@given(LOGPROBS, st.integers(0, 2**32), st.floats(0, 3))
def test_the_choice_has_the_most_contrast(with_image: dict[int, float], seed: int, weight: float) -> None:
    rng = random.Random(seed)
    image_free = {token: -rng.uniform(0, 20) for token in with_image}
    chosen = choose(with_image, image_free, weight)
    value = with_image[chosen] - weight * image_free[chosen]
    assert all(value >= with_image[token] - weight * image_free[token] for token in with_image)


@given(LOGPROBS)
def test_without_weight_it_is_greedy(with_image: dict[int, float]) -> None:
    impossible = dict.fromkeys(with_image, -math.inf)
    best = max(with_image.values())
    lowest = min(token for token, logprob in with_image.items() if logprob == best)
    assert choose(with_image, impossible, 0) == lowest


def test_a_token_that_only_the_image_makes_possible_wins() -> None:
    assert contrast(-2.0, -math.inf, 0.5) == math.inf
    assert contrast(-2.0, -math.inf, 0) == -2.0
    assert choose({1: -0.1, 2: -2.0}, {1: -1.0, 2: -math.inf}, 0.25) == 2
    # Both need the image: the likelier one.
    assert choose({1: -2.0, 2: -0.1, 3: -0.1}, dict.fromkeys((1, 2, 3), -math.inf), 0.25) == 2


def test_equal_contrast_goes_to_the_likelier_token_and_then_to_the_lower_id() -> None:
    assert choose({1: -1.0, 2: -0.5}, {1: -2.0, 2: -1.5}, 1) == 2
    assert choose({7: -1.0, 3: -1.0}, {7: -2.0, 3: -2.0}, 1) == 3


def test_a_single_candidate_needs_no_second_term() -> None:
    assert choose({5: -3.0}, {}, 1) == 5


@pytest.mark.parametrize(("weight", "chosen"), [(0.0, 1), (0.5, 1), (0.75, 2), (1.0, 2)])
def test_weight_moves_the_choice(weight: float, chosen: int) -> None:
    # 1 is likelier by 0.7 nats and owes one nat more to the question alone.
    assert choose({1: -0.3, 2: -1.0}, {1: -1.0, 2: -2.0}, weight) == chosen
