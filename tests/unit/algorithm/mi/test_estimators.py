"""The estimators on a tabular p(d, I) whose mutual information is known exactly."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mirl_core.algorithm.mi.estimators import (
    ESTIMATORS,
    BlankEstimator,
    ReferenceEstimator,
    TextEstimator,
    make_estimator,
    mean_colour,
)
from mirl_core.algorithm.mi.pointwise import information_share, token_mi
from mirl_core.errors import RequestError
from mirl_core.types import Conversation

Table = NDArray[np.float64]
NATS = 1e-9


def random_table(seed: int, images: int = 3, vocabulary: int = 3, length: int = 2) -> Table:
    """p(d | I) as (images, vocabulary, …, vocabulary), one axis a token; peaked, so that MI isn't near 0."""
    rng = np.random.default_rng(seed)
    weights = rng.random((images, *[vocabulary] * length)) ** 4 + 1e-3
    return weights / weights.sum(axis=tuple(range(1, length + 1)), keepdims=True)


def token_logprobs(sequences: Table, d: tuple[int, ...]) -> list[float]:
    """log p(d_t | d_<t) for each t, from a joint table over whole sequences."""
    prefixes = [sequences[d[:t]].sum() for t in range(len(d) + 1)]
    return [math.log(prefixes[t + 1] / prefixes[t]) for t in range(len(d))]


def sentences(table: Table) -> list[tuple[int, ...]]:
    return list(itertools.product(*[range(size) for size in table.shape[1:]]))


def exact_mi(prior: Table, table: Table) -> float:
    """I(D; I) from the definition, on the joint; nats."""
    joint = prior.reshape(-1, *[1] * (table.ndim - 1)) * table
    independent = prior.reshape(-1, *[1] * (table.ndim - 1)) * joint.sum(axis=0)
    return float((joint * np.log(joint / independent)).sum())


def expected_mi(prior: Table, table: Table) -> float:
    """E[Σ_t token_mi] under the text estimator, whose marginal is the table's own."""
    marginal = np.tensordot(prior, table, axes=1)
    return sum(
        float(prior[image] * table[image][d])
        * float(
            token_mi(
                token_logprobs(table[image], d), TextEstimator().combine([token_logprobs(marginal, d)])
            ).sum()
        )
        for image in range(len(prior))
        for d in sentences(table)
    )


def test_binary_channel_has_its_textbook_information() -> None:
    error = 0.25
    table = np.array([[1 - error, error], [error, 1 - error]])
    entropy = -(error * math.log(error) + (1 - error) * math.log(1 - error))
    assert expected_mi(np.array([0.5, 0.5]), table) == pytest.approx(math.log(2) - entropy, abs=NATS)


def test_description_that_ignores_the_image_carries_nothing() -> None:
    table = np.repeat(random_table(0)[:1], 3, axis=0)
    assert expected_mi(np.array([0.2, 0.3, 0.5]), table) == pytest.approx(0, abs=NATS)


@given(seed=st.integers(0, 10_000), length=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_expected_pointwise_mi_is_exact_on_random_tables(seed: int, length: int) -> None:
    table = random_table(seed, length=length)
    prior = np.random.default_rng(seed + 1).dirichlet([1.0, 1.0, 1.0]) * 0.97 + 0.01
    assert expected_mi(prior, table) == pytest.approx(exact_mi(prior, table), abs=NATS)


def test_with_questions_it_is_the_conditional_information() -> None:
    # p(q) and for each q its own prior of images and its own table: I(D; I | Q) = Σ_q p(q) I(D; I | Q = q).
    questions = [0.3, 0.7]
    priors = [np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.1, 0.8])]
    tables = [random_table(1), random_table(2)]
    conditional = 0.0
    for p_q, prior, table in zip(questions, priors, tables, strict=True):
        joint = p_q * prior[:, None, None] * table
        conditional_table = joint.sum(axis=0) / p_q
        conditional += float((joint * np.log(table / conditional_table)).sum())
    estimate = sum(
        p * expected_mi(prior, table) for p, prior, table in zip(questions, priors, tables, strict=True)
    )
    assert estimate == pytest.approx(conditional, abs=NATS)


