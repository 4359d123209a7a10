"""A Hugging Face data set as questions, through a column mapping.

Pictures stay encoded in the data set's files until a question's picture is loaded.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Columns
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from mirl_core.errors import ConfigError
from mirl_core.tasks.data.files import from_data_url, read_image, sample
from mirl_core.tasks.data.mappings import READY, Mapping, read_mapping
from mirl_core.tasks.data.rules import option, parse_choices, rule
from mirl_core.tasks.questions import DataSet, Question, render_choices

if TYPE_CHECKING:
    from PIL.Image import Image

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


def open_hub(
    name: str, part: str, limit: int | None, seed: int, mapping: str | Path | None = None
) -> DataSet:
    """Return the questions of a Hugging Face data set, or `limit` of them by `seed`.

    `hf:NAME` is a ready mapping, which a mapping file may change; `hf:PATH` needs a mapping file.

    Raises:
        ConfigError: there is no such data set, part or column, or a row doesn't fit the mapping.
    """
    path = name.removeprefix("hf:")
    columns = READY.get(path)
    if mapping is not None:
        columns = read_mapping(mapping, columns or Mapping(path=path))
    if columns is None:
        raise ConfigError(
            f"data: {name} has no ready mapping; give --mapping FILE.yaml, or one of: "
            f"{', '.join(f'hf:{ready}' for ready in READY)}",
            param="data",
        )
    if part not in columns.splits:
        raise ConfigError(
            f"{name} has no part '{part}'; there are: {', '.join(columns.splits)}", param="part"
        )
    slug = path if path in READY else Path(path).name
    questions: dict[str, Question] = {}
    for question in _questions(name, slug, columns, columns.splits[part]):
        key, again = question.key, 1
        # A repeated row stays a question: published counts include it.
        while key in questions:
            again += 1
            key = f"{question.key}-{again}"
        # Rows of one key are one case statistically.
        questions[key] = replace(question, key=key, clusters=question.clusters or (question.key,))
    if not questions:
        raise ConfigError(f"{name} holds no questions; look at the mapping's where", param="data")
    return DataSet(name, part, sample(tuple(questions.values()), limit, seed))


def _questions(name: str, slug: str, columns: Mapping, split: str) -> Iterator[Question]:
    read = {
        column for field, names in _columns_by_field(columns).items() if field != "image" for column in names
    }
    for config in columns.configs or (None,):
        data = _load(name, columns, config, split)
        table = data.with_format("arrow")
        counts = [(column, _pictures(data.data.column(column))) for column in columns.image]
        labels = {column: f.int2str for column, f in data.features.items() if hasattr(f, "int2str")}
        prefix = f"{slug}-{config}" if len(columns.configs) > 1 else slug
        for row_number, raw in enumerate(data.select_columns(sorted(read))):
            row = {
                column: labels[column](value) if column in labels else value for column, value in raw.items()
            }
            if any(_text(_cell(row, column)) not in values for column, values in columns.where.items()):
                continue
            where = f"{name}: row {row_number}{f' of {config}' if config else ''}"
            cells = [
                _Cell(where, table, row_number, column, number)
                for column, lengths in counts
                for number in range(lengths[row_number])
            ]
            if not cells:
                raise ConfigError(
                    f"{where}: {', '.join(columns.image)}: there is no picture; leave such rows out (where)",
                    param="image",
                )
            yield _question(where, columns, row, f"{prefix}-{row_number:06d}", slug, cells)


def _load(name: str, columns: Mapping, config: str | None, split: str) -> Any:
    import datasets
    import httpx

    try:
        data = datasets.load_dataset(columns.path, name=config, split=split)
    except (OSError, ValueError, KeyError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        # Not found, not reachable, no such split or configuration, broken files: line 1 has the cause.
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        raise ConfigError(
            f"{name}: can't load {columns.path}{f' ({config})' if config else ''}, split {split}: {reason}",
            param="data",
        ) from error
    for field, named in _columns_by_field(columns).items():
        for column in named:
            if column not in data.column_names:
                raise ConfigError(
                    f"{name}: {field}: there is no column '{column}'; there are: "
                    f"{', '.join(data.column_names)}",
                    param=field,
                )
    return data


def _columns_by_field(columns: Mapping) -> dict[str, list[str]]:
    """Return the columns that each field of a mapping names."""
    choices = (columns.choices,) if isinstance(columns.choices, str) else columns.choices or ()
    named = {
        "image": columns.image,
        "question": (columns.question,),
        "answer": (columns.answer,),
        "choices": choices,
        "precision": (columns.precision or "",),
        "family": (columns.family or "",),
        "key": columns.key,
        "cluster": columns.cluster,
        "where": tuple(columns.where),
        "template": tuple(set(_PLACEHOLDER.findall(columns.template)) - {"question", "choices"}),
    }
    return {field: [column.split(".")[0] for column in names if column] for field, names in named.items()}


def _pictures(column: Any) -> list[int]:
    """Return the number of pictures in each row of an Arrow column: 0 in an empty cell, all of a list."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [length or 0 for length in pc.list_value_length(column).to_pylist()]
    return [int(valid) for valid in column.is_valid().to_pylist()]


