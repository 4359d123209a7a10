"""The Markdown report: tables of a summary's figures, with the meaning of the columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.evaluation.measures.statistics import detectable_difference
from mirl_core.tasks.markdown_tables import percent, points, table

__all__ = ["detectable", "markdown", "p_value", "unchecked_pictures"]

_PREFACE = """Accuracy is the share of right answers, every question's draws averaged; brackets are 95%
intervals: Wilson's for accuracies, at the number of independent cases that a bootstrap over scenes and
glyphs leaves; that bootstrap's percentiles for differences and ratios. A difference's interval is at least as
wide as that of so many scenes without a discordant question. Tokens and trajectories are means a question:
*generated* counts every sampled token once, aborted ones until their abort; *scored* is the image-free
forward pass; a *trajectory* is a chain that ran to its end. *p* is McNemar's exact test on the first draw,
which takes questions for independent: quote the interval. *p, Holm* is that bootstrap's p-value of the
difference to the baseline, adjusted by Holm's method for the data sets of this run."""


def markdown(summary: Mapping[str, Any], plots: Sequence[Path] = ()) -> str:
    """Return the report; `plots` are paths relative to it."""
    images = {plot.stem: f"![{plot.stem.replace('-', ' ')}]({plot.as_posix()})" for plot in plots}
    sections = [
        f"# Evaluation of {summary.get('model', 'a model')}",
        _facts(summary),
        "## Accuracy and cost",
        _PREFACE,
        images.get("accuracy-cost"),
        *(f"### {name}\n\n{_methods(summary, name)}" for name in summary["data"]),
        _section("## Live against replay", _live(summary), _LIVE),
        _section("## Calibration of the reported confidence", _calibration(summary), _CALIBRATION),
        images.get("reliability"),
        _section("## Selection", _selection(summary), _SELECTION),
        images.get("selection"),
        images.get("mi-weight"),
        _section("## Score and length", _length(summary), _LENGTH),
        _section("## What a right description is worth", _causality(summary), _CAUSALITY),
        _section("## Chains after right and wrong descriptions", _faithfulness(summary), _FAITHFULNESS),
        _section("## Sample size", _sample_size(summary), _SAMPLE_SIZE),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals: `0.043`, `<0.001`; a dash for None."""
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _section(title: str, body: str, words: str) -> str:
    return f"{title}\n\n{words}\n\n{body}" if body else ""


def _facts(summary: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items())
    bank = ", ".join(f"{name} {_plain(value)}" for name, value in (summary.get("bank") or {}).items())
    usual = dict(_flat(ModelSettings().model_dump(mode="json")))
    changed = ", ".join(
        f"{name} = {_plain(value)}"
        for name, value in _flat(summary.get("settings") or {})
        if value != usual.get(name, value) or name not in usual
    )
    sizes = ", ".join(
        f"{name}: {next(iter(methods.values()))['n']}" for name, methods in summary["data"].items() if methods
    )
    rows = [
        (
            "model",
            f"{summary.get('model', '–')} ({str(summary.get('fingerprint') or 'no fingerprint')[:16]})",
        ),
        ("part", str(summary.get("part", "–"))),
        ("questions", sizes),
        *unchecked_pictures(summary),
        ("replays of each question", str(summary.get("draws", "–"))),
        ("seed", str(summary.get("seed", "–"))),
        ("bank", bank or "–"),
        ("model's settings other than the defaults", changed or "none"),
        ("versions", versions or "–"),
        ("command", f"`{summary['command']}`" if summary.get("command") else "–"),
    ]
    return table(["", " "], rows)


def unchecked_pictures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a row of a run's facts on records of earlier versions, where the run used any."""
    counts = ", ".join(
        f"{name}: {count}" for name, count in (summary.get("unchecked_pictures") or {}).items()
    )
    words = (
        "sampled by an earlier version, which noted no pictures: that they are the present ones is not known"
    )
    return [("questions with unchecked pictures", f"{counts} ({words})")] if counts else []


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield settings by dotted name, long texts cut."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            words = isinstance(value, str) and (" " in value or not value)
            yield f"{prefix}{name}", f"'{value:.60}'" if words else value


def _methods(summary: Mapping[str, Any], name: str) -> str:
    compared = summary["comparisons"].get(name) or {"baseline": None, "methods": {}}
    baseline = compared["baseline"]
    rows = []
    for method, row in summary["data"][name].items():
        against = compared["methods"].get(method, {})
        ratio = against.get("tokens_ratio")
        rows.append(
            [
                f"`{method}`",
                percent(row["accuracy"], row["low"], row["high"]),
                _number(row["generated_tokens"]),
                _number(row["scored_tokens"]),
                _number(row["complete_trajectories"]),
                points(against),
                p_value(against.get("mcnemar_p")),
                p_value(against.get("holm_p")),
                "1" if method == baseline else _number(ratio, 2),
            ]
        )
    head = [
        "method",
        "accuracy, %",
        "generated tokens",
        "scored tokens",
        "trajectories",
        f"against `{baseline}`, points",
        "p",
        "p, Holm",
        f"tokens, × `{baseline}`",
    ]
    return table(head, rows)


_LIVE = """The real pipeline, end to end, on the same questions: one run a question, one question at a time.
*Difference* is live minus replay, paired. *Engine seconds* are wall time from the picture to the answer, on
the machine that ran it: compare methods of one run, nothing else."""


def _live(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, methods in summary["live"].items():
        for method, paired in methods.items():
            live, replay = paired["live"], paired["replay"]
            rows.append(
                [
                    name,
                    f"`{method}`",
                    str(live["n"]),
                    percent(live["accuracy"], live["low"], live["high"]),
                    percent(replay["accuracy"], replay["low"], replay["high"]),
                    points(paired["comparison"]),
                    f"{_number(live['tokens'])} / {_number(replay['tokens'])}",
                    f"{_number(live['complete_trajectories'])} / {_number(replay['complete_trajectories'])}",
                    _number(live["engine_seconds"], 3),
                ]
            )
    head = ["data", "method", "n", "live, %", "replay, %", "difference, points"]
    return table([*head, "tokens, live / replay", "trajectories", "engine seconds"], rows)


_CALIBRATION = """Reported confidence is the vote's share; of a gate under the model's own options it is the
calibrated probability, where the model's `mirl.json` has a calibration. ECE: mean distance between confidence
and accuracy over ten bins, in points."""


def _calibration(summary: Mapping[str, Any]) -> str:
    rows = [
        [name, f"`{method}`", percent(row["confidence"]), percent(row["accuracy"]), percent(row["ece"])]
        for name, methods in summary["data"].items()
        for method, row in methods.items()
        if row.get("confidence") is not None
    ]
    return table(["data", "method", "mean confidence, %", "accuracy, %", "ECE, points"], rows)


_SELECTION = """Chance that a right description of a question scores above a wrong one (AUROC within
questions, mean over the questions that have both; 0.5: the score knows nothing). λ = 0 is plain
confidence."""


def _selection(summary: Mapping[str, Any]) -> str:
    parts = []
    for name, figures in summary["selection"].items():
        weights = sorted({row["mi_weight"] for row in figures})
        rows = [
            [f"{estimator}, per {'token' if normalize == 'token' else 'description'}"]
            + [
                f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                for row in figures
                if (row["estimator"], row["normalize"]) == (estimator, normalize)
            ]
            for estimator, normalize in dict.fromkeys((row["estimator"], row["normalize"]) for row in figures)
        ]
        if rows:
            body = table(["estimator", *(f"λ = {weight:g}" for weight in weights)], rows)
            parts.append(f"**{name}** (n = {figures[0]['n']})\n\n{body}")
    return "\n\n".join(parts)


_LENGTH = """Spearman's correlation of the score with the description's length in tokens: over all
descriptions, and within questions (mean). Near ±1 the gate chooses by length."""


def _length(summary: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            "confidence (λ = 0)" if row["mi_weight"] == 0 else f"MI, {row['estimator']} (λ = 1)",
            "per token" if row["normalize"] == "token" else "sum",
            _number(row["overall"], 2),
            _number(row["within"], 2),
        ]
        for name, figures in summary["length"].items()
        for row in figures
    ]
    return table(["data", "score", "normalised", "overall", "within questions"], rows)


_CAUSALITY = """Right answers after right and after wrong descriptions of the same questions, in the bank.
Where the two hardly differ, no gate can gain: the chains don't depend on what they were forked from."""


def _causality(summary: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            str(row["n"]),
            percent(row["descriptions_right"]),
            percent(row["after_right"], row["after_right_low"], row["after_right_high"]),
            percent(row["after_wrong"], row["after_wrong_low"], row["after_wrong_high"]),
            points(row, "difference", "difference_low", "difference_high"),
        ]
        for name, row in summary["causality"].items()
        if row
    ]
    head = ["data", "questions with both", "descriptions right, %", "answers after right ones, %"]
    return table([*head, "after wrong ones, %", "difference, points"], rows)