@given(seed=st.integers(0, 10_000), length=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_reference_over_every_image_is_the_marginal_of_a_uniform_prior(seed: int, length: int) -> None:
    table = random_table(seed, length=length)
    marginal = table.mean(axis=0)
    for d in sentences(table):
        combined = ReferenceEstimator().combine([token_logprobs(row, d) for row in table])
        assert combined == pytest.approx(token_logprobs(marginal, d), abs=NATS)


def test_reference_is_the_mean_of_sequences_not_of_tokens() -> None:
    # One reference says "ab", the other "ba": after "a" only the first is left, and it says "b" for certain.
    certain, never = math.log(0.998), math.log(0.001)
    combined = ReferenceEstimator().combine([[certain, certain], [never, never]])
    assert sum(combined) == pytest.approx(math.log((0.998**2 + 0.001**2) / 2), abs=NATS)
    assert combined[1] > math.log(0.99)
    assert combined[1] > math.log((0.998 + 0.001) / 2) + 0.5


def test_reference_never_turns_an_impossible_token_into_nan() -> None:
    combined = ReferenceEstimator().combine([[-1.0, -math.inf, -1.0], [-2.0, -math.inf, -1.0]])
    assert combined[1:] == (-math.inf, -math.inf)
    assert ReferenceEstimator().combine([[], []]) == ()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_reference_bounds_hold_over_every_draw_of_images(seed: int) -> None:
    # K images drawn from the prior, the first of them the true one; expectation by enumerating all draws.
    table = random_table(seed)
    prior, count = np.array([0.5, 0.3, 0.2]), 3
    below = above = 0.0
    for draw in itertools.product(range(len(prior)), repeat=count):
        for d in sentences(table):
            per_image = [token_logprobs(table[image], d) for image in draw]
            weight = float(np.prod(prior[list(draw)]) * table[draw[0]][d])
            among = float(token_mi(per_image[0], ReferenceEstimator().combine(per_image)).sum())
            assert among <= math.log(count) + NATS
            below += weight * among
            above += weight * float(token_mi(per_image[0], ReferenceEstimator().combine(per_image[1:])).sum())
    exact = exact_mi(prior, table)
    assert below <= exact + NATS
    assert above >= exact - NATS


def test_weight_zero_is_plain_confidence_even_where_the_marginal_is_impossible() -> None:
    assert token_mi([-1.0, -2.0], [-math.inf, -3.0], weight=0).tolist() == [-1.0, -2.0]


def test_weight_scales_the_marginal_alone() -> None:
    assert token_mi([-1.0, -2.0], [-4.0, -3.0], weight=0.5).tolist() == [1.0, -0.5]


def test_clip_bounds_each_token_on_both_sides() -> None:
    assert token_mi([-1.0, -9.0, -1.0], [-9.0, -1.0, -1.5], clip=2.0).tolist() == [2.0, -2.0, 0.5]


def test_token_impossible_under_both_terms_is_worth_nothing() -> None:
    assert token_mi([-math.inf, -1.0], [-math.inf, -3.0]).tolist() == [0.0, 2.0]


def test_token_mi_refuses_terms_of_different_length() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        token_mi([-1.0], [-1.0, -2.0])
    with pytest.raises(ValueError, match="shapes differ"):
        token_mi([[-1.0]], [[-1.0]])


nats = st.one_of(st.floats(-50, 0), st.just(-math.inf))


@given(st.lists(st.tuples(nats, nats), max_size=30), st.randoms(use_true_random=False))
def test_information_share_is_a_share_whatever_the_order(
    tokens: list[tuple[float, float]], numbers: random.Random
) -> None:
    share = information_share([seen for seen, _ in tokens], [unseen for _, unseen in tokens])
    assert 0 <= share <= 1
    numbers.shuffle(tokens)
    assert information_share([seen for seen, _ in tokens], [unseen for _, unseen in tokens]) == share


@given(st.lists(st.tuples(st.floats(-50, 0), st.floats(-50, -1e-3)), min_size=1, max_size=30))
def test_information_share_is_one_less_the_ratio_of_sums(tokens: list[tuple[float, float]]) -> None:
    posterior, prior = sum(seen for seen, _ in tokens), sum(unseen for _, unseen in tokens)
    share = information_share([seen for seen, _ in tokens], [unseen for _, unseen in tokens])
    assert share == pytest.approx(max(1 - posterior / prior, 0), abs=NATS)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_information_share_is_theils_coefficient_of_the_table(seed: int) -> None:
    # Every (image, description) as often as it is likely, to a millionth; entropies from the definition.
    table, prior = random_table(seed, length=1), np.array([0.5, 0.3, 0.2])
    joint = prior[:, None] * table
    marginal = joint.sum(axis=0)
    counts = np.rint(joint * 1e6).astype(int).ravel()
    seen, unseen = np.log(table).ravel(), np.tile(np.log(marginal), len(prior))
    share = information_share(np.repeat(seen, counts), np.repeat(unseen, counts))
    entropy = -float((marginal * np.log(marginal)).sum())
    assert share == pytest.approx(exact_mi(prior, table) / entropy, abs=1e-4)


@pytest.mark.parametrize(
    ("logprobs", "marginals", "share"),
    [
        ([], [], 0),
        ([0.0, 0.0], [0.0, 0.0], 0),
        ([-1.0], [0.0], 0),
        ([-1.0, -2.0], [-math.inf, -2.0], 1),
        ([-math.inf, -1.0], [-3.0, -3.0], 0),
        ([-math.inf, -1.0], [-math.inf, -3.0], 0),
        ([-math.inf, -1.0], [-1.0, -math.inf], 0),
        ([-1.0, 0.0], [-1.0, -3.0], 0.75),
        ([-9.0], [-3.0], 0),
        ([-0.25], [-0.5], 0.5),
        ([0.5], [-1.0], 1),
    ],
)
def test_information_share_at_its_edges(logprobs: list[float], marginals: list[float], share: float) -> None:
    assert information_share(logprobs, marginals) == share


def test_information_share_refuses_terms_of_different_length() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        information_share([-1.0], [-1.0, -2.0])


RED = Image.new("RGB", (4, 2), (200, 0, 0))
STRIPES = Image.new("RGB", (2, 2), (0, 0, 0))
STRIPES.paste((100, 200, 50), (0, 0, 2, 1))
CONVERSATION = Conversation(
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "And now?"}]},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": [{"type": "text", "text": "Here?"}, {"type": "image", "image": STRIPES}]},
    )
)


