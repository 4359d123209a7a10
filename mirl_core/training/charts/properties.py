"""`python -m mirl_core.training.charts.properties STAGE`: what there is to gain on the charts world, on dev
data.

Plain torch sampling. Measures, for each kind of scenes: greedy against votes of 16 at several
temperatures, one sampled trajectory, lengths, how often two chains of one right description disagree,
faithfulness to a wrong description, calibration of the values read, and what descriptions mention.
Intervals are 95%: Wilson's for shares, a bootstrap over scenes for paired differences.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from mirl_core.tasks.worlds.charts import drawing, language, reasoning
from mirl_core.tasks.worlds.charts.scenes import FRUITS, KINDS, LARGEST, USUAL, Kind, Scene, scenes
from mirl_core.training.charts.decode import decode, split_turn
from mirl_core.training.charts.model import ChartsForward
from mirl_core.training.charts.rows import table_prompt
from mirl_core.training.sft import text
from mirl_core.training.sft.model import ModelShape, build_model, preprocess

_BATCH = 256


class Sampler:
    """A stage's model on one kind's scenes, one question on each."""

    def __init__(self, folder: Path, kind: Kind, count: int, start: int, rough: float | None = None) -> None:
        """With `rough`, written tables of that roughness stand in for pictures that it can't see yet."""
        self.tokenizer = Tokenizer.from_file(
            str((folder.parent if folder.is_file() else folder) / "tokenizer.json")
        )
        self.forward = ChartsForward(build_model(ModelShape(), self.tokenizer))
        self.forward.load_state_dict(load_weights(folder))
        self.forward.eval()
        self.scenes: list[Scene] = list(scenes(kind, "dev", count, start))
        rng = np.random.default_rng([515, KINDS.index(kind), start])
        self.questions = [language.ask(s, rng) for s in self.scenes]
        self.prompts = [text.render_prompt(q.text, True) for q in self.questions]
        truths = [language.Reading(tuple(language.see(s).items())) for s in self.scenes]
        self.answers = [language.imply(q, t) for q, t in zip(self.questions, truths, strict=True)]
        self.right, self.wrong, self.wrong_answers = [], [], []
        for scene, question, answer in zip(self.scenes, self.questions, self.answers, strict=True):
            reading = language.select(language.see(scene), question, rng)
            self.right.append(language.write_description(reading, rng))
            other = answer
            while other == answer:
                reading = language.select(language.corrupt(language.see(scene), rng), question, rng)
                other = language.imply(question, reading)
            self.wrong.append(language.write_description(reading, rng))
            self.wrong_answers.append(other)
        self.connected = None
        if rough is not None:
            self.prompts = [
                table_prompt(q.text, language.see(s), rough, rng)
                for q, s in zip(self.questions, self.scenes, strict=True)
            ]
            return
        with torch.no_grad():
            pixels = preprocess(drawing.render(self.scenes))
            self.connected = self.forward.connect(self.forward.see(pixels))

    def turns(self, temperature: float, copies: int, prefixes: list[str] | None = None) -> list[list[str]]:
        """`copies` turns of every question: [questions][copies]."""
        generator = torch.Generator().manual_seed(int(1000 * temperature) + copies)
        prompts = (
            self.prompts if prefixes is None else [p + d for p, d in zip(self.prompts, prefixes, strict=True)]
        )
        out: list[list[str]] = [[] for _ in prompts]
        jobs = [n for n in range(len(prompts)) for _ in range(copies)]
        for a in range(0, len(jobs), _BATCH):
            part = jobs[a : a + _BATCH]
            turns = decode(
                self.forward,
                self.tokenizer,
                [prompts[n] for n in part],
                part,
                self.connected,
                temperature,
                generator,
            )
            for n, turn in zip(part, turns, strict=True):
                out[n].append(turn)
        return out

    def answers_of(self, turns: list[list[str]]) -> list[list[str]]:
        return [[split_turn(t)[2] for t in row] for row in turns]

    def length(self, written: str) -> int:
        return len(self.tokenizer.encode(written).ids)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """A stage's averaged weights: the finished ones, or those of its checkpoint; or a file of weights."""
    if folder.is_file():
        return dict(torch.load(folder, weights_only=True))
    finished = folder / "weights.pt"
    if finished.exists():
        return dict(torch.load(finished, weights_only=True))
    return dict(torch.load(folder / "checkpoint.pt", weights_only=True)["average"])


def vote(answers: list[str]) -> str:
    """The most frequent answer, the earliest of them on a tie; empty where nothing was answered."""
    votes = [a for a in answers if a]
    return Counter(votes).most_common(1)[0][0] if votes else ""


def wilson(right: float, n: int) -> tuple[float, float]:
    """95% interval of a share, in percent."""
    if not n:
        return 0.0, 100.0
    z, p = 1.96, right
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return round(100 * float(middle - half), 1), round(100 * float(middle + half), 1)


