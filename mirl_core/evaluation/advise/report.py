"""The advice on the terminal, as `advice.json`, and as the page `advice.md` with a plot."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.evaluation.advise.advice import Advice, MethodFigures
from mirl_core.evaluation.advise.measures import Measure
from mirl_core.evaluation.advise.words import headline, sentences
from mirl_core.evaluation.report.summary import strict
from mirl_core.evaluation.report.tables import unchecked_pictures
from mirl_core.tasks.markdown_tables import table
from mirl_core.tasks.resampling import Estimate

__all__ = ["WIDTH", "plain", "terminal", "write_advice"]

WIDTH = 80
"""Columns of the terminal's text."""
_NOTE = (
    "Brackets: 95% intervals of single figures, over questions and what they share. The decision uses wider "
    "ones, which hold for all comparisons together."
)
_HEAD = ("method", "right, %", "- greedy, points", "- sc@16, points", "tokens")


def terminal(advice: Advice) -> str:
    """Return the figures as two tables and the advice in words."""
    measured = [
        (_meaning(measure), _value(measure), measure.unit, str(measure.estimate.n))
        for measure in advice.measures.values()
    ]
    parts = [
        _columns(("", "", "", "n"), measured, "lrlr"),
        _columns(_HEAD, _rows(advice, advice.methods, "*", ".1f"), "lrrrr"),
        *(textwrap.fill(text, WIDTH, break_on_hyphens=False) for text in _texts(advice)),
    ]
    return "\n\n".join(parts)


