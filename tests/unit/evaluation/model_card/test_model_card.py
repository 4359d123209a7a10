"""The report's own arithmetic: turns, tables, calibration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from mirl_core.evaluation.model_card import _worlds, measures, report
from mirl_core.evaluation.model_card.bench import Bench, BenchPrompt
from mirl_core.evaluation.model_card.measures import (
    MEASURES,
    ParsedTurn,
    SplitFigures,
    calibrate,
    parse_turn,
    tabulate,
    turns_of,
    value_bins,
)
from mirl_core.tasks.worlds.cases import WorldCase, digits_cases
from mirl_core.tasks.worlds.digits_language import FAMILY_SHARES
from mirl_core.training.recipe import Recipe


def test_a_turn_is_taken_apart_or_not_at_all() -> None:
    assert parse_turn("<description>a</description><think>b</think><answer>c</answer>") == ParsedTurn(
        "a", "b", "c"
    )
    assert parse_turn("<description>a</description><think>b</think>") == ParsedTurn(None, None, None)


def test_each_measure_has_the_n_of_its_own_cases() -> None:
    """Swapped-in descriptions are tried on the first cases only: their figures and their `n` are of these."""
    cases = digits_cases("digits-iid", "dev", 60)
    few = 20
    hits = {m: [1.0] * 60 for m in MEASURES} | {"faithful_greedy": [1.0] * 10 + [0.0] * 10}
    table = tabulate(cases, hits)
    assert list(table)[-1] == "all"
    assert sum(row["greedy_answer"].n for row in table.values()) == 2 * 60
    assert sum(row["faithful_greedy"].n for row in table.values()) == 2 * few
    assert (table["all"]["faithful_greedy"].mean, table["all"]["faithful_greedy"].n) == (0.5, few)
    text = report.overall_table([SplitFigures("digits-iid", table)])
    assert text.count(f"(n = {few})") == 1
    families = report.family_table(SplitFigures("digits-iid", table))
    assert f"| all | 60 | {table['all']['sampled_answer']} |" in families
    assert f"{table['all']['faithful_greedy']} (n = {few})" in families


class ScriptedBench(Bench):
    """Answers every prompt as a perfect, faithful model would, and keeps the prompts."""

    def __init__(self, cases: Sequence[WorldCase]) -> None:
        self.by_question = {(c.question, id(c.image)): c for c in cases}
        self.prompts: list[tuple[BenchPrompt, float]] = []

    def complete(
        self, prompts: Sequence[BenchPrompt], temperatures: Sequence[float], tokens: int = 120
    ) -> list[str]:
        self.prompts += zip(prompts, temperatures, strict=True)
        return [self._answer(p) for p in prompts]

    def _answer(self, prompt: BenchPrompt) -> str:
        case = self.by_question[prompt.question, id(prompt.image)]
        said = prompt.prefix or f"<description>{case.right_description}</description>"
        text = said.removeprefix("<description>").removesuffix("</description>")
        return f"{said}<think>so</think><answer>{case.implied(text)}</answer>"


def test_a_split_is_measured_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "SWAPPED", 12)
    monkeypatch.setattr(measures, "_CHUNK", 7)
    cases = digits_cases("digits-shifted", "dev", 30)
    bench = ScriptedBench(cases)
    done: list[int] = []
    row = measures.measure_split(bench, cases, done.append).by_family["all"]
    assert {m: (e.mean, e.n) for m, e in row.items()} == {
        m: (1.0, 12 if m.startswith(("faithful", "reasoning")) else 30) for m in MEASURES
    }
    assert sum(done) == len(bench.prompts) == turns_of(30) == 2 * 30 + 4 * 12
    # Turns about one picture stand together, half of them sampled.
    pictures = [id(p.image) for p, _ in bench.prompts]
    assert list(dict.fromkeys(pictures)) == [key for key, _ in itertools.groupby(pictures)]
    assert sum(t for _, t in bench.prompts) == len(bench.prompts) / 2


def test_the_worlds_are_described_by_their_own_constants() -> None:
    text = _worlds()
    assert "{" not in text
    assert f"with {Recipe.model_fields['ambiguous'].default:.0%} of `ambiguous`" in text
    for family, share in FAMILY_SHARES.items():
        assert f"`{family}` {share:.0%}" in text


def test_calibrated_probabilities_have_no_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=20000)
    truth = (rng.random(20000)[:, None] > p.cumsum(1)).sum(1)
    figures = calibrate(p, truth, [(str(i),) for i in range(len(p))])
    assert figures.expected_error < 0.01
    assert sum(b.n for b in value_bins(p, truth)) == p.size
    # The most likely value is right about as often as it claims.
    assert abs(figures.right_top.mean - figures.mean_confidence) < 0.01
