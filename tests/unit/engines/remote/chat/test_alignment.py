"""Log-probabilities of one tokenization given to the tokens of another: sums stay, places agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.engines.remote.chat.alignment import ends, spread


def cumulated(lengths: list[int]) -> list[int]:
    return [sum(lengths[: count + 1]) for count in range(len(lengths))]


pieces = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@given(pieces, pieces, st.data())
def test_the_sum_stays_the_same(there: list[int], here: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(-20.0, 0.0), min_size=len(there), max_size=len(there)))
    result = spread(values, cumulated(there), cumulated(here))
    assert len(result) == len(here)
    assert sum(result) == pytest.approx(sum(values), abs=1e-6)


@given(pieces, st.data())
def test_the_same_tokens_keep_their_values(lengths: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(-20.0, 0.0), min_size=len(lengths), max_size=len(lengths)))
    assert spread(values, cumulated(lengths), cumulated(lengths)) == pytest.approx(values)


def test_a_token_is_divided_by_characters() -> None:
    assert spread([-4.0, -1.0], [4, 5], [1, 4, 5]) == pytest.approx([-1.0, -3.0, -1.0])
    assert spread([-1.0, -2.0, -3.0], [1, 2, 3], [3]) == pytest.approx([-6.0])
    assert spread([-1.0], [3], []) == []
    # A token without text, and text that no token here has.
    assert spread([-1.0, -2.0], [2, 2], [1, 2]) == pytest.approx([-0.5, -2.5])
    assert spread([-1.0, -2.0], [2, 4], [2]) == pytest.approx([-3.0])


def test_a_token_within_a_character_ends_where_the_character_begins() -> None:
    def decode(ids: object) -> str:
        return bytes(ids).decode(errors="replace")  # type: ignore[call-overload,no-any-return]

    assert ends(list("aé".encode()), decode) == [1, 2, 2]
