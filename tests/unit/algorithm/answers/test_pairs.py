"""Pairs of spellings that are one answer, and pairs that are two: drawn from what published graders document.

`pairs/same.jsonl` and `pairs/different.jsonl` name the rule that a pair is an example of, and where the rule
is documented: lmms-eval (its VQA and MCQ processors, ChartQA's rule, the judge's "both value and unit"),
Math-Verify's tests, HELM's quasi exact match and MATH equivalence, OpenAI's evals and simple-evals; `mirl`
where none has it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from mirl_core.algorithm.answers import equivalent, group, normalize

FOLDER = Path(__file__).parent / "pairs"
SOURCES = {"lmms-eval", "math-verify", "helm", "openai-evals", "mirl"}


@cache
def read(name: str) -> tuple[dict[str, str], ...]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return tuple(json.loads(line) for line in lines if line)


def rules(name: str) -> list[str]:
    return sorted({pair["rule"] for pair in read(name)})


@pytest.mark.parametrize("name", ["same", "different"])
def test_the_sets_are_large_and_say_where_they_come_from(name: str) -> None:
    pairs = read(name)
    assert len(pairs) >= 200
    assert len({frozenset((pair["a"], pair["b"])) for pair in pairs}) == len(pairs)
    assert {pair["source"] for pair in pairs} == SOURCES
    assert all(pair["a"] != pair["b"] for pair in pairs)


@pytest.mark.parametrize("rule", rules("same"))
def test_spellings_of_one_answer_merge(rule: str) -> None:
    for pair in read("same"):
        if pair["rule"] == rule:
            a, b = normalize(pair["a"]), normalize(pair["b"])
            assert equivalent(a, b), (pair, a, b)
            assert equivalent(b, a)
            assert a.clusterable
            assert group([pair["a"], pair["b"]]) == group([pair["b"], pair["a"]]) == [[0, 1]]


@pytest.mark.parametrize("rule", rules("different"))
def test_different_answers_stay_apart(rule: str) -> None:
    for pair in read("different"):
        if pair["rule"] == rule:
            a, b = normalize(pair["a"]), normalize(pair["b"])
            assert not equivalent(a, b), (pair, a)
            assert not equivalent(b, a)
            assert group([pair["a"], pair["b"]]) == group([pair["b"], pair["a"]]) == [[0], [1]]


def test_no_pair_is_in_both_sets() -> None:
    same, different = (
        {frozenset((pair["a"], pair["b"])) for pair in read(name)} for name in ("same", "different")
    )
    assert same.isdisjoint(different)
