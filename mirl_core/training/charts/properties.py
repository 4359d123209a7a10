"""Properties of a stage's model on the charts world, on dev data: what votes can gain over greedy decoding.

For each kind of scenes: greedy decoding against votes at several temperatures, single trajectories, lengths,
how often two chains of one right description disagree, faithfulness to a wrong description, calibration of
the values read, and what descriptions mention. Intervals are 95% (`mirl_core/tasks/resampling.py`): Wilson's
for shares, a bootstrap over scenes for paired differences.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch

from mirl_core.errors import ConfigError
from mirl_core.tasks.resampling import Resampling
from mirl_core.tasks.worlds.charts import language, reasoning
from mirl_core.tasks.worlds.charts.scenes import FRUITS, LARGEST, USUAL, Kind
from mirl_core.training.charts.decode import split_turn
from mirl_core.training.charts.sampler import Sampler
from mirl_core.training.sft import text

Section = Literal["calibration", "forced", "headroom"]
SECTIONS: tuple[Section, ...] = get_args(Section)

T = TypeVar("T", bound=str)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    kinds: tuple[Kind, ...] = ("iid",)
    """Kinds of scenes."""
    sections: tuple[Section, ...] = SECTIONS
    """Groups of figures."""
    n: int = 300
    """Scenes of each kind, with one question about each."""
    start: int = 1000
    """Index of the first dev scene."""
    samples: int = 16
    """Votes per question."""
    temperatures: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    """Temperatures of the votes."""
    rough: float | None = None
    """Share of rough entries in written tables that replace the pictures, 0 to 1; None for pictures."""


def measure_properties(folder: Path, plan: Plan) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """Yield the figures of each kind of scenes as they are measured.

    Args:
        folder: a stage's folder, or a file of averaged weights in it.
        plan: what is measured.

    Raises:
        ConfigError: the folder holds no weights or no tokenizer.
    """
    for kind in plan.kinds:
        sampler = Sampler(folder, kind, plan.n, plan.start, plan.rough)
        figures: dict[str, Any] = {}
        if "calibration" in plan.sections:
            figures["calibration"] = calibration(sampler)
        if "forced" in plan.sections:
            figures["forced"] = forced(sampler)
        if "headroom" in plan.sections:
            figures["headroom"] = headroom(sampler, plan.temperatures, plan.samples)
        yield kind, figures


def read_words(words: str, known: Sequence[T], param: str) -> tuple[T, ...]:
    """Return the known words in a text with commas.

    Raises:
        ConfigError: a word is unknown.
    """
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"{param}: {name!r} is not one of {', '.join(known)}", param=param)
    return tuple(word for name in names for word in known if word == name)


def read_numbers(numbers: str, param: str) -> tuple[float, ...]:
    """Return the numbers in a text with commas.

    Raises:
        ConfigError: a part is not a positive, finite number.
    """
    out = []
    for part in numbers.split(","):
        if not part.strip():
            continue
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ConfigError(f"{param}: {part.strip()!r} is not a number above 0", param=param)
        out.append(number)
    return tuple(out)


def vote(answers: list[str]) -> str:
    """Return the most frequent answer, the earliest on a tie; empty without answers."""
    votes = [a for a in answers if a]
    return Counter(votes).most_common(1)[0][0] if votes else ""


def share(hits: Sequence[bool], scenes: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the share of hits in percent, with its 95% interval and n; None without hits to count.

    Args:
        hits: outcomes.
        scenes: the scene of each outcome, where a scene has several: such outcomes depend on each other.
    """
    if not hits:
        return {"percent": None, "interval": None, "n": 0}
    clusters = [(str(scene),) for scene in (range(len(hits)) if scenes is None else scenes)]
    estimate = Resampling(clusters).proportion(np.array(hits, float))
    interval = (round(100 * estimate.low, 1), round(100 * estimate.high, 1))
    return {"percent": round(100 * estimate.mean, 1), "interval": interval, "n": estimate.n}


