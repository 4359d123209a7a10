"""`questions.html`: a run's questions to look at, with what every method did in its first replay.

entries.py     one question as JSON: descriptions, methods, chains, votes
pictures.py    the pictures, kept beside the run as `pictures/<data set>/`
page.css, page.js    the page, which needs no other file and no host
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.judge import judged_by
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.bank.store import Bank
from mirl_core.evaluation.measures.outcomes import read_rows
from mirl_core.evaluation.methods import Method, Prepared, parse_methods, unlabelled
from mirl_core.evaluation.report.browser.entries import Player, entry
from mirl_core.evaluation.report.browser.pictures import drawn_again, pictures_of
from mirl_core.evaluation.report.summary import BASELINE, read_summary
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.html_pages import document, json_block
from mirl_core.tasks.plotting import method_colour

__all__ = ["PAGE", "QUESTIONS", "Browsed", "browse_folder", "write_browser"]

PAGE = "questions.html"
QUESTIONS = 100
"""Questions of each data set on the page, by default."""
_LARGEST = 16_000_000
"""Most bytes of the questions on the page: browsers open it at once."""


@dataclass(frozen=True, slots=True)
class Browsed:
    """A data set of a run: the lines of `questions/<data>.jsonl`, and the bank's records, in one order."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    banked: Sequence[BankedQuestion]


def browse_folder(folder: Path, count: int = QUESTIONS, show: Sequence[str] | None = None) -> Path | None:
    """Write the page of a run's folder; return None where it has no bank or no lines of questions.

    Args:
        count: questions of each data set, the first ones.
        show: methods on the page; None: all of the run.

    Raises:
        ConfigError: the folder's files were not written by `mirl-eval run`.
    """
    summary = read_summary(folder)
    if not (folder / "bank" / "bank.json").is_file() or count < 1:
        return None
    bank = Bank.existing(folder / "bank")
    methods = _methods(summary, show)
    data = []
    for name in summary["data"]:
        path = folder / "questions" / f"{file_name(name)}.jsonl"
        if not path.is_file():
            return None
        rows = read_rows(path)
        try:
            banked = _records(bank, name, rows)
            questions = drawn_again(
                folder, name, str(summary.get("part")), summary.get("seed", 0), rows[:count]
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} was not written by `mirl-eval run`: {error!r}") from error
        rows = [row for row in rows if row["key"] in banked]
        judged = [
            judged_by(banked[row["key"]], questions[row["key"]])
            if row["key"] in questions
            else banked[row["key"]]
            for row in rows
        ]
        data.append(Browsed(name, rows, judged))
    return write_browser(folder, summary, methods, data, count)


def write_browser(
    folder: Path,
    summary: Mapping[str, Any],
    methods: Sequence[Method],
    data: Sequence[Browsed],
    count: int = QUESTIONS,
    largest: int = _LARGEST,
) -> Path:
    """Write the page of a run, and return its path.

    Args:
        methods: those of the run that are shown.
        count: questions of each data set, the first ones.
        largest: most bytes of the questions; where they take more, each data set shows fewer.

    Raises:
        ConfigError: the bank lacks samples or scores that a method needs.
    """
    names = [method.name for method in methods]
    baseline = BASELINE if BASELINE in names else None
    seed = summary.get("seed", 0)
    players = [Player(_prepared(methods, part.banked), seed, baseline) for part in data]
    shown: list[list[str]] = [[] for _ in data]
    left = largest
    # In turns, so that a bound on the size leaves about as many questions of every data set.
    for index in range(min(count, max((len(part.rows) for part in data), default=0))):
        for number, (part, player) in enumerate(zip(data, players, strict=True)):
            if index >= len(part.rows) or left < 0:
                continue
            row, banked = part.rows[index], part.banked[index]
            pictures = pictures_of(folder, part.name, row["key"])
            line = json.dumps(entry(number, row, banked, player, pictures), ensure_ascii=False)
            left -= len(line.encode())
            if left >= 0:
                shown[number].append(line)
    page = {
        "model": str(summary.get("model", "a model")),
        "part": str(summary.get("part", "")),
        "baseline": baseline,
        "methods": [
            {"name": name, "colour": method_colour(name), "score": players[0].score_words(name)}
            for name in names
        ]
        if players
        else [],
        "data": [
            {"name": part.name, "shown": len(lines), "all": len(part.rows)}
            for part, lines in zip(data, shown, strict=True)
        ],
        "questions": [json.loads(line) for lines in shown for line in lines],
    }
    path = folder / PAGE
    path.write_text(_document(page), encoding="utf-8")
    return path


def _prepared(methods: Sequence[Method], banked: Sequence[BankedQuestion]) -> list[Method]:
    """Return the methods, those that learn from traffic fitted to all of the data set's questions."""
    learning = any(isinstance(method, Prepared) for method in methods)
    blind = [unlabelled(question) for question in banked] if learning else []
    return [method.prepare(blind) if isinstance(method, Prepared) else method for method in methods]


def _document(page: Mapping[str, Any]) -> str:
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = f'{json_block("run", page)}\n<div id="app"><noscript>This page needs scripts.</noscript></div>'
    return document(f"Questions of {page['model']}", body, style, script)


def _methods(summary: Mapping[str, Any], show: Sequence[str] | None) -> tuple[Method, ...]:
    """Return the run's methods under the settings that the run had."""
    settings = ModelSettings.model_validate(summary.get("settings") or {})
    plan = summary.get("bank") or {}
    if plan.get("references"):
        settings = settings.model_copy(update={"reference_images": ("reference",) * plan["references"]})
    if plan.get("fork_image", settings.options.fork_image) != settings.options.fork_image:
        settings = settings.model_copy(update={"calibration": None})
    names = [name for name in summary.get("methods") or {} if show is None or name in show]
    return parse_methods(",".join(names), settings, summary.get("opening_tokens", 1)) if names else ()


def _records(bank: Bank, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, BankedQuestion]:
    """Return the bank's record of each line, by key: that with the line's content."""
    contents = {row["key"]: row.get("content") or "" for row in rows}
    records: dict[str, BankedQuestion] = {}
    for record in bank.load(name):
        if record.key in contents and record.content in ("", contents[record.key]):
            records[record.key] = record
    return records
