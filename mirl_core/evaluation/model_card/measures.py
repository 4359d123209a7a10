"""Measures of the model on each split, from cases and a bench: figures with intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mirl_core.evaluation.measures.statistics import Bin, expected_error, reliability
from mirl_core.evaluation.model_card.bench import Bench, BenchPrompt
from mirl_core.tasks.resampling import Estimate, Resampling
from mirl_core.tasks.worlds import digits
from mirl_core.tasks.worlds.cases import WorldCase

_LEAST = 1e-7
"""Smallest probability that is reported: a model's zero has no logarithm."""
_MISSING = math.log(_LEAST)
_TRAJECTORY = re.compile(
    r"<description>(.*?)</description><think>(.*?)</think><answer>(.*?)</answer>", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class SplitFigures:
    """One split's figures; keys of `by_family` end with "all"."""

    split: str
    by_family: Mapping[str, Mapping[str, Estimate]]
    """Family → measure → estimate; measures of swapped-in descriptions have fewer cases than the others."""


MEASURES = {
    "sampled_answer": "one sampled trajectory (T = 1): answer right",
    "sampled_description": "one sampled trajectory: description right",
    "greedy_answer": "greedy: answer right",
    "greedy_description": "greedy: description right",
    "faithful_greedy": "wrong description swapped in, greedy: answer is the one it implies",
    "faithful_sampled": "the same, sampled",
    "reasoning_greedy": "right description swapped in, greedy: answer right",
    "reasoning_sampled": "the same, sampled",
}


SWAPPED = 1500
"""Number of a split's first cases that are also continued from swapped-in descriptions. These turns are
four of a case's six; so many cases give a share of 95% to about a point, and easy-VQA has 9,673 questions."""
_TEMPERATURES = {"sampled": 1.0, "greedy": 0.0}
_CHUNK = 256
"""Cases in one call of vLLM: enough for a full batch, few enough for a progress bar to move."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """Parts of an assistant's turn; None where the format is broken."""

    description: str | None
    reasoning: str | None
    answer: str | None


def parse_turn(text: str) -> ParsedTurn:
    """Return description, reasoning and answer of a turn."""
    match = _TRAJECTORY.match(text)
    return ParsedTurn(None, None, None) if match is None else ParsedTurn(*match.groups())


def turns_of(cases: int) -> int:
    """Return the number of turns that `measure_split` generates for `cases` cases."""
    return len(_TEMPERATURES) * (cases + 2 * min(cases, SWAPPED))


def measure_split(bench: Bench, cases: Sequence[WorldCase], advance: Callable[[int], None]) -> SplitFigures:
    """Return all `MEASURES` on one split; `advance` is called with the number of turns done."""
    hits: dict[str, list[float]] = {m: [] for m in MEASURES}
    for begin in range(0, len(cases), _CHUNK):
        # A case's turns side by side share its picture (see `Bench.complete`).
        turns = [
            (case, mode, prefix)
            for i, case in enumerate(cases[begin : begin + _CHUNK], begin)
            for mode in _TEMPERATURES
            for prefix in ("", case.wrong_description, case.right_description)[: 3 if i < SWAPPED else 1]
        ]
        texts = bench.complete(
            [BenchPrompt(c.question, c.image, d and f"<description>{d}</description>") for c, _, d in turns],
            [_TEMPERATURES[mode] for _, mode, _ in turns],
        )
        for (case, mode, prefix), text in zip(turns, texts, strict=True):
            turn = parse_turn(text)
            if not prefix:
                right = turn.description is not None and case.judge(turn.description)
                hits[f"{mode}_answer"].append(float(turn.answer == case.answer))
                hits[f"{mode}_description"].append(float(right))
            elif prefix == case.wrong_description:
                hits[f"faithful_{mode}"].append(float(turn.answer == case.wrong_answer))
            else:
                hits[f"reasoning_{mode}"].append(float(turn.answer == case.answer))
        advance(len(turns))
    return SplitFigures(cases[0].split, tabulate(cases, hits))


def tabulate(
    cases: Sequence[WorldCase], hits: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, Estimate]]:
    """Return family (and "all") → measure → estimate; a measure's hits belong to the first cases."""
    table: dict[str, dict[str, Estimate]] = {}
    for family in (*sorted({c.family for c in cases}), "all"):
        chosen = [i for i, c in enumerate(cases) if family in (c.family, "all")]
        # Measures on equally many cases share the draws.
        drawn: dict[int, Resampling] = {}
        table[family] = {}
        for name, values in hits.items():
            have = [i for i in chosen if i < len(values)]
            if len(have) not in drawn:
                drawn[len(have)] = Resampling([cases[i].clusters for i in have])
            table[family][name] = drawn[len(have)].proportion([values[i] for i in have])
    return table