def paired(after: Sequence[bool], before: Sequence[bool]) -> dict[str, Any]:
    """Return the mean difference of two paired shares in points, with its 95% bootstrap interval and n."""
    resampling = Resampling([()] * len(after))
    estimate = resampling.difference(np.array(after, float), np.array(before, float))
    interval = (round(100 * estimate.low, 1), round(100 * estimate.high, 1))
    return {"points": round(100 * estimate.mean, 1), "interval": interval, "n": estimate.n}


def headroom(s: Sampler, temperatures: Sequence[float], samples: int) -> dict[str, Any]:
    """Return figures of greedy decoding, votes and single samples, and what descriptions mention.

    Lengths are in tokens, at the last temperature.
    """
    greedy_turns = s.turns(0.0, 1)
    greedy = [a[0] == w for a, w in zip(s.answers_of(greedy_turns), s.answers, strict=True)]
    out: dict[str, Any] = {"greedy": share(greedy)}
    out["greedy_description"] = share([_described(s, n, row[0]) for n, row in enumerate(greedy_turns)])
    for temperature in temperatures:
        turns = s.turns(temperature, samples)
        answers = s.answers_of(turns)
        voted = [vote(a) == w for a, w in zip(answers, s.answers, strict=True)]
        figures: dict[str, Any] = {"vote": share(voted), "vote_minus_greedy": paired(voted, greedy)}
        scenes = [n for n, row in enumerate(turns) for _ in row]
        singles = [a == w for row, w in zip(answers, s.answers, strict=True) for a in row]
        figures["sample"] = share(singles, scenes)
        described = [_described(s, n, t) for n, row in enumerate(turns) for t in row]
        figures["sample_description"] = share(described, scenes)
        figures["distinct_descriptions"] = float(np.mean([len({split_turn(t)[0] for t in r}) for r in turns]))
        if temperature == temperatures[-1]:
            out["mentions"] = _mentions(s, turns)
        out[f"T={temperature}"] = figures
    return out


def _described(s: Sampler, n: int, turn: str) -> bool:
    reading = language.parse_description(split_turn(turn)[0])
    return language.is_right(reading, s.scenes[n], s.questions[n])


def _mentions(s: Sampler, turns: list[list[str]]) -> dict[str, Any]:
    orders, sets, covered, ratio, spoken, chains = [], [], [], [], [], []
    for scene, row in zip(s.scenes, turns, strict=True):
        readings = [language.parse_description(split_turn(t)[0]) for t in row]
        fruits = [tuple(f for f, _ in r.items) for r in readings if r is not None]
        orders.append(len(set(fruits)))
        sets.append(len({frozenset(f) for f in fruits}))
        covered += [len(f) / len(scene.columns) for f in fruits]
        for turn in row[:4]:
            description, chain, answer = split_turn(turn)
            if description and chain:
                spoken.append(s.length(description))
                chains.append(s.length(f"<think>{chain}</think><answer>{answer}</answer>"))
                ratio.append(chains[-1] / spoken[-1])
    return {
        "distinct_orders_of_16": round(float(np.mean(orders)), 1),
        "distinct_sets_of_16": round(float(np.mean(sets)), 2),
        "share_of_columns_mentioned": round(float(np.mean(covered)), 3),
        "description_tokens": round(float(np.mean(spoken)), 1),
        "chain_tokens": round(float(np.mean(chains)), 1),
        "chain_to_description": round(float(np.mean(ratio)), 2),
        "n": len(turns),
    }


