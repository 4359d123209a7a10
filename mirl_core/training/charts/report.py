"""The report of the charts model: figures of `mirl-train properties` as `bundled-model.md`, with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mirl_core.errors import ConfigError
from mirl_core.tasks.markdown_tables import table
from mirl_core.tasks.plotting import COLOURS, method_colour, panels, picture_grid, save
from mirl_core.tasks.worlds.charts import drawing
from mirl_core.tasks.worlds.charts.scenes import KINDS, USUAL_PROBABILITY, Kind, scenes

NOTES = Path(__file__).with_name("notes.md")
_SHIFTS: tuple[Kind, ...] = ("iid", "half", "quarter", "shifted")
_GRID = 24
_FEWEST = 8
"""Readings that a point of the calibration curve needs."""

Figures = Mapping[str, Any]


def write_report(record: Figures, output: Path) -> None:
    """Write `output/bundled-model.md` and the pictures in `output/images/`.

    Args:
        record: the JSON of `mirl-train properties --output`, with all sections of every kind of scenes.
        output: folder of the documents.

    Raises:
        ConfigError: a kind of scenes or a section is missing.
    """
    for kind in KINDS:
        for section in ("calibration", "forced", "headroom"):
            if section not in record.get(kind, {}):
                raise ConfigError(f"the figures have no section {section} of {kind}: measure all kinds")
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        picture_grid(
            [Image.fromarray(p) for p in drawing.render(list(scenes(kind, "dev", _GRID)))],
            images / f"charts-{kind}.png",
        )
    _plot(record, images / "charts-shift.png")
    text = NOTES.read_text(encoding="utf-8").replace("START", str(record["start"]))
    parts = [
        text.partition("<!-- figures -->")[0],
        "## Properties",
        properties_table(record),
        "## The shift curve",
        shift_table(record),
        "![shift curve and calibration](images/charts-shift.png)",
        "## Votes by temperature, `iid`",
        temperature_table(record["iid"]["headroom"]),
        text.partition("<!-- figures -->")[2],
        "## Pictures",
        f"The first {_GRID} dev scenes of each kind, not chosen.",
        *(f"**{kind}**\n\n![{kind}](images/charts-{kind}.png)" for kind in KINDS),
    ]
    (output / "bundled-model.md").write_text("\n\n".join(p.strip() for p in parts) + "\n", encoding="utf-8")


def best_temperature(headroom: Figures) -> str:
    """Return the key of the temperature whose votes are right most often: `T=0.8`."""
    keys = [key for key in headroom if key.startswith("T=")]
    return max(keys, key=lambda key: float(headroom[key]["vote"]["percent"]))


def cell(figure: Figures) -> str:
    """Return a share or a difference with its interval: `63.2 [60.1, 66.2]`; a dash where nothing counts."""
    value = figure.get("percent", figure.get("points"))
    if value is None:
        return "–"
    sign = "+" if "points" in figure else ""
    low, high = figure["interval"]
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def properties_table(record: Figures) -> str:
    """Return the table of the properties (a) to (e) on `iid` beside their bounds."""
    headroom, forced = record["iid"]["headroom"], record["iid"]["forced"]
    best, mentions = best_temperature(headroom), headroom["mentions"]
    gain, sample = headroom[best]["vote_minus_greedy"], headroom["T=1.0"]["sample"]
    disagree, kept = forced["two_chains_disagree"], forced["wrong_description_values_kept_greedy"]
    kept_sampled, covered = (
        forced["wrong_description_values_kept_sampled"],
        mentions["share_of_columns_mentioned"],
    )
    ratio, orders = mentions["chain_to_description"], mentions["distinct_orders_of_16"]
    rows = [
        (
            "(a) 16 votes over greedy, points",
            "at least 3, wanted 3 to 6",
            cell(gain),
            gain["n"],
            gain["points"] >= 3,
        ),
        ("(b) chain over description, tokens", "at least 4", f"{ratio:.1f}", mentions["n"], ratio >= 4),
        (
            "(b) two sampled chains of a right description disagree, %",
            "15 to 35",
            cell(disagree),
            disagree["n"],
            15 <= disagree["percent"] <= 35,
        ),
        (
            "(c) one sampled trajectory right, %",
            "40 to 75",
            cell(sample),
            sample["n"],
            40 <= sample["percent"] <= 75,
        ),
        (
            "(c) a wrong description's values kept, greedy, %",
            "at least 95",
            cell(kept),
            kept["n"],
            kept["percent"] >= 95,
        ),
        (
            "(c) the same, sampled, %",
            "at least 95",
            cell(kept_sampled),
            kept_sampled["n"],
            kept_sampled["percent"] >= 95,
        ),
        ("(e) orders among 16 descriptions", "several", f"{orders:.1f}", mentions["n"], orders >= 2),
        (
            "(e) share of the columns that a description mentions",
            "below 1",
            f"{covered:.2f}",
            mentions["n"],
            covered < 1,
        ),
    ]
    return table(
        ("property", "bound", "measured", "n", " "),
        [
            (what, bound, value, str(n), "met" if met else "**not met**")
            for what, bound, value, n, met in rows
        ],
    )


def shift_table(record: Figures) -> str:
    """Return the table over kinds of scenes: answers, values read, and the prior's pull; in per cent."""
    rows = []
    for kind in KINDS:
        headroom, calibration = record[kind]["headroom"], record[kind]["calibration"]
        best = best_temperature(headroom)
        rows.append(
            (
                kind,
                str(headroom["greedy"]["n"]),
                best.removeprefix("T="),
                cell(headroom["greedy"]),
                cell(headroom[best]["vote"]),
                cell(headroom[best]["vote_minus_greedy"]),
                cell(headroom[best]["sample"]),
                cell(calibration["values_right"]),
                cell(calibration["unusual_read_as_usual"]),
                f"{calibration['mass_on_usual']:.1f}",
                f"{calibration['truth_is_usual']:.1f}",
                f"{calibration['calibration_error_points']:.1f}",
            )
        )
    head = (
        "data",
        "questions",
        "T",
        "greedy",
        "16 votes",
        "votes − greedy",
        "one sample",
        "values right",
        "unusual read as usual",
        "model's mass on the usual",
        "truth is usual",
        "ECE, points",
    )
    return table(head, rows)


