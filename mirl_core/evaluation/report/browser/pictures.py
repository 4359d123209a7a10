"""The pictures of a run's first questions, small, in files beside the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.errors import ConfigError
from mirl_core.tasks.content import content_digest
from mirl_core.tasks.data import WORLDS, open_data
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.html_pages import data_uri, encoded
from mirl_core.tasks.questions import Question

__all__ = ["drawn_again", "keep_pictures", "pictures_of"]

_LARGEST = 384
"""Pixels."""
_MOST = 4
"""Pictures of one question."""


def keep_pictures(folder: Path, data: str, questions: Iterable[Question]) -> None:
    """Write the questions' pictures to `folder/pictures/<data set>/`."""
    for question in questions:
        for path, load in zip(
            _paths(folder, data, question.key), (question.image, *question.more_images), strict=False
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(encoded(load(), _LARGEST))
            part.replace(path)


def pictures_of(folder: Path, data: str, key: str) -> list[str]:
    """Return the question's pictures as sources of a page; none where the run kept none."""
    return [data_uri(path.read_bytes()) for path in _paths(folder, data, key) if path.is_file()]


def drawn_again(
    folder: Path, data: str, part: str, seed: int, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Question]:
    """Return the questions of a world by key, for a run that kept no pictures, and keep their pictures.

    Empty for other data sets, and where the run kept pictures. A question that is not the run's is left out.
    """
    if data not in WORLDS or any(pictures_of(folder, data, row["key"]) for row in rows):
        return {}
    try:
        questions = open_data(data, part, len(rows), seed).questions
    except ConfigError:
        return {}
    contents = {row["key"]: (row.get("content"), row.get("truth")) for row in rows}
    same = {}
    for question in questions:
        content, truth = contents.get(question.key, (None, None))
        if truth == question.answer and content in (None, "", content_digest(question)):
            same[question.key] = question
    keep_pictures(folder, data, same.values())
    return same


def _paths(folder: Path, data: str, key: str) -> list[Path]:
    # No suffix of a kind: small pictures are PNG, photographs JPEG, and the page reads which.
    return [
        folder / "pictures" / file_name(data) / f"{file_name(key)}-{number}.img" for number in range(_MOST)
    ]
