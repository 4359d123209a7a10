"""Which rows share an optimiser step, and which a forward pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirl_core.training.rl.model.splitting import split_passes, split_updates
from mirl_core.training.rl.planners.rows import TrainingRow
from mirl_core.types import Conversation

PROMPTS = [Conversation(({"role": "user", "content": str(place)},)) for place in range(4)]


def row(prompt: int, length: int, group: str = "g") -> TrainingRow:
    return TrainingRow(
        PROMPTS[prompt], (9,) * length, (True,) * length, (0.0,) * length, 1.0, "reasoning", group
    )


rows = st.lists(st.builds(row, st.integers(0, 3), st.integers(1, 30), st.sampled_from("abcde")), max_size=30)


@given(rows, st.integers(1, 5))
def test_updates_take_every_row_once_and_keep_groups_whole(some: list[TrainingRow], updates: int) -> None:
    parts = split_updates(some, updates)
    assert len(parts) == updates
    assert sorted(id(training_row) for part in parts for training_row in part) == sorted(map(id, some))
    for group in {training_row.group for training_row in some}:
        assert sum(any(training_row.group == group for training_row in part) for part in parts) == 1


def test_updates_are_of_similar_size() -> None:
    some = [row(0, 1, group) for group in "abcdef" for _ in range(4)]
    assert [len(part) for part in split_updates(some, 3)] == [8, 8, 8]
    assert [{training_row.group for training_row in part} for part in split_updates(some, 2)] == [
        set("abc"),
        set("def"),
    ]


@given(rows, st.integers(1, 8), st.booleans())
def test_passes_take_every_row_once(some: list[TrainingRow], passes: int, once: bool) -> None:
    parts = split_passes(some, passes, lambda _: 10, once)
    assert len(parts) == passes
    assert sorted(id(training_row) for part in parts for training_row in part) == sorted(map(id, some))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == split_passes(some, passes, lambda _: 10, once)


def test_short_prompts_sort_by_length() -> None:
    some = [row(prompt, length) for prompt in range(2) for length in (5, 50)]
    parts = split_passes(some, 2, lambda _: 3, prompts_once=True)
    assert [[len(training_row.completion_ids) for training_row in part] for part in parts] == [
        [5, 5],
        [50, 50],
    ]


def test_long_prompts_stay_together() -> None:
    some = [row(prompt, length) for prompt in range(2) for length in (5, 50)]
    parts = split_passes(some, 2, lambda _: 1000, prompts_once=True)
    assert [{id(training_row.prompt) for training_row in part} for part in parts] == [
        {id(PROMPTS[0])},
        {id(PROMPTS[1])},
    ]


def test_a_prompt_s_length_counts_where_rows_carry_it() -> None:
    some = [row(0, 9), row(1, 8), row(0, 7), row(1, 6)]
    parts = split_passes(
        some, 2, lambda training_row: 100 if training_row.prompt is PROMPTS[0] else 1, prompts_once=False
    )
    assert [{id(training_row.prompt) for training_row in part} for part in parts] == [
        {id(PROMPTS[1])},
        {id(PROMPTS[0])},
    ]
