"""File names made of the names of data sets, methods, runs and questions."""

from __future__ import annotations

import re

__all__ = ["file_name"]


def file_name(name: str) -> str:
    """Return the name of a data set, method, run or question as a file name, without suffix."""
    return re.sub(r"[^A-Za-z0-9.@+=-]+", "_", name).strip("._") or "data"
