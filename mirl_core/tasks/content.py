"""The content of a question: what a model is shown, as a digest.

Results are stored under a question's key, which stays when the question is edited. The digest tells whether a
stored result is still of the present text and pictures. Truth, choices and the data set's rule are no part of
it: no sample depends on them, and stored answers are judged by the present ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from mirl_core.tasks.questions import Question

__all__ = ["content_digest", "drawing_bytes", "named_some"]

_SHOWN = 3


def content_digest(question: Question) -> str:
    """Return the SHA-256 of the question's text and of each of its pictures, in their order; 64 hex digits.

    Pictures count as their stored bytes (`Question.stored`), or as their pixels where it has none: the same
    pixels in another file are another picture.

    Raises:
        ConfigError: a picture can't be read.
    """
    digest = hashlib.sha256()
    pictures = _pixels(question) if question.stored is None else question.stored()
    for part in (question.text.encode("utf-8", "surrogatepass"), *pictures):
        # With its length, so that no text continues in a picture.
        digest.update(f"{len(part)}:".encode())
        digest.update(part)
    return digest.hexdigest()


def drawing_bytes(scene: Any) -> bytes:
    """Return the parameters of a drawn scene, a dataclass, as bytes.

    They stand for the picture: the pixels' last bits differ between CPUs. Numbers have six digits for the
    same reason.
    """
    return repr(list(_plain(dataclasses.astuple(scene)))).encode()


def named_some(keys: Iterable[str]) -> str:
    """Return the first of the questions' keys, sorted, for a message: `q1, q2, q3 and 4 more`."""
    names = sorted(keys)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _pixels(question: Question) -> Iterator[bytes]:
    for load in (question.image, *question.more_images):
        image = load()
        yield f"{image.mode} {image.width}x{image.height} ".encode() + image.tobytes()


def _plain(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield list(_plain(value))
        elif isinstance(value, float):
            yield f"{value:.6g}"
        else:
            yield value if value is None or isinstance(value, bool | int | str) else str(value)
