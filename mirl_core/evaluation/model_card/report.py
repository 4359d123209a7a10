"""The report as Markdown, with picture grids and a calibration plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mirl_core.evaluation.model_card.measures import (
    MEASURES,
    Calibration,
    Readings,
    SplitFigures,
    value_bins,
)
from mirl_core.tasks.resampling import Estimate
from mirl_core.tasks.worlds.cases import DIGITS_SPLITS

_FAMILY_MEASURES = (
    "sampled_answer",
    "greedy_answer",
    "sampled_description",
    "faithful_greedy",
    "reasoning_sampled",
)
_SHORT = {
    "sampled_answer": "answer, sampled",
    "greedy_answer": "answer, greedy",
    "sampled_description": "description, sampled",
    "faithful_greedy": "faithful, greedy",
    "reasoning_sampled": "reasoning given a right description, sampled",
}


def calibration_plot(readings: Sequence[Readings], file: Path) -> None:
    """Plot the reliability of digits and colours, and the model's colour probabilities over the exact
    posterior."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), dpi=90)
    for axis, title in zip(
        axes, ("digits", "colours", "colours: model against exact posterior"), strict=True
    ):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("exact posterior" if "exact" in title else "the model's probability", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("share that is true", fontsize=8)
    axes[2].set_ylabel("the model's probability", fontsize=8)
    for r in readings:
        for axis, p, truth in ((axes[0], r.digit, r.digit_truth), (axes[1], r.colour, r.colour_truth)):
            bins = value_bins(p, truth)
            axis.plot(
                [b.said for b in bins], [b.right for b in bins], marker="o", markersize=3, label=r.split
            )
    for r in readings:
        axes[2].scatter(r.colour_exact[:400].ravel(), r.colour[:400].ravel(), s=2, alpha=0.35)
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def family_table(figures: SplitFigures) -> str:
    """Return one split's table by question family; a figure on fewer questions than its row's `n` has its own
    n."""
    head = ["family", "n", *(_SHORT[m] for m in _FAMILY_MEASURES)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for family, row in figures.by_family.items():
        n = row["greedy_answer"].n
        cells = [family, str(n), *(_cell(row[m], n) for m in _FAMILY_MEASURES)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overall_table(figures: Sequence[SplitFigures]) -> str:
    """Return all splits side by side; a figure on fewer questions than its column has its n beside it."""
    lines = [
        "| measure, % | " + " | ".join(f.split for f in figures) + " |",
        "|" + " --- |" * (len(figures) + 1),
    ]
    questions = [f.by_family["all"]["greedy_answer"].n for f in figures]
    lines.append("| questions | " + " | ".join(str(n) for n in questions) + " |")
    for name, words in MEASURES.items():
        cells = [_cell(f.by_family["all"][name], n) for f, n in zip(figures, questions, strict=True)]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: Estimate, questions: int) -> str:
    if figure.n == 0:
        return "none asked"
    return str(figure) if figure.n == questions else f"{figure} (n = {figure.n})"


def calibration_table(
    rows: Mapping[tuple[str, str], Calibration], distance: Mapping[str, tuple[float, float]]
) -> str:
    """Return the table of calibration of digits and colours on the digits splits."""
    head = (
        "split",
        "attribute",
        "objects",
        "most likely is right, %",
        "a sample is right, %",
        "mean confidence, %",
        "-log p(truth), nats",
        "ECE, points",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for (split, attribute), c in rows.items():
        nats = f"{c.nats.mean:.3f} [{c.nats.low:.3f}, {c.nats.high:.3f}]"
        lines.append(
            f"| {split} | {attribute} | {c.right_top.n} | {c.right_top} | {c.right_sampled} "
            f"| {100 * c.mean_confidence:.1f} | {nats} | {100 * c.expected_error:.1f} |"
        )
    lines += [
        "",
        "Distance of the model's colour probabilities from the exact posterior under the training prior:",
        "",
        "| split | KL(exact, model), nats per object | mean absolute difference, points |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {s} | {kl:.3f} | {100 * gap:.1f} |" for s, (kl, gap) in distance.items()]
    return "\n".join(lines)


def image_section() -> str:
    """Return links to the grids."""
    return "\n\n".join(f"**{s}**\n\n![{s}](images/{s}.png)" for s in (*DIGITS_SPLITS, "easy-vqa"))