def _question(
    where: str,
    columns: Mapping,
    row: Columns[str, Any],
    default_key: str,
    slug: str,
    cells: Sequence[_Cell],
) -> Question:
    choices = _choices(where, columns, row)
    truths = _truths(where, columns, row, bool(choices))
    if choices:
        index = option(columns.answer_form, choices, truths[0])
        if index is not None:
            truths = (ascii_uppercase[index],)
        elif columns.choices_in_question or columns.answer_form == "text":
            # Options that were parsed wrongly, or don't list the truth (some of MathVista's don't).
            choices = ()
        else:
            raise ConfigError(
                f"{where}: {columns.answer}: '{truths[0]}' is none of {len(choices)} choices", param="answer"
            )
    choices_shown = "" if columns.choices_in_question else render_choices(choices)
    rendered = {"question": _text(_cell(row, columns.question)), "choices": choices_shown}
    text = _PLACEHOLDER.sub(
        lambda m: rendered[m[1]] if m[1] in rendered else _text(_cell(row, m[1])), columns.template
    )
    together = "/".join(_text(_cell(row, column)) for column in columns.cluster)
    decimals = _cell(row, columns.precision) if columns.precision else None
    return Question(
        key="-".join((slug, *(_text(_cell(row, column)) for column in columns.key)))
        if columns.key
        else default_key,
        text=text.strip(),
        answer=truths[0],
        image=cells[0].open,
        family=_text(_cell(row, columns.family)) if columns.family else "",
        clusters=(f"{slug}-{together}",) if together else (),
        choices=choices,
        accept=None if choices else rule(truths, columns.tolerance, decimals),
        more_images=tuple(cell.open for cell in cells[1:]),
        stored=lambda: [cell.read() for cell in cells],
    )


def _choices(where: str, columns: Mapping, row: Columns[str, Any]) -> tuple[str, ...]:
    if columns.choices is None:
        return ()
    if isinstance(columns.choices, str):
        value = _cell(row, columns.choices)
        choices = parse_choices(value) if isinstance(value, str) else tuple(map(_text, value or ()))
    else:
        cells = [_cell(row, column) for column in columns.choices]
        choices = tuple(_text(cell) for cell in cells if cell is not None and _text(cell))
    if len(choices) > len(ascii_uppercase):
        raise ConfigError(
            f"{where}: choices: {len(choices)} are more than there are letters", param="choices"
        )
    return choices


def _truths(where: str, columns: Mapping, row: Columns[str, Any], has_choices: bool) -> tuple[str, ...]:
    """Return the truth, or all truths where the cell is a list of texts or the literal of one."""
    value = _cell(row, columns.answer)
    if isinstance(value, str) and not has_choices and value.startswith("["):
        try:
            listed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            listed = None
        # A list of numbers is a single answer.
        if isinstance(listed, list) and listed and all(isinstance(item, str) for item in listed):
            value = listed
    cells = value if isinstance(value, list) else [value]
    truths = tuple(columns.answers.get(_text(item), _text(item)) for item in cells)
    if not truths or not all(truths):
        raise ConfigError(
            f"{where}: {columns.answer}: there is no answer; this split may be published without",
            param="answer",
        )
    return truths


def _cell(row: Columns[str, Any], column: str) -> Any:
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Columns) else None
    return value


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


@dataclass(frozen=True, slots=True)
class _Cell:
    """One picture: the one in an Arrow row's cell, or picture `number` of the cell's list."""

    where: str
    table: Any
    row: int
    column: str
    number: int

    def read(self) -> bytes:
        """Return the encoded picture. Raises ConfigError."""
        value = self.table[self.row].column(self.column)[0].as_py()
        if isinstance(value, list):
            value = value[self.number]
        try:
            return _encoded(value)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def open(self) -> Image:
        """Return the picture, RGB. Raises ConfigError."""
        data = self.read()
        try:
            return read_image(data)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.where}: {self.column}: can't be read: {error}", param="image")


def _encoded(value: Any) -> bytes:
    if isinstance(value, Columns):
        value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return Path(value).read_bytes()
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is no picture")
    if value.startswith("data:"):
        return from_data_url(value)
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return Path(value).read_bytes()
