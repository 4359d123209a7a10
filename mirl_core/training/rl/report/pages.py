"""Sampled trajectories as one HTML page: text, rewards, and whether the answer was right.

The page is self-contained: styles and pictures are inside, and it has no script; all text from a model or a
data set is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.errors import ConfigError
from mirl_core.tasks.html_pages import data_uri, document
from mirl_core.training.rl.report.monitor import Lines, cut_back, read_lines

if TYPE_CHECKING:
    from mirl_core.tasks.questions import Question
    from mirl_core.training.rl.planners.rows import Trajectory

__all__ = ["PICTURES", "TRAJECTORIES", "TrajectoryLog", "page", "write_page"]

TRAJECTORIES = "trajectories.jsonl"
PICTURES = "pictures"
_QUESTIONS = 2
"""Questions per sample: a step's complete rollouts are too much to read."""
_MOST = 40
"""Most questions on the page, evenly over the run."""
_LARGEST = 512
"""Pictures are shrunk to this size; pixels."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; border-top: 1px solid #ddd; padding-top: 1rem }
img { float: right; margin: 0 0 .5rem 1rem; min-width: 8rem; max-width: 16rem; image-rendering: pixelated }
table { border-collapse: collapse; width: 100%; clear: both; margin: .4rem 0 }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem; border-bottom: 1px solid #eee }
th { font-weight: 600; color: #555; font-size: .85rem } td.n { text-align: right; white-space: nowrap }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.4 ui-monospace, monospace }
.yes { color: #00683f } .no { color: #b03000 } .up { background: #eef7f2 } .down { background: #fbf1ed }
small { color: #666 }
"""


class TrajectoryLog:
    """A run's samples: one line per step and question. The steps share the files with pictures.

    Args:
        step: at which the run continues; later lines are cut off.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        cut_back(folder / TRAJECTORIES, step)
        self._lines = Lines(folder / TRAJECTORIES)

    def log(self, step: int, questions: Sequence[Question], trajectories: Sequence[Trajectory]) -> None:
        """Log the trajectories of the first questions that have any."""
        with_trajectories = {trajectory.question for trajectory in trajectories}
        for question in [question for question in questions if question.key in with_trajectories][
            :_QUESTIONS
        ]:
            self._lines.log(
                step,
                {
                    "question": question.key,
                    "text": question.text,
                    "truth": question.answer,
                    "picture": self._picture(question),
                    "trajectories": [
                        asdict(trajectory)
                        for trajectory in trajectories
                        if trajectory.question == question.key
                    ],
                },
            )

    def close(self) -> None:
        self._lines.close()

    def _picture(self, question: Question) -> str:
        """Return the picture's file, relative to the run; write it the first time."""
        from mirl_core.tasks.file_names import file_name

        path = self._folder / PICTURES / f"{file_name(question.key)}.png"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            picture = question.image().convert("RGB")
            picture.thumbnail((_LARGEST, _LARGEST))
            part = path.with_suffix(".part")
            picture.save(part, format="PNG")
            part.replace(path)
        return path.relative_to(self._folder).as_posix()


def write_page(run: Path, path: Path) -> Path | None:
    """Write the run's samples as a page at `path`; return None where it has none.

    Raises:
        ConfigError: the samples were not written by `mirl-train rl`.
    """
    lines = read_lines(run / TRAJECTORIES)
    if not lines:
        return None
    shown = lines if len(lines) <= _MOST else [lines[len(lines) * i // _MOST] for i in range(_MOST)]
    try:
        path.write_text(page(run.name, shown, run), encoding="utf-8")
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{run / TRAJECTORIES} was not written by `mirl-train rl`: {error!r}") from error
    return path


def page(title: str, lines: Iterable[Mapping[str, Any]], folder: Path) -> str:
    """Return the page of some lines of trajectories.jsonl; pictures are read from `folder`."""
    body = "\n".join(part for line in lines for part in _question(line, folder))
    return document(
        title,
        f"<h1>Trajectories of {escape(title)}</h1>\n"
        "<p>Green rows were made more likely, red ones less. Rewards by name are before weights.</p>\n"
        f"{body}",
        _STYLE,
    )


def _question(line: Mapping[str, Any], folder: Path) -> Iterator[str]:
    yield f"<h2>Step {line['step']} <small>{escape(line['question'])}</small></h2>"
    yield _image(line.get("picture"), folder)
    yield f"<p>{escape(line['text'])}</p><p><small>Truth:</small> {escape(line['truth'])}</p>"
    yield (
        "<table><tr><th>segment</th><th>text</th><th>answer</th><th>right</th><th>reward</th><th>advantage</th>"
        "<th>rewards</th></tr>"
    )
    ranked = sorted(
        line["trajectories"], key=lambda trajectory: (trajectory["segment"], -trajectory["advantage"])
    )
    yield from (_row(trajectory) for trajectory in ranked)
    yield "</table>"


def _row(trajectory: Mapping[str, Any]) -> str:
    kind = "up" if trajectory["advantage"] > 0 else "down" if trajectory["advantage"] < 0 else ""
    right = {True: '<span class="yes">yes</span>', False: '<span class="no">no</span>'}.get(
        trajectory["right"], ""
    )
    parts = "<br>".join(f"{escape(name)} {_figure(value)}" for name, value in trajectory["parts"].items())
    return (
        f'<tr class="{kind}"><td>{escape(trajectory["segment"])}</td>'
        f'<td class="text">{escape(trajectory["text"])}</td>'
        f"<td>{escape(trajectory['answer'] or '')}</td><td>{right}</td>"
        f'<td class="n">{_figure(trajectory["reward"])}</td><td class="n">{trajectory["advantage"]:+.3f}</td>'
        f"<td>{parts}</td></tr>"
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _image(name: str | None, folder: Path) -> str:
    path = folder / (name or "")
    # Only the run's own picture files: a line must not pull other files into the page.
    if not name or not path.is_file() or path.resolve().parent != (folder / PICTURES).resolve():
        return ""
    return f'<img alt="" src="{data_uri(path.read_bytes())}">'
