"""The digits model's report: measures on test data, `digits-model.md` and its pictures; imports the worlds.

Generation is real vLLM in bfloat16, as the demo serves it. No choice depends on test data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress

    from mirl_core.evaluation.model_card.measures import Calibration, Readings, SplitFigures
    from mirl_core.tasks.worlds.cases import WorldCase

_PREFACE = """# The bundled digits model

A {parameters:.2f}-million-parameter Idefics3 ({megabytes:.1f} MB in bfloat16), trained from nothing by
`mirl-train sft` (recipes in `mirl_core/training/recipes/digits/`). It looks at a 64 x 64 picture, writes a
description, reasons in steps and answers: `<description>…</description><think>…</think><answer>…</answer>`.

Figures are on **{part}** data, by `mirl-eval model-card --output docs`: vLLM, bfloat16, one
question per digits scene, {scenes} scenes per split, and every published easy-VQA question of the part;
descriptions are swapped in on the first {swapped} questions of a split. In brackets: 95% intervals from a
bootstrap over scenes *and glyphs* (`mirl_core/tasks/resampling.py`; shares by Wilson's formula with its
design effect), so that a few hundred glyphs are not taken for thousands. The hashes of weights, tokenizer and
worlds are in `mirl_core/bundled/digits/manifest.json`.
"""

_WORLDS = """## The worlds

**digits**: 2 x 2 cells, one to four coloured handwritten digits. The generator is explicit
(`mirl_core/tasks/worlds/digits.py`): each cell has a usual colour with probability {usual}
({nats:.1f} nats over any other); the painted colour is `softmax(e)` of four prototypes, `e` being the true
colour's strength plus normal noise, so that {weak:.0%} of the objects carry 2.5 nats on average, the rest 16;
the exact posterior of every colour is a formula (`colour_posterior`). `iid` keeps the language prior;
`shifted` gives the usual colour a probability of {shifted}; `ambiguous` blends two digits and two colours in
near equal parts, the truth being the generator's draw. Training saw `iid` with {ambiguous:.0%} of `ambiguous`
scenes, never `shifted`. Glyphs: scikit-learn's `load_digits`, images 0 to 1399 train, 1400 to 1499 dev, 1500
to 1796 test.

Questions are drawn by family: {families}.
(`where_largest` is asked only where one digit is the largest; the others share its part elsewhere.)

**easy-vqa**: the published data set, its own split and questions. A twentieth of its training pictures is
the dev part.

