"""The light-KV benchmark's figures, arms and pictures."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from tests.benchmarks.light_kv.arms import bounded, named_arms
from tests.benchmarks.light_kv.engines import rounding
from tests.benchmarks.light_kv.figures import compare, same_choice, shared_blocks, table, unshared_blocks
from tests.benchmarks.light_kv.measure import Measured


def question(key: str) -> Question:
    return Question(key, "How many?", "2", image=lambda: Image.new("RGB", (64, 48)), clusters=(key,))


QUESTIONS = [question(str(number)) for number in range(4)]


def run(right: bool, mi: tuple[float, ...], blocks: int = 10) -> Measured:
    return Measured("2" if right else "3", right, mi, 30, 100, blocks)


def test_choices_agree_where_the_best_do() -> None:
    assert same_choice((3.0, 2.0, 1.0), (2.9, 2.1, 0.0), 1) == 1
    assert same_choice((3.0, 2.0, 1.0), (0.0, 2.0, 1.0), 1) == 0
    assert same_choice((3.0, 2.0, 1.0), (0.0, 2.0, 1.0), 2) == 0.5
    assert same_choice((3.0, 2.0), (2.0, 3.0), 6) == 1
    assert same_choice((), (), 2) == 1
    # Equal MI: the earlier description, in both.
    assert same_choice((1.0, 1.0), (1.0, 1.0), 1) == 1


def test_branches_share_the_full_blocks_of_their_prompt() -> None:
    assert shared_blocks(65, [10, 10], 32) == 2 + 2
    # The last token is computed anew, and its block with it.
    assert shared_blocks(64, [10, 10], 32) == 1 + 4
    assert unshared_blocks(64, [10, 10], 32) == 3 + 3
    # A prompt below a block is in every branch.
    assert shared_blocks(30, [10, 40], 32) == unshared_blocks(30, [10, 40], 32) == 2 + 3


def test_an_arm_is_compared_with_the_reference_question_by_question() -> None:
    full = {each.key: run(True, (1.0, 0.5)) for each in QUESTIONS}
    light = full | {"0": run(False, (0.4, 0.6), 6)}
    figures = compare(QUESTIONS, light, full, keep=1)
    assert figures["accuracy"][0] == 0.75
    assert figures["difference"][0] == pytest.approx(-0.25)
    assert figures["same_answer"][0] == figures["same_best"][0] == figures["same_kept"][0] == 0.75
    assert figures["mi_gap"] == pytest.approx((0.6 + 0.1) / 8)
    assert figures["mi_spread"] == pytest.approx(0.5)
    assert (figures["blocks"], figures["most_blocks"]) == (9.0, 10)
    low, high = figures["same_answer"][1:]
    assert 0 <= low < 0.75 < high <= 1


def test_the_table_has_a_row_for_each_arm_and_says_what_was_refused() -> None:
    full = {each.key: run(True, (1.0, 0.5)) for each in QUESTIONS}
    figures = compare(QUESTIONS, full, full, keep=1)
    result = {
        "reference": "full",
        "block_tokens": 32,
        "arms": {
            "full": {"figures": figures, "bytes_per_token": 2560},
            "fp8": {"figures": figures, "bytes_per_token": 1280},
            "tiny": {"refused": "no such size"},
        },
    }
    lines = table(result).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    # Ten blocks of 32 tokens.
    assert lines[2].endswith("| 2560 | 10.0 | 800 |")
    assert lines[3].endswith("| 1280 | 10.0 | 400 |")
    assert "refused: no such size" in lines[4]


def test_arms_of_one_engine_run_together() -> None:
    assert [arm.name for arm in named_arms("full,fp8,side32,full")] == ["full", "side32", "fp8"]
    with pytest.raises(ConfigError, match="'fp4'"):
        named_arms("full,fp4")


def test_pictures_are_scaled_as_the_clients_do_it() -> None:
    whole = question("q")
    assert bounded(whole, None) is whole
    assert bounded(whole, 32).image().size == (32, 24)
    assert bounded(whole, 100).image().size == (64, 48)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float8_e4m3fn, (1.0, 1.125, -448.0)), (torch.float8_e5m2, (1.0, 1.0, -1024.0))]
)
def test_keys_and_values_are_rounded_to_the_type_inside_the_context(
    dtype: torch.dtype, kept: tuple[float, ...]
) -> None:
    # 1.1 lies between two values of each type; -1000 is beyond the smallest of e4m3, which has no infinity.
    states = torch.tensor([1.0, 1.1, -1000.0]).reshape(1, 1, 1, 3)
    with rounding(dtype):
        inside = DynamicCache().update(states, states, 0)
    outside = DynamicCache().update(states, states, 0)
    for rounded, exact in zip(inside, outside, strict=True):
        assert tuple(rounded.flatten().tolist()) == kept
        assert torch.equal(exact, states)
