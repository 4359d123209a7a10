"""Cases: what they carry, and that they are always the same."""

from __future__ import annotations

import pytest

from mirl_core.tasks.worlds.cases import DIGITS_SPLITS, digits_cases


@pytest.mark.parametrize("split", DIGITS_SPLITS)
def test_cases_carry_a_right_and_a_wrong_description(split: str) -> None:
    for case in digits_cases(split, "dev", 60):
        assert case.judge(case.right_description)
        assert case.implied(case.right_description) == case.answer
        assert not case.judge(case.wrong_description)
        assert case.implied(case.wrong_description) == case.wrong_answer != case.answer


def test_cases_are_the_same_every_time() -> None:
    first, again = (digits_cases("digits-iid", "dev", 20) for _ in range(2))
    assert [(c.question, c.wrong_description) for c in first] == [
        (c.question, c.wrong_description) for c in again
    ]