A description is *right* if everything it mentions is true and nothing that the question needs is missing.
*Faithful* is an answer that follows from a wrong description that was swapped in (always one that implies
another answer than the truth's). `{slip_family}` is the family whose training chains slip on purpose (one
wrong running total in {slips:.0%} of them), so that several chains of one description differ.
"""


def write_report(
    model: Path, output: Path, scenes: int, part: str, say: Callable[[str], None], notes: str = ""
) -> None:
    """Measure everything and write `output/digits-model.md`, `output/images/` and
    `output/digits-model.json`."""
    import numpy as np

    from mirl_core.evaluation.model_card import report
    from mirl_core.evaluation.model_card.bench import Bench
    from mirl_core.evaluation.model_card.measures import (
        SWAPPED,
        calibrate,
        measure_split,
        read_objects,
        turns_of,
    )
    from mirl_core.tasks.plotting import picture_grid
    from mirl_core.tasks.worlds.cases import DIGITS_SPLITS, digits_cases, easy_cases
    from mirl_core.tasks.worlds.digits import PARTS

    chosen = next(p for p in PARTS if p == part)
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    bench = Bench(model)
    easy = easy_cases(chosen)
    figures: list[SplitFigures] = []
    readings: list[Readings] = []
    calibration: dict[tuple[str, str], Calibration] = {}
    distance: dict[str, tuple[float, float]] = {}
    with _progress() as bar:
        turns = len(DIGITS_SPLITS) * (turns_of(scenes) + scenes) + turns_of(len(easy))
        task = bar.add_task("", total=turns)

        def advance(done: int) -> None:
            bar.advance(task, done)

        def begin(split: str, words: str) -> None:
            bar.update(task, description=split)
            say(f"{split}: {words}")

        for split in DIGITS_SPLITS:
            begin(split, f"{scenes} scenes")
            cases = digits_cases(split, chosen, scenes)
            picture_grid(_pictures(cases), images / f"{split}.png")
            figures.append(measure_split(bench, cases, advance))
            seen = read_objects(bench, cases, advance)
            readings.append(seen)
            calibration[split, "digit"] = calibrate(seen.digit, seen.digit_truth, seen.clusters)
            calibration[split, "colour"] = calibrate(seen.colour, seen.colour_truth, seen.clusters)
            exact, model_colours = np.clip(seen.colour_exact, 1e-7, 1), np.clip(seen.colour, 1e-7, 1)
            gap = float(np.abs(exact - model_colours).mean())
            distance[split] = (float((exact * np.log(exact / model_colours)).sum(1).mean()), gap)
        begin("easy-vqa", f"{len(easy)} questions")
        picture_grid(_pictures(easy), images / "easy-vqa.png")
        figures.append(measure_split(bench, easy, advance))
    report.calibration_plot(readings, images / "calibration.png")

    weights = model / "model.safetensors"
    size = weights.stat().st_size
    text = [
        _PREFACE.format(
            parameters=size / 2e6, megabytes=size / 1e6, scenes=scenes, part=part, swapped=SWAPPED
        ),
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
        _worlds(),
        "## Pictures",
        f"The first {part} scenes of each split, not chosen.",
        report.image_section(),
    ]
    (output / "digits-model.md").write_text("\n\n".join(t.strip() for t in text if t) + "\n")
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
    (output / "digits-model.json").write_text(json.dumps(record, indent=1) + "\n")


def _pictures(cases: Sequence[WorldCase]) -> list[Image]:
    """Return the pictures of a split, each once, in their order."""
    return list({case.clusters[0]: case.image for case in cases}.values())


def _worlds() -> str:
    """Return the section about the worlds, with the constants of the worlds and of the training recipes."""
    from mirl_core.tasks.worlds.digits import TRAINING_AMBIGUOUS_SHARE, USUAL_PROBABILITY, WEAK_SHARE
    from mirl_core.tasks.worlds.digits_language import FAMILY_SHARES, SLIP_FAMILY, TRAINING_SLIP_SHARE

    usual = USUAL_PROBABILITY["iid"]
    return _WORLDS.format(
        usual=usual,
        nats=math.log(usual / ((1 - usual) / 3)),
        weak=WEAK_SHARE,
        shifted=USUAL_PROBABILITY["shifted"],
        ambiguous=TRAINING_AMBIGUOUS_SHARE,
        families=", ".join(f"`{family}` {share:.0%}" for family, share in FAMILY_SHARES.items()),
        slip_family=SLIP_FAMILY,
        slips=TRAINING_SLIP_SHARE,
    )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("turns"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # Calls of vLLM are some ten seconds apart: half a minute has only two or three of them.
        speed_estimate_period=300,
    )


def _targets(figures: Sequence[SplitFigures]) -> str:
    """Return the table of the model's bounds beside its figures, with a verdict on each."""
    by = {f.split: f.by_family for f in figures}
    iid = by["digits-iid"]
    faithful = min((by[s]["all"]["faithful_greedy"] for s in by), key=lambda e: e.mean)
    rows = [
        (
            "one sampled trajectory on digits `iid` right",
            "45 to 80%",
            iid["all"]["sampled_answer"],
            0.45,
            0.80,
        ),
        ("easy-vqa, greedy", "at least 95%", by["easy-vqa"]["all"]["greedy_answer"], 0.95, 1.0),
        (
            "`sum_all` given a right description, one sampled chain",
            "75 to 90%",
            iid["sum_all"]["reasoning_sampled"],
            0.75,
            0.90,
        ),
    ]
    lines = ["## Bounds", "", "| what | bound | measured, % | n | |", "| --- | --- | --- | --- | --- |"]
    for words, bound, e, low, high in rows:
        verdict = "met" if low <= e.mean <= high else "**missed**"
        lines.append(f"| {words} | {bound} | {e} | {e.n} | {verdict} |")
    # The bound names no split, so it applies to each.
    for split, families in by.items():
        others = [v["reasoning_sampled"] for k, v in families.items() if k not in ("sum_all", "all")]
        if split == "easy-vqa" or not others:
            continue
        worst = min(others, key=lambda e: e.mean)
        lines.append(
            f"| every other family given a right description, one sampled chain (lowest, `{split}`) "
            f"| at least 95% | {worst} | {worst.n} | {'met' if worst.mean >= 0.95 else '**missed**'} |"
        )
    lines.append(
        f"| answer follows a swapped-in wrong description, greedy (lowest split) | at least 90% "
        f"| {faithful} | {faithful.n} | {'met' if faithful.mean >= 0.9 else '**missed**'} |"
    )
    return "\n".join(lines)