def share(hits: list[bool]) -> dict[str, Any]:
    """A share in percent with its interval and n."""
    p = float(np.mean(hits)) if hits else 0.0
    return {"percent": round(100 * p, 1), "interval": wilson(p, len(hits)), "n": len(hits)}


def paired(after: list[bool], before: list[bool]) -> dict[str, Any]:
    """Mean difference of two paired shares in points, with a bootstrap interval."""
    difference: npt.NDArray[np.float64] = 100.0 * (np.array(after, float) - np.array(before, float))
    rng = np.random.default_rng(1)
    means = difference[rng.integers(len(difference), size=(2000, len(difference)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "points": round(float(difference.mean()), 1),
        "interval": (round(float(low), 1), round(float(high), 1)),
        "n": len(difference),
    }


def headroom(s: Sampler, temperatures: list[float], samples: int) -> dict[str, Any]:
    """Greedy against votes, single samples, lengths, and what descriptions mention."""
    greedy_turns = s.turns(0.0, 1)
    greedy = [a[0] == w for a, w in zip(s.answers_of(greedy_turns), s.answers, strict=True)]
    out: dict[str, Any] = {"greedy": share(greedy)}
    out["greedy_description"] = share([_described(s, n, row[0]) for n, row in enumerate(greedy_turns)])
    for temperature in temperatures:
        turns = s.turns(temperature, samples)
        answers = s.answers_of(turns)
        voted = [vote(a) == w for a, w in zip(answers, s.answers, strict=True)]
        figures: dict[str, Any] = {"vote": share(voted), "vote_minus_greedy": paired(voted, greedy)}
        singles = [np.mean([a == w for a in row]) for row, w in zip(answers, s.answers, strict=True)]
        figures["sample"] = {"percent": round(100 * float(np.mean(singles)), 1), "n": len(singles) * samples}
        described = [_described(s, n, t) for n, row in enumerate(turns) for t in row]
        figures["sample_description"] = {
            "percent": round(100 * float(np.mean(described)), 1),
            "n": len(described),
        }
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
    """Chains after swapped-in descriptions: right ones (disagreement of two), wrong ones (faithfulness)."""
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
        "chain_right_sampled": share([a == w for row, w in zip(two, s.answers, strict=True) for a in row]),
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
    """The model's probabilities of a column's value, the true description being forced up to it."""
    ids = torch.tensor([s.tokenizer.encode(f" {v}").ids[0] for v in range(1, LARGEST + 1)])
    rows: list[tuple[float, int, int, int, float, float]] = []
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
                rows.append(
                    (float(p[truth - 1]), best + 1, truth, usual, float(p[best]), float(p[usual - 1]))
                )
    truths, usuals = np.array([r[2] for r in rows]), np.array([r[3] for r in rows])
    readings, confidences = np.array([r[1] for r in rows]), np.array([r[4] for r in rows])
    hit, odd = readings == truths, truths != usuals
    bins = np.minimum((confidences * 10).astype(int), 9)
    shares = [(bins == b, (bins == b).mean()) for b in np.unique(bins)]
    gap = sum(abs(hit[at].mean() - confidences[at].mean()) * part for at, part in shares)
    return {
        "values_right": share(hit.tolist()),
        "usual_values_right": share(hit[~odd].tolist()),
        "unusual_values_right": share(hit[odd].tolist()),
        "unusual_read_as_usual": share((readings == usuals)[odd].tolist()),
        "confidence": round(100 * float(confidences.mean()), 1),
        "calibration_error_points": round(100 * float(gap), 1),
        "nats_of_truth": round(float(-np.log([max(r[0], 1e-9) for r in rows]).mean()), 3),
        "mass_on_usual": round(100 * float(np.mean([r[5] for r in rows])), 1),
        "truth_is_usual": round(100 * float((~odd).mean()), 1),
    }


def main() -> None:
    """Measure a stage and print JSON, one kind after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a stage's folder, or a file of weights in it")
    parser.add_argument("--kinds", nargs="+", default=["iid"], choices=KINDS)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument(
        "--start", type=int, default=1000, help="first dev scene; training looks at the first 100"
    )
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.4, 0.6, 0.8, 1.0])
    parser.add_argument("--parts", nargs="+", default=["calibration", "forced", "headroom"])
    parser.add_argument("--rough", type=float, help="written tables of this roughness instead of pictures")
    parser.add_argument("--output", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out: dict[str, Any] = {"folder": chosen.folder.name, "n": chosen.n, "start": chosen.start}
    for kind in chosen.kinds:
        begin = time.monotonic()
        s = Sampler(chosen.folder, kind, chosen.n, chosen.start, chosen.rough)
        out[kind] = {}
        if "calibration" in chosen.parts:
            out[kind]["calibration"] = calibration(s)
        if "forced" in chosen.parts:
            out[kind]["forced"] = forced(s)
        if "headroom" in chosen.parts:
            out[kind]["headroom"] = headroom(s, chosen.temperatures, chosen.samples)
        print(f"{kind}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        print(json.dumps({kind: out[kind]}, indent=1), flush=True)
        if chosen.output is not None:
            chosen.output.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
