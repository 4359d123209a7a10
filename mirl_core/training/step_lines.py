"""Files of JSON lines with a `step` each: a run's metrics, evaluations and samples.

They belong to a checkpoint: lines of later steps are cut off before a run continues, so that no step appears
twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.tasks.json_lines import numbered_lines, parse_line

__all__ = ["Lines", "cut_back", "made_again", "read_lines"]


class Lines:
    """A file of JSON lines with a `step` each; every line is flushed as it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line. Numbers that aren't finite become null, since JSON has no NaN."""
        line = {"step": step} | {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of `Lines`, without a last line that was cut off; empty without file.

    Raises:
        ConfigError: a line before the last is no JSON object with a step.
    """
    if not path.is_file():
        return []
    lines = []
    for number, text in numbered_lines(path, appended=True):
        try:
            line = parse_line(text)
            if not isinstance(line.get("step"), int):
                raise ValueError("no step")
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{path}, line {number}: not a line of a run ({error})") from error
        lines.append(line)
    return lines


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, whole or not at all."""
    if not path.is_file():
        return
    kept = [line for line in read_lines(path) if line["step"] <= step]
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        for line in kept:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    partial.replace(path)


def made_again(first: int, last: int, path: Path) -> str:
    """Return words on the steps whose lines `cut_back` drops."""
    steps = f"step {first} is" if first == last else f"steps {first} to {last} are"
    return (
        f"{steps} made again, and {'its line is' if first == last else 'their lines are'} dropped from {path}"
    )


def _plain(value: Any) -> Any:
    """Return `value` for JSON, with numbers of numpy or torch converted."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