def plain(advice: Advice, facts: Mapping[str, Any]) -> str:
    """Return the page `advice.md`; its plot lies beside it."""
    measured = [
        (
            _meaning(measure),
            f"{_value(measure)} {measure.unit}".strip(),
            str(measure.estimate.n),
            measure.note,
        )
        for measure in advice.measures.values()
    ]
    sections = [
        f"# {headline(advice)}",
        "\n\n".join(sentences(advice)),
        "![accuracy against tokens](advice.png)" if advice.labelled else "",
        "## Ways of answering",
        _NOTE,
        _page_table(advice, advice.methods),
        *(f"### {data}\n\n{_page_table(advice, methods)}" for data, methods in advice.by_data.items()),
        "## The model",
        table(("property", "value", "n", " "), measured),
        "## The run",
        _facts(advice, facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def write_advice(folder: Path, advice: Advice, facts: Mapping[str, Any]) -> list[Path]:
    """Write `advice.json`, `advice.md` and, where there are answers, `advice.png`; return their paths.

    Args:
        facts: of the run, for the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {**facts, "headline": headline(advice), "words": sentences(advice), **advice.to_json()}
    files = {
        folder / "advice.json": json.dumps(strict(record), indent=1, allow_nan=False, ensure_ascii=False)
        + "\n",
        folder / "advice.md": plain(advice, facts),
    }
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    if not advice.labelled:
        return list(files)
    return [*files, _plot(advice, folder / "advice.png")]


def _texts(advice: Advice) -> list[str]:
    return [
        f"{'*: advised. ' if advice.advised else ''}{_NOTE}",
        headline(advice).upper(),
        *sentences(advice),
    ]


def _meaning(measure: Measure) -> str:
    return measure.meaning


def _value(measure: Measure) -> str:
    match measure.unit:
        case "%":
            return _interval(measure.estimate, 100, ".1f")
        case "points":
            return _interval(measure.estimate, 100, "+.1f", ".1f")
    return _interval(measure.estimate, 1, ".2f")


def _interval(estimate: Estimate | None, scale: float, form: str, bounds: str | None = None) -> str:
    """Return a mean with its bounds; `bounds`: their form, that of the mean where it is None. A mean without
    an interval stands alone."""
    if estimate is None:
        return ""
    if math.isnan(estimate.low):
        return format(scale * estimate.mean, form).replace("100.0", "100")
    forms = (form, bounds or form, bounds or form)
    values = zip((estimate.mean, estimate.low, estimate.high), forms, strict=True)
    # Four characters less each in a table that must stay narrow.
    mean, low, high = (format(scale * value, form).replace("100.0", "100") for value, form in values)
    return f"{mean} [{low}, {high}]"


def _page_table(advice: Advice, methods: Sequence[MethodFigures]) -> str:
    return table(_HEAD, _rows(advice, methods, "→ ", "+.1f"))


def _rows(advice: Advice, methods: Sequence[MethodFigures], mark: str, bounds: str) -> list[tuple[str, ...]]:
    """Return the methods by their tokens, the advised method with a mark; `bounds`: form of differences."""
    advised = advice.advised.name if advice.advised else None
    return [
        (
            f"{mark if figures.name == advised else ''}{figures.name}",
            _interval(figures.accuracy, 100, ".1f"),
            _interval(figures.over_greedy, 100, "+.1f", bounds),
            _interval(figures.over_votes, 100, "+.1f", bounds),
            f"{figures.tokens.mean:.0f}",
        )
        for figures in sorted(methods, key=lambda figures: figures.tokens.mean)
    ]


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """Return rows in columns, without empty ones; `sides`: l (left) or r (right) for each column."""
    shown = [number for number in range(len(head)) if any(row[number] for row in rows)]
    widths = {number: max(len(row[number]) for row in (head, *rows)) for number in shown}
    fits = sum(widths.values()) + 2 * (len(shown) - 1) <= WIDTH
    return "\n".join(
        ("  " if fits else " ")
        .join(
            row[number].ljust(widths[number]) if sides[number] == "l" else row[number].rjust(widths[number])
            for number in shown
        )
        .rstrip()
        for row in (head, *rows)
    )


def _facts(advice: Advice, facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    rows = [
        ("model", f"{facts.get('model', '–')} ({str(facts.get('fingerprint', ''))[:16]})"),
        ("data", ", ".join(facts.get("data", ()))),
        ("part", str(facts.get("part", "–"))),
        ("questions", f"{advice.questions}, {advice.labelled} with an answer"),
        *unchecked_pictures(facts),
        ("replays of each question", str(facts.get("draws", "–"))),
        ("temperature of samples", str(facts.get("bank", {}).get("temperature", "–"))),
        ("tolerance, points", f"{100 * advice.tolerance:g}"),
        ("smallest gain, points", f"{100 * advice.smallest_gain:g}"),
        ("versions", versions or "–"),
        ("command", f"`{facts['command']}`" if facts.get("command") else "–"),
    ]
    return table(("property", " "), rows)


def _plot(advice: Advice, path: Path) -> Path:
    """Draw accuracy against tokens, the advised candidate as a star."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    from mirl_core.tasks.plotting import COLOURS, panels, save

    figure, (axis,) = panels(1, width=6.8, height=4.4)
    entries: dict[str, Any] = {}
    advised = advice.advised.name if advice.advised else None
    for number, figures in enumerate(sorted(advice.methods, key=lambda figures: figures.tokens.mean)):
        accuracy = figures.accuracy
        assert accuracy is not None, "there are answers"
        chosen = figures.name == advised
        entries[f"{figures.name} (advised)" if chosen else figures.name] = axis.errorbar(
            figures.tokens.mean,
            100 * accuracy.mean,
            yerr=[[100 * (accuracy.mean - accuracy.low)], [100 * (accuracy.high - accuracy.mean)]],
            color=COLOURS[number % len(COLOURS)],
            marker="*" if chosen else "osD^vP"[number // len(COLOURS)],
            markersize=15 if chosen else 6,
            elinewidth=0.9,
            capsize=2,
            linestyle="none",
            zorder=4 if chosen else 3,
        )
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xticks([step * 10**power for power in range(9) for step in (1, 2, 5)])
    axis.set_xlim(low, high)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("generated + scored tokens a question", fontsize=8.5)
    axis.set_ylabel("accuracy, %", fontsize=8.5)
    axis.set_title(headline(advice), fontsize=10)
    return save(figure, path, entries)
