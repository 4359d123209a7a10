"""JSON lines as a data set; pictures from bytes and samples by seed, which all data sets use.

One question a line: `image` (a path relative to the file, or a data URL), `question`, `answer`, and
optionally `choices`, `id`, `family`. A reader of unlabelled questions needs no `answer`. Every mistake is one
line that names file, line and field.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from mirl_core.config import Settings, first_problem
from mirl_core.engines.common.images import upright_rgb
from mirl_core.errors import ConfigError
from mirl_core.tasks.json_lines import numbered_lines, parse_line
from mirl_core.tasks.questions import DataSet, Question, chosen, render_choices

if TYPE_CHECKING:
    from PIL.Image import Image

_SEED = 930
_T = TypeVar("_T")


class Line(Settings):
    """One line of a data file."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    image: Annotated[str, Field(min_length=1)]
    """A path relative to the data file, or a data URL."""
    question: Annotated[str, Field(min_length=1)]
    """The question, without the choices."""
    answer: Annotated[str, Field(min_length=1)] | None = None
    """The truth; with choices an option's letter or text. None: unlabelled."""
    choices: Annotated[tuple[str, ...], Field(max_length=26)] = ()
    """The options' texts, A first."""
    id: Annotated[str, Field(min_length=1)] | None = None
    """A name of the question that stays when lines move; None: the line's number."""
    family: str = ""
    """Kind of question."""


def open_file(name: str, part: str, limit: int | None, seed: int, *, unlabelled: bool = False) -> DataSet:
    """Return the questions of a JSON-lines file, or `limit` of them by `seed`; `part` is a label only.

    Args:
        unlabelled: whether lines may lack the answer.

    Raises:
        ConfigError: the file or a line of it is malformed. Only the presence of a picture is checked here;
            opening a broken picture raises ConfigError too.
    """
    path = Path(name)
    try:
        lines = list(numbered_lines(path))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error}", param="data") from error
    questions: dict[str, Question] = {}
    for number, text in lines:
        question = _question(path, number, text, unlabelled)
        if question.key in questions:
            raise _wrong(path, number, "id", f"'{question.key}' has been on an earlier line; make it unique")
        questions[question.key] = question
    if not questions:
        raise ConfigError(f"{path} holds no questions", param="data")
    return DataSet(name, part, sample(tuple(questions.values()), limit, seed))


def _question(path: Path, number: int, text: bytes, unlabelled: bool) -> Question:
    try:
        value = parse_line(text)
    except ValueError as error:
        raise ConfigError(f"{path}: line {number}: {error}", param="data") from error
    try:
        line = Line.model_validate(value)
    except ValidationError as error:
        message, where = first_problem(error, Line)
        raise ConfigError(f"{path}: line {number}: {message}", param=where) from error
    # pydantic refuses such text in the fields that have a least length.
    for field in ("choices", "family"):
        if not _is_text(getattr(line, field)):
            raise _wrong(path, number, field, "holds half a character (a lone surrogate, \\ud800 to \\udfff)")
    if line.answer is None and not unlabelled:
        raise _wrong(path, number, "answer", "Field required")
    if not line.image.startswith("data:") and not (path.parent / line.image).is_file():
        raise _wrong(path, number, "image", f"there is no file '{path.parent / line.image}'")
    text_shown = line.question
    if line.choices:
        if line.answer is not None:
            _check_choice(path, number, line.choices, line.answer)
        text_shown = f"{text_shown}\n{render_choices(line.choices)}"
    return Question(
        key=line.id or f"{path.stem}-{number:06d}",
        text=text_shown,
        answer=line.answer or "",
        image=partial(_open, path, number, line.image),
        family=line.family,
        choices=line.choices,
        stored=partial(_stored, path, number, line.image),
    )


def _is_text(value: str | tuple[str, ...] | None) -> bool:
    """Return whether all of it can be written as UTF-8: JSON's escapes can name halves of characters."""
    try:
        "".join(value or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_choice(path: Path, number: int, choices: tuple[str, ...], answer: str) -> None:
    """Raise ConfigError unless the answer names one of the choices."""
    index = chosen(choices, answer)
    if index is None:
        raise _wrong(path, number, "answer", f"'{answer}' is none of the choices, or several")
    if answer in choices and choices[index] != answer:
        raise _wrong(path, number, "answer", f"'{answer}' is one option's letter and another's text")


def _open(path: Path, number: int, source: str) -> Image:
    (data,) = _stored(path, number, source)
    try:
        return read_image(data)
    except (OSError, ValueError) as error:
        raise _wrong(path, number, "image", f"can't be read: {error}") from error


def _stored(path: Path, number: int, source: str) -> tuple[bytes]:
    """Return the encoded picture of a line."""
    try:
        if source.startswith("data:"):
            return (from_data_url(source),)
        return ((path.parent / source).read_bytes(),)
    except (OSError, ValueError) as error:
        raise _wrong(path, number, "image", f"can't be read: {error}") from error


def _wrong(path: Path, number: int, field: str, problem: str) -> ConfigError:
    return ConfigError(f"{path}: line {number}: {field}: {problem}", param=field)


def sample(items: Sequence[_T], limit: int | None, seed: int) -> tuple[_T, ...]:
    """Return all items in their order without a limit; else the first `limit` of an order by `seed`.

    A larger limit only appends.
    """
    if limit is None:
        return tuple(items)
    order = np.random.default_rng([_SEED, seed]).permutation(len(items))
    return tuple(items[index] for index in order[:limit])


def from_data_url(url: str) -> bytes:
    """Return the bytes of a base64 data URL.

    Raises:
        ValueError: `url` is no base64 data URL.
    """
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("a data URL must read data:image/…;base64,…")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data URL is not base64 ({error})") from error


def read_image(data: bytes) -> Image:
    """Return an encoded picture as RGB; see `upright_rgb`.

    Raises:
        OSError, ValueError: the bytes are no picture, or are cut off.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return upright_rgb(image)
    except (Image.DecompressionBombError, SyntaxError) as error:
        # PIL reports some broken files by SyntaxError.
        raise ValueError(str(error)) from error
