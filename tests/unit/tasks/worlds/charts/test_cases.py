"""Cases of the charts world: descriptions imply what the case states."""

from __future__ import annotations

import pytest

from mirl_core.tasks.worlds.charts.cases import CHARTS_SPLITS, charts_cases


@pytest.mark.parametrize("split", CHARTS_SPLITS)
def test_descriptions_imply_what_the_case_states(split: str) -> None:
    cases = charts_cases(split, "dev", 40)
    assert len({c.clusters for c in cases}) == 40
    for case in cases:
        assert case.split == split
        assert case.image.size == (64, 64)
        assert case.judge(case.right_description)
        assert not case.judge(case.wrong_description)
        assert case.implied(case.right_description) == case.answer
        assert case.implied(case.wrong_description) == case.wrong_answer != case.answer
        assert case.implied("a chart") is None


def test_cases_are_the_same_every_time_and_a_prefix_of_more() -> None:
    few, more = charts_cases("charts-iid", "test", 5), charts_cases("charts-iid", "test", 9)
    assert [(c.question, c.right_description, c.wrong_answer) for c in few] == [
        (c.question, c.right_description, c.wrong_answer) for c in more[:5]
    ]
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(few, more, strict=False))