def forced(s: Sampler) -> dict[str, Any]:
    """Return figures of chains after swapped-in descriptions.

    Right descriptions show how often two chains disagree; wrong ones show how faithful a chain is.
    """
    right = [f"<description>{d}</description>" for d in s.right]
    wrong = [f"<description>{d}</description>" for d in s.wrong]
    two = [[split_turn(t)[2] for t in row] for row in s.turns(1.0, 2, right)]
    greedy = [split_turn(r[0])[2] for r in s.turns(0.0, 1, right)]
    kept, answers = {}, {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        turns = [split_turn(row[0]) for row in s.turns(temperature, 1, wrong)]
        readings = [language.parse_description(d) for d in s.wrong]
        kept[name] = [
            r is not None and reasoning.follows(t[1], r) for t, r in zip(turns, readings, strict=True)
        ]
        answers[name] = [t[2] for t in turns]
    return {
        "two_chains_disagree": share([a != b for a, b in two]),
        "chain_right_sampled": share(
            [a == w for row, w in zip(two, s.answers, strict=True) for a in row],
            [n for n, row in enumerate(two) for _ in row],
        ),
        "chain_right_greedy": share([a == w for a, w in zip(greedy, s.answers, strict=True)]),
        "wrong_description_values_kept_greedy": share(kept["greedy"]),
        "wrong_description_values_kept_sampled": share(kept["sampled"]),
        "wrong_description_answer_implied_greedy": share(
            [a == w for a, w in zip(answers["greedy"], s.wrong_answers, strict=True)]
        ),
        "wrong_description_answer_implied_sampled": share(
            [a == w for a, w in zip(answers["sampled"], s.wrong_answers, strict=True)]
        ),
        "wrong_description_answer_true_greedy": share(
            [a == w for a, w in zip(answers["greedy"], s.answers, strict=True)]
        ),
    }


@torch.no_grad()
def calibration(s: Sampler) -> dict[str, Any]:
    """Return how well the model's probability of a column's value is calibrated.

    The prefix is the true description up to that value; probabilities are over the possible values.
    """
    ids = torch.tensor([s.tokenizer.encode(f" {v}").ids[0] for v in range(1, LARGEST + 1)])
    rows: list[tuple[int, float, int, int, int, float, float]] = []
    for a in range(0, len(s.scenes), 64):
        part = range(a, min(a + 64, len(s.scenes)))
        encoded, marks = [], []
        for n in part:
            scene, values = s.scenes[n], language.see(s.scenes[n])
            written, where = s.tokenizer.encode(s.prompts[n] + "<description>").ids, []
            for k, fruit in enumerate(s.questions[n].fruits):
                name = FRUITS[fruit] if not k else f", {FRUITS[fruit]}"
                written = written + s.tokenizer.encode(name).ids
                where.append((len(written) - 1, values[fruit], USUAL[scene.day][fruit]))
                written = written + s.tokenizer.encode(f" {values[fruit]}").ids
            encoded.append(written)
            marks.append(where)
        length = max(map(len, encoded))
        pad = s.tokenizer.token_to_id(text.PAD)
        batch = torch.tensor([e + [pad] * (length - len(e)) for e in encoded])
        hidden = s.forward.speak(
            batch, s.connected, None if s.connected is None else torch.tensor(list(part))
        )
        for i, where in enumerate(marks):
            for at, truth, usual in where:
                p = s.forward.logits(hidden[i, at])[ids].softmax(-1)
                best = int(p.argmax())
                of_truth, of_best, of_usual = float(p[truth - 1]), float(p[best]), float(p[usual - 1])
                rows.append((part[i], of_truth, best + 1, truth, usual, of_best, of_usual))
    owners, of_truths, readings, truths, usuals, confidences, of_usuals = map(
        np.array, zip(*rows, strict=True)
    )
    hit, odd = readings == truths, truths != usuals

    def rate(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return share(hits[among].tolist(), owners[among].tolist())

    bins = np.minimum((confidences * 10).astype(int), 9)
    curve = [
        {"confidence": round(100 * float(confidences[bins == b].mean()), 1), **rate(hit, bins == b)}
        for b in np.unique(bins)
    ]
    gap = sum(abs(c["percent"] - c["confidence"]) * c["n"] for c in curve) / len(rows)
    return {
        "values_right": rate(hit, hit | ~hit),
        "usual_values_right": rate(hit, ~odd),
        "unusual_values_right": rate(hit, odd),
        "unusual_read_as_usual": rate(readings == usuals, odd),
        "confidence": round(100 * float(confidences.mean()), 1),
        "calibration_error_points": round(float(gap), 1),
        "curve": curve,
        "nats_of_truth": round(float(-np.log(np.maximum(of_truths, 1e-9)).mean()), 3),
        "mass_on_usual": round(100 * float(of_usuals.mean()), 1),
        "truth_is_usual": round(100 * float((~odd).mean()), 1),
    }
