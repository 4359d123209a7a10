"""File names made of the names of data sets, methods, runs and questions."""

from __future__ import annotations

import re

__all__ = ["file_name"]


def file_name(data: str) -> str:
    """A data set's or method's name as a file name, without suffix."""
    return re.sub(r"[^A-Za-z0-9.@+=-]+", "_", data).strip("._") or "data"