def test_text_takes_every_image_out_and_nothing_else() -> None:
    (variant,) = TextEstimator().variants(CONVERSATION)
    assert variant.images == []
    assert [message["content"] for message in variant.messages] == [
        "Be brief.",
        [{"type": "text", "text": "And now?"}],
        "Red.",
        [{"type": "text", "text": "Here?"}],
    ]


def test_blank_keeps_sizes_and_mean_colours() -> None:
    (variant,) = BlankEstimator().variants(CONVERSATION)
    red, stripes = variant.images
    assert (red.size, red.getcolors()) == ((4, 2), [(8, (200, 0, 0))])
    assert (stripes.size, stripes.getcolors()) == ((2, 2), [(4, (50, 100, 25))])
    assert BlankEstimator().combine([[-1.0, -2.0]]) == (-1.0, -2.0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_mean_colour_takes_every_mode(mode: str) -> None:
    blank = mean_colour(RED.convert(mode))
    assert (blank.mode, blank.size) == ("RGB", RED.size)


def test_reference_substitutes_each_file_for_all_images() -> None:
    references = (Image.new("RGB", (3, 3)), Image.new("RGB", (5, 5)))
    variants = make_estimator("reference", references).variants(CONVERSATION)
    assert [[image.size for image in variant.images] for variant in variants] == [[(3, 3)] * 2, [(5, 5)] * 2]


def test_reference_without_files_names_the_remedy() -> None:
    with pytest.raises(RequestError, match="reference_images") as caught:
        make_estimator("reference")
    assert caught.value.param == "mirl.estimator"
    assert caught.value.message == (
        "this model has no reference images for the estimator 'reference': list files under "
        "`reference_images` in its mirl.json, or ask for 'text' or 'blank'"
    )


def test_every_estimator_can_be_made_by_name() -> None:
    expected = {"text": TextEstimator, "blank": BlankEstimator, "reference": ReferenceEstimator}
    assert expected == ESTIMATORS
    assert {name: type(make_estimator(name, [RED])) for name in ESTIMATORS} == expected
    assert make_estimator("text") == TextEstimator()


def test_one_variant_estimators_refuse_more() -> None:
    for estimator in (TextEstimator(), BlankEstimator()):
        with pytest.raises(ValueError, match="too many values"):
            estimator.combine([[-1.0], [-1.0]])
    with pytest.raises(ValueError, match="K ≥ 1"):
        ReferenceEstimator().combine([])


def test_the_reference_estimator_in_numbers() -> None:
    combined = ReferenceEstimator().combine([[math.log(0.5), math.log(0.2)], [math.log(0.1), math.log(0.4)]])
    assert combined == pytest.approx((math.log(0.3), math.log((0.1 + 0.04) / 2 / 0.3)), abs=NATS)
    assert all(type(value) is float for value in combined)
    small = np.full((1, 3), -1e-3, dtype=np.float32)
    assert ReferenceEstimator().combine(small) == pytest.approx(small[0].tolist(), rel=1e-12)  # type: ignore[arg-type]
    for table in ([], [-1.0], [[[-1.0]]], np.empty((0, 3))):
        with pytest.raises(ValueError, match="expected"):
            ReferenceEstimator().combine(table)  # type: ignore[arg-type]


def test_the_marginal_of_one_variant_is_floats() -> None:
    for estimator in (TextEstimator(), BlankEstimator()):
        combined = estimator.combine([np.array([-1.0, -2.5], dtype=np.float32)])  # type: ignore[list-item]
        assert combined == (-1.0, -2.5)
        assert all(type(value) is float for value in combined)


def test_token_mi_leaves_its_arguments_alone() -> None:
    logprobs = np.array([-1.0, -3.0])
    for weight in (0.0, 1.0):
        token_mi(logprobs, [-2.0, -2.0], weight)[0] = 99.0
    assert logprobs.tolist() == [-1.0, -3.0]
    for weight in (0.0, 1.0):
        for kind in (np.int64, np.float32):
            values = np.array([-1, -2], dtype=kind)
            assert token_mi(values, values, weight).dtype == np.float64
    assert token_mi([-1.0], [-4.0]).tolist() == [3.0]


def test_a_mean_colour_is_rounded_and_takes_transparent_pixels_as_they_are() -> None:
    half = Image.new("RGB", (2, 2), (0, 0, 0))
    half.paste((3, 2, 1), (0, 0, 1, 1))
    # 0.75, 0.5 (to even) and 0.25.
    assert mean_colour(half).getpixel((1, 1)) == (1, 0, 0)


def test_scoring_passes_of_each_estimator() -> None:
    passes = {
        name: [kind.passes(references) for references in (0, 1, 5)] for name, kind in ESTIMATORS.items()
    }
    assert passes == {"text": [1, 1, 1], "blank": [1, 1, 1], "reference": [0, 1, 5]}
    assert {name: kind.needs_references for name, kind in ESTIMATORS.items()} == {
        "text": False,
        "blank": False,
        "reference": True,
    }


def test_token_mi_is_taken_in_double_precision() -> None:
    single = np.array([-0.1], dtype=np.float32)
    assert token_mi([0.0], single, 0.3).tolist() == [-0.3 * float(single[0])]
    assert token_mi(single, [-0.7]).tolist() == [float(single[0]) + 0.7]