_FAITHFULNESS = """How often a chain's answer is right, by whether its description was. Over all chains of the
bank: easy questions have more of the right descriptions. Chains that follow their description are seldom
right after a wrong one."""


def _faithfulness(summary: Mapping[str, Any]) -> str:
    rows = [
        [name, words, str(row["n"]), percent(row["share"], row["low"], row["high"])]
        for name, figures in (summary.get("faithfulness") or {}).items()
        for kind, words in (("after_right", "right"), ("after_wrong", "wrong"))
        if (row := (figures or {}).get(kind))
    ]
    return table(["data", "description", "chains", "answer right, %"], rows)


_SAMPLE_SIZE = """Questions at which a difference of two points to the baseline would be found with 80%
power (McNemar, 5% two-sided), from the measured share of questions that exactly one of the two got right,
times the design effect of shared scenes and glyphs. *Detectable* is the least
difference for which the same formula needs no more questions than this run has."""


def _sample_size(summary: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"`{method}`",
            percent(row["discordance"]),
            _number(row["design_effect"], 2),
            "–" if row["needed_for_2_points"] is None else str(row["needed_for_2_points"]),
            percent(detectable(row)),
        ]
        for name, compared in summary["comparisons"].items()
        for method, row in compared["methods"].items()
    ]
    head = ["data", "method", "discordant, %", "design effect", "questions for 2 points"]
    return table([*head, "detectable, points"], rows)


def detectable(comparison: Mapping[str, Any]) -> float | None:
    """Return the least difference (share) that a comparison's questions show with 80% power; None: none."""
    return detectable_difference(comparison["discordance"], comparison["n"], comparison["design_effect"])