def temperature_table(headroom: Figures) -> str:
    """Return the table of votes over temperatures; in per cent and points."""
    rows = [
        (
            key.removeprefix("T="),
            cell(figures["vote"]),
            cell(figures["vote_minus_greedy"]),
            cell(figures["sample"]),
            cell(figures["sample_description"]),
            f"{figures['distinct_descriptions']:.1f}",
        )
        for key, figures in headroom.items()
        if key.startswith("T=")
    ]
    head = ("T", "16 votes", "votes − greedy", "one sample", "its description right", "distinct of 16")
    return table(head, rows)


def _plot(record: Figures, path: Path) -> None:
    figure, (shift, curve) = panels(2)
    probabilities = [100 * USUAL_PROBABILITY[kind] for kind in _SHIFTS]
    lines: list[tuple[str, str, Sequence[float]]] = [
        (method_colour("greedy"), "greedy", [record[k]["headroom"]["greedy"]["percent"] for k in _SHIFTS]),
        (method_colour("sc@16"), "16 votes", [_best(record, k)["vote"]["percent"] for k in _SHIFTS]),
        (method_colour("direct"), "one sample", [_best(record, k)["sample"]["percent"] for k in _SHIFTS]),
        (
            COLOURS[3],
            "model's mass on the usual",
            [record[k]["calibration"]["mass_on_usual"] for k in _SHIFTS],
        ),
    ]
    entries = {}
    for colour, label, values in lines:
        style = "--" if label.startswith("model") else "-"
        (entries[label],) = shift.plot(probabilities, values, style, color=colour, marker="o", markersize=4)
    (entries["perfect"],) = shift.plot([0, 75], [0, 75], color="0.7", linewidth=1)
    shift.set_xlabel("values that are usual, %", fontsize=8)
    shift.set_ylabel("answers right, or mass, %", fontsize=8)
    curve.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    free = [colour for colour in COLOURS if colour not in {line[0] for line in lines}]
    for colour, kind in zip(free, _SHIFTS, strict=False):
        points = [p for p in record[kind]["calibration"]["curve"] if p["n"] >= _FEWEST]
        (entries[kind],) = curve.plot(
            [p["confidence"] for p in points],
            [p["percent"] for p in points],
            color=colour,
            marker="o",
            markersize=4,
        )
    curve.set_xlabel("model's confidence in its reading, %", fontsize=8)
    curve.set_ylabel("readings right, %", fontsize=8)
    save(figure, path, entries)


def _best(record: Figures, kind: str) -> Figures:
    headroom = record[kind]["headroom"]
    best: Figures = headroom[best_temperature(headroom)]
    return best
