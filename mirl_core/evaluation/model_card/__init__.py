"""The bundled model's report: measure on test data, write `bundled-model.md` with its pictures.

Generation is real vLLM in bfloat16, as the demo serves it. Nothing here chooses anything from test data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirl_core.evaluation.model_card.measures import Calibration, Readings, SplitFigures

_PREFACE = """# The bundled model

A {parameters:.2f}-million-parameter Idefics3 ({megabytes:.1f} MB in bfloat16), trained from nothing by
`mirl-train sft` (recipes in `mirl_core/training/recipes/`). It looks at a 64 x 64 picture, writes a
description, reasons in steps and answers: `<description>…</description><think>…</think><answer>…</answer>`.

Figures are on **test** data ({part} part), by `mirl-eval model-card --output docs`: vLLM, bfloat16, one
question per digits scene, {scenes} scenes per split, and every published easy-VQA test question. In
brackets: 95% intervals that count cases which share a scene *or a glyph* as dependent, so that 297 test
glyphs are not taken for thousands. The hashes of weights, tokenizer and worlds are in
`mirl_core/bundled/manifest.json`.
"""

_WORLDS = """## The worlds

**digits**: 2 x 2 cells, one to four coloured handwritten digits. The generator is explicit
(`mirl_core/evaluation/worlds/digits.py`): each cell has a usual colour with probability 0.75 (2.2 nats over
any other); the painted colour is `softmax(e)` of four prototypes, `e` being the true colour's strength plus
normal noise, so that 60% of the objects carry 2.5 nats on average and the rest 16; the exact posterior of
every colour is a formula (`colour_posterior`). `iid` keeps the language prior; `shifted` gives the usual
colour a probability of 0.04; `ambiguous` blends two digits and two colours in near equal parts, the truth
being the generator's draw. Training saw `iid` with {ambiguous} of `ambiguous` scenes, never `shifted`.
Glyphs: scikit-learn's `load_digits`, images 0 to 1399 train, 1400 to 1499 dev, 1500 to 1796 test.

**easy-vqa**: the published data set, its own split and questions. A twentieth of its training pictures is
the dev part.

A description is *right* if everything it mentions is true and nothing that the question needs is missing.
*Faithful* is an answer that follows from a wrong description that was swapped in (always one that implies
another answer than the truth's). `sum_all` is the family whose training chains slip on purpose (one wrong
running total in 18% of them), so that several chains of one description differ.
"""


def write_report(
    model: Path, output: Path, scenes: int, part: str, say: Callable[[str], None], notes: str = ""
) -> None:
    """Measure everything and write `output/bundled-model.md`, `output/images/` and
    `output/bundled-model.json`."""
    import numpy as np

    from mirl_core.evaluation.model_card import report
    from mirl_core.evaluation.model_card.bench import Bench
    from mirl_core.evaluation.model_card.cases import DIGITS_SPLITS, digits_cases, easy_cases
    from mirl_core.evaluation.model_card.measures import calibrate, measure_split, read_objects
    from mirl_core.evaluation.worlds.digits import PARTS

    chosen = next(p for p in PARTS if p == part)
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    bench = Bench(model)
    figures: list[SplitFigures] = []
    readings: list[Readings] = []
    calibration: dict[tuple[str, str], Calibration] = {}
    distance: dict[str, tuple[float, float]] = {}
    for split in DIGITS_SPLITS:
        say(f"{split}: {scenes} scenes")
        cases = digits_cases(split, chosen, scenes)
        report.picture_grid(cases, images / f"{split}.png")
        figures.append(measure_split(bench, cases))
        seen = read_objects(bench, cases)
        readings.append(seen)
        calibration[split, "digit"] = calibrate(seen.digit, seen.digit_truth, seen.clusters)
        calibration[split, "colour"] = calibrate(seen.colour, seen.colour_truth, seen.clusters)
        exact, own = np.clip(seen.colour_exact, 1e-7, 1), np.clip(seen.colour, 1e-7, 1)
        gap = float(np.abs(exact - own).mean())
        distance[split] = (float((exact * np.log(exact / own)).sum(1).mean()), gap)
    say("easy-vqa: every question")
    cases = easy_cases(chosen)
    report.picture_grid(cases, images / "easy-vqa.png")
    figures.append(measure_split(bench, cases))
    report.calibration_plot(readings, images / "calibration.png")

    weights = model / "model.safetensors"
    size = weights.stat().st_size
    text = [
        _PREFACE.format(parameters=size / 2e6, megabytes=size / 1e6, scenes=scenes, part=part),
        _targets(figures),
        notes,
        "## All splits",
        report.overall_table(figures),
        "## By question family",
        *(f"### {f.split}\n\n{report.family_table(f)}" for f in figures),
        "## Calibration",
        "The model's own probability of each colour and digit, the true description being forced up to it.",
        report.calibration_table(calibration, distance),
        "![calibration](images/calibration.png)",
        _WORLDS.format(ambiguous="15%"),
        "## Pictures",
        "The first test scenes of each split, not chosen.",
        report.image_section(),
    ]
    (output / "bundled-model.md").write_text("\n\n".join(t.strip() for t in text if t) + "\n")
    record = {
        "part": part,
        "splits": {
            f.split: {
                family: {name: asdict(e) for name, e in row.items()} for family, row in f.by_family.items()
            }
            for f in figures
        },
        "calibration": {f"{s} {a}": asdict(c) for (s, a), c in calibration.items()},
    }
    (output / "bundled-model.json").write_text(json.dumps(record, indent=1) + "\n")


def _targets(figures: Sequence[SplitFigures]) -> str:
    """Each bound set for the model beside its figure, missed ones said so."""
    by = {f.split: f.by_family for f in figures}
    iid = by["digits-iid"]
    faithful = min(by[s]["all"]["faithful_greedy"].mean for s in by)
    rows = [
        (
            "one sampled trajectory on digits `iid` right",
            "45 to 80%",
            iid["all"]["sampled_answer"],
            0.45,
            0.80,
        ),
        ("easy-vqa test, greedy", "at least 95%", by["easy-vqa"]["all"]["greedy_answer"], 0.95, 1.0),
        (
            "`sum_all` given a right description, one sampled chain",
            "75 to 90%",
            iid["sum_all"]["reasoning_sampled"],
            0.75,
            0.90,
        ),
    ]
    lines = ["## Bounds", "", "| what | bound | measured, % | |", "| --- | --- | --- | --- |"]
    for words, bound, e, low, high in rows:
        lines.append(f"| {words} | {bound} | {e} | {'met' if low <= e.mean <= high else '**missed**'} |")
    # The bound names no split, so each is held against it.
    for split, families in by.items():
        others = [v["reasoning_sampled"] for k, v in families.items() if k not in ("sum_all", "all")]
        if split == "easy-vqa" or not others:
            continue
        worst = min(others, key=lambda e: e.mean)
        lines.append(
            f"| every other family given a right description, one sampled chain (lowest, `{split}`) "
            f"| at least 95% | {worst} | {'met' if worst.mean >= 0.95 else '**missed**'} |"
        )
    lines.append(
        f"| answer follows a swapped-in wrong description, greedy (lowest split) | at least 90% "
        f"| {100 * faithful:.1f} | {'met' if faithful >= 0.9 else '**missed**'} |"
    )
    return "\n".join(lines)
