"""Fan-out of a request, its least `max_total_tokens`, and how many tokens each stage may have of it."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.algorithm.budget import (
    DRAFTING,
    Fanout,
    chain_limit,
    check_budget,
    description_limit,
    fanout,
    may_switch,
    scored_tokens,
)
from mirl_core.config import MIRLOptions
from mirl_core.errors import RequestError


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"descriptions": 1, "keep": 1, "forks": 1}, 2),
        ({"descriptions": 10, "keep": 2, "forks": 3}, 20),
        ({"descriptions": 4, "keep": 3, "forks": 5}, 30),
        ({"descriptions": 4, "keep": 20, "forks": 2}, 16),
        ({"descriptions": 10, "keep": 2, "forks": 3, "gate": "none"}, 60),
        ({"descriptions": 10, "keep": 2, "forks": 3, "gate": "random"}, 20),
        # Decoded descriptions count fourfold; two chains at most, one of each.
        ({"contrast": (0.0, 1.0), "descriptions": 0}, 16),
        ({"contrast": (0.0, 1.0), "descriptions": 3}, 22),
        ({"contrast": (1.0,), "prior_votes": (9,), "descriptions": 0, "share_chains": False}, 18),
        ({"contrast": (1.0,), "prior_votes": (9,), "descriptions": 0}, 8),
    ],
)
def test_two_tokens_for_every_sequence_of_the_larger_half(options: dict[str, Any], needed: int) -> None:
    check_budget(MIRLOptions(**options, max_total_tokens=needed))
    check_budget(MIRLOptions(**options))
    with pytest.raises(RequestError) as caught:
        check_budget(MIRLOptions(**options, max_total_tokens=needed - 1))
    assert caught.value.param == "mirl.max_total_tokens"
    assert caught.value.message == (
        f"mirl.max_total_tokens leaves {needed - 1} for an answer, but this many descriptions and chains "
        f"need at least {needed}; raise it or lower mirl.descriptions, mirl.keep or mirl.forks"
    )


# N = 5, k = 3, m = 2, descriptions of at most 10 tokens.
FIVE: dict[str, Any] = {"descriptions": 5, "keep": 3, "forks": 2, "description_tokens": 10}


@pytest.mark.parametrize(
    ("changed", "max_tokens", "request_", "expected"),
    [
        ({}, 100, {}, Fanout(descriptions=5, chains=6, tokens=650, scored_tokens=0)),
        ({}, 7, {"passes": 1}, Fanout(descriptions=5, chains=6, tokens=77, scored_tokens=35)),
        ({}, 100, {"answers": 2, "passes": 3}, Fanout(10, 12, 1300, 300)),
        ({}, 100, {"forks": False, "passes": 2}, Fanout(5, 0, 50, 100)),
        ({"gate": "none"}, 100, {}, Fanout(5, 10, 1050, 0)),
        ({"keep": 9}, 100, {}, Fanout(5, 10, 1050, 0)),
        ({"max_total_tokens": 600}, 100, {"passes": 1}, Fanout(5, 6, 600, 50)),
        ({"max_total_tokens": 651}, 100, {}, Fanout(5, 6, 650, 0)),
        # Two decoded descriptions of 4 · 10 drafted tokens, and five samples.
        ({"contrast": (0.0, 1.0)}, 100, {"passes": 1}, Fanout(7, 7, 830, 130)),
        ({"contrast": (0.0, 1.0), "prior_votes": (3, 1)}, 100, {}, Fanout(7, 7, 830, 0)),
        (
            {"contrast": (0.0, 1.0), "prior_votes": (3, 1), "share_chains": False},
            100,
            {},
            Fanout(7, 9, 1030, 0),
        ),
        ({"contrast": (0.0, 1.0)}, 100, {"answers": 3}, Fanout(21, 21, 2490, 0)),
        # Describing alone samples none.
        ({"contrast": (0.0, 1.0)}, 100, {"forks": False}, Fanout(2, 0, 80, 0)),
    ],
)
def test_what_a_request_may_come_to(
    changed: dict[str, Any], max_tokens: int, request_: dict[str, Any], expected: Fanout
) -> None:
    reckoned = fanout(MIRLOptions(**FIVE | changed), max_tokens, **request_)
    assert reckoned == expected
    assert reckoned.sequences == expected.descriptions + expected.chains


@pytest.mark.parametrize(
    ("changed", "max_tokens", "limit"),
    [
        ({}, 64, 10),
        ({}, 8, 8),
        # Half of 99 tokens for five descriptions.
        ({"max_total_tokens": 99}, 64, 9),
        ({"max_total_tokens": 100}, 64, 10),
        ({"max_total_tokens": 99}, 8, 8),
        ({"max_total_tokens": 6000}, 64, 10),
        # Half of 103 tokens for five samples and two decodes of four parts.
        ({"max_total_tokens": 103, "contrast": (0.0, 1.0)}, 64, 3),
        ({"max_total_tokens": 104, "contrast": (0.0, 1.0)}, 64, 4),
    ],
)
def test_how_long_a_description_may_be(changed: dict[str, Any], max_tokens: int, limit: int) -> None:
    assert description_limit(MIRLOptions(**FIVE | changed), max_tokens) == limit


@pytest.mark.parametrize(
    ("total", "max_tokens", "used", "chains", "limit"),
    [
        (None, 64, 9, 6, 64),
        (50, 64, 9, 6, 6),
        (50, 5, 9, 6, 5),
        (50, 64, 42, 4, 2),
        (50, 64, 46, 4, 1),
        # A chain has a token where nothing is left.
        (50, 64, 50, 4, 1),
        (50, 64, 60, 4, 1),
        (5000, 64, 9, 6, 64),
    ],
)
def test_how_long_a_chain_may_be(
    total: int | None, max_tokens: int, used: int, chains: int, limit: int
) -> None:
    options = MIRLOptions(**FIVE, max_total_tokens=total)
    assert chain_limit(options, max_tokens, used, chains) == limit


def test_every_pass_scores_each_description_behind_its_opening_tag() -> None:
    assert scored_tokens(2, 3, [4, 5]) == 2 * (3 + 4 + 3 + 5)
    assert scored_tokens(1, 0, iter([4])) == 4
    assert scored_tokens(0, 3, [4]) == scored_tokens(2, 3, []) == 0


@pytest.mark.parametrize("limit", [1, 7, 64])
@pytest.mark.parametrize("draft_tokens", [1, 3, 8, 64])
def test_a_decode_that_switches_whenever_it_may_stays_within_its_drafts(
    limit: int, draft_tokens: int
) -> None:
    """The worst case: every draft is replaced at its first token, while the next one is under way."""
    drafted = position = switches = 0
    while position < limit:
        draft = min(draft_tokens, limit - position)
        ahead = min(draft_tokens, limit - position - draft)
        drafted += draft
        if may_switch(drafted + ahead, position, limit):
            drafted, position, switches = drafted + ahead, position + 1, switches + 1
        else:
            position += draft
    assert drafted <= DRAFTING * limit
    assert switches > 0
    assert draft_tokens > 1 or switches == limit
