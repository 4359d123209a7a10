"""Pictures of a command line: files, URLs, stdin and the clipboard."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mirl_client.errors import PictureError
from mirl_client.pictures import Picture


def read_pictures(words: Sequence[str], clipboard: bool = False) -> list[Picture]:
    """Return the pictures that words name; `-` is stdin, read once.

    Args:
        clipboard: whether the clipboard's picture comes after them.

    Raises:
        PictureError: a file is missing, `-` comes twice, or the clipboard has no picture.
    """
    if words.count("-") > 1:
        raise PictureError("stdin ('-') can be one picture only")
    pictures = [_picture(word) for word in words]
    return [*pictures, *clipboard_pictures()] if clipboard else pictures


def _picture(word: str) -> Picture:
    if word == "-":
        data = sys.stdin.buffer.read()
        if not data:
            raise PictureError("stdin ('-') has no data")
        return data
    if not word.startswith(("http://", "https://", "data:")) and not os.path.isfile(word):
        raise PictureError(f"{word}: no such file")
    return word


def clipboard_pictures() -> list[Picture]:
    """Return the clipboard's picture, or its pictures where it holds files.

    Raises:
        PictureError: it has none, or can't be read on this machine.
    """
    try:
        from PIL import ImageGrab
    except ImportError as error:
        raise PictureError("the clipboard needs Pillow: pip install 'mirl-client[pictures]'") from error
    try:
        content = ImageGrab.grabclipboard()
    # Pillow raises errors of many kinds where the desktop's helper program is missing.
    except Exception as error:
        raise PictureError(f"the clipboard can't be read here: {error}") from error
    if content is None or content == []:
        raise PictureError("the clipboard has no picture")
    return list(content) if isinstance(content, list) else [content]