@dataclass(frozen=True, slots=True)
class Readings:
    """The model's probabilities for every digit and colour of a split's scenes, conditional on the earlier
    ones."""

    split: str
    digit: np.ndarray
    """[objects, 10] probabilities."""
    digit_truth: np.ndarray
    """[objects] 0..9."""
    colour: np.ndarray
    """[objects, 4] probabilities."""
    colour_truth: np.ndarray
    """[objects] 0..3."""
    colour_exact: np.ndarray
    """[objects, 4]: the exact posterior under the language prior that the model was trained with."""
    clusters: tuple[tuple[str, ...], ...]
    """[objects]: the scene and the glyphs of each object."""


def read_objects(bench: Bench, cases: Sequence[WorldCase], advance: Callable[[int], None]) -> Readings:
    """Force the true full description, and read the model's probabilities at every colour and digit.

    `advance` is called with the number of cases done.
    """
    colour_ids = [_only(bench, f" {name}") for name in digits.COLOURS]
    digit_ids = [_only(bench, f" {d}") for d in range(10)]
    prompts = [BenchPrompt(c.question, c.image, f"<description>{_full(c)}") for c in cases]
    readings: list[tuple[list[int], list[Mapping[int, float]]]] = []
    for start in range(0, len(prompts), _CHUNK):
        readings += bench.prompt_logprobs(prompts[start : start + _CHUNK])
        advance(len(readings) - start)
    colour, digit, objects, clusters = [], [], [], []
    for case, (ids, tops) in zip(cases, readings, strict=True):
        scene = case.scene
        assert scene is not None
        begin = len(ids) - 1 - ids[::-1].index(_only(bench, "<description>"))
        for scene_object in scene.objects:
            at = next(
                i
                for i in range(begin, len(ids))
                if ids[i] == colour_ids[scene_object.colour] and i + 1 < len(ids)
            )
            assert ids[at + 1] == digit_ids[scene_object.digit]
            colour.append(_distribution(tops[at], colour_ids))
            digit.append(_distribution(tops[at + 1], digit_ids))
            objects.append((scene, scene_object))
            glyphs = (
                (scene_object.glyph, scene_object.other_glyph)
                if scene_object.blend
                else (scene_object.glyph,)
            )
            clusters.append((scene.name, *(f"glyph-{g}" for g in glyphs)))
            begin = at + 2
    return Readings(
        cases[0].split,
        np.array(digit),
        np.array([t.digit for _, t in objects]),
        np.array(colour),
        np.array([t.colour for _, t in objects]),
        np.array([digits.colour_posterior(t, s.kind, "iid") for s, t in objects]),
        tuple(clusters),
    )


def _full(case: WorldCase) -> str:
    assert case.scene is not None
    return ", ".join(
        f"{digits.CELLS[t.cell]} {digits.COLOURS[t.colour]} {t.digit}" for t in case.scene.objects
    )


def _only(bench: Bench, text: str) -> int:
    ids = bench.tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 1, text
    return int(ids[0])


def _distribution(top: Mapping[int, float], ids: Sequence[int]) -> list[float]:
    logits = np.array([top.get(i, _MISSING) for i in ids])
    weights = np.exp(logits - logits.max())
    return list(weights / weights.sum())


@dataclass(frozen=True, slots=True)
class Calibration:
    """Summary of one attribute's probabilities on one split; nats and shares."""

    right_top: Estimate
    """Share of objects whose most likely value is the truth."""
    right_sampled: Estimate
    """Mean probability of the truth: the accuracy of one sample."""
    mean_confidence: float
    """Mean probability of the most likely value."""
    nats: Estimate
    """Mean -log p(truth)."""
    expected_error: float
    """Expected calibration error over ten bins of all values' probabilities."""


def calibrate(p: np.ndarray, truth: np.ndarray, clusters: Sequence[Sequence[str]]) -> Calibration:
    """Return the calibration of probabilities [objects, values] against the truth [objects]."""
    rows = np.arange(len(p))
    p_truth = np.clip(p[rows, truth], _LEAST, 1.0)
    error = expected_error(value_bins(p, truth))
    assert error is not None, "no objects"
    resampling = Resampling(clusters)
    return Calibration(
        resampling.proportion((p.argmax(1) == truth).astype(float)),
        resampling.bounded(p_truth, 0.0, 1.0),
        float(p.max(1).mean()),
        resampling.bounded(-np.log(p_truth), 0.0, -math.log(_LEAST)),
        error,
    )


def value_bins(p: np.ndarray, truth: np.ndarray) -> list[Bin]:
    """Return ten equal bins over the probabilities [objects, values]; right is each object's `truth`
    [objects]."""
    return reliability(p, np.eye(p.shape[1])[truth])
