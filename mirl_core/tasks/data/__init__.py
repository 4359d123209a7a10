"""Data sets by name.

worlds.py    digits/iid, digits/shifted, digits/ambiguous, easy-vqa
files.py     FILE.jsonl
hub.py       hf:NAME or hf:PATH: a Hugging Face data set through a column mapping
mappings.py  what a column mapping is, and those that are ready
"""

from __future__ import annotations

from pathlib import Path

from mirl_core.errors import ConfigError
from mirl_core.tasks.data.mappings import READY
from mirl_core.tasks.questions import DataSet

WORLDS = ("digits/iid", "digits/shifted", "digits/ambiguous", "easy-vqa")


def names() -> tuple[str, ...]:
    """What `open_data` takes, for help texts: names as they are, and forms in capitals."""
    return (*WORLDS, *(f"hf:{name}" for name in READY), "FILE.jsonl", "hf:PATH")


def open_data(
    name: str, part: str, limit: int | None, seed: int, mapping: str | Path | None = None
) -> DataSet:
    """Questions by the data set's name.

    Args:
        name: one of `names()`.
        part: `dev` or `test`; data sets of others may have further parts. A file is one part.
        limit: at most so many questions, chosen by `seed`; None: all. A larger limit only ever appends.
        seed: which questions, where there are more.
        mapping: a YAML file that says what is in which column, for `hf:` names only.

    Raises:
        ConfigError: the data set doesn't exist, has no such part, or is not what it should be.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"n: {limit} questions are not enough; ask for at least 1", param="n")
    if mapping is not None and not name.startswith("hf:"):
        raise ConfigError(f"mapping: only hf: data sets take a mapping, and {name} is none", param="mapping")
    if name in WORLDS:
        from mirl_core.tasks.data.worlds import open_world

        return open_world(name, part, limit, seed)
    if name.startswith("hf:"):
        from mirl_core.tasks.data.hub import open_hub

        return open_hub(name, part, limit, seed, mapping)
    if name.endswith((".jsonl", ".ndjson")):
        from mirl_core.tasks.data.files import open_file

        return open_file(name, part, limit, seed)
    raise ConfigError(f"data: there is no '{name}'; there are: {', '.join(names())}", param="data")
