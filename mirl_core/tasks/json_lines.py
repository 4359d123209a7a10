"""Reading of JSON lines: data files that users write, and the files of lines that this product appends to.

Only "\\n" ends a line. `str.splitlines` also splits at U+2028, U+2029, U+0085 and others, which JSON allows
inside a string. A byte-order mark before a line is no part of it: some editors write one, and files with one
are joined to files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["numbered_lines", "parse_line"]

_BLANK = b" \t\r"
"""The white space of JSON other than the line end."""
_MARK = b"\xef\xbb\xbf"


def numbered_lines(path: Path, *, appended: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, content) of the lines of a file that are not blank.

    Args:
        appended: whether a process appends whole lines to the file, so that what follows the last line end
            was never finished; it is left out.

    Raises:
        OSError: the file can't be read.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1] if appended else lines, start=1):
        content = line.removeprefix(_MARK).strip(_BLANK)
        if content:
            yield number, content


def parse_line(line: bytes) -> Any:
    """Return the JSON value of a line.

    Raises:
        ValueError: the line is not UTF-8, not JSON, or nested too deeply. The message is one line, without
            the file's name.
    """
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of the line") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    except ValueError as error:
        # JSONDecodeError, or a number of more digits than Python converts.
        raise ValueError(f"not JSON: {error}") from error
