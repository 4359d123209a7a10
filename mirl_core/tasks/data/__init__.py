"""Data sets by name; imports questions, worlds and, when an `hf:` name is opened, the datasets library.

worlds.py    digits/iid, …, charts/iid, …, easy-vqa
files.py     FILE.jsonl
hub.py       hf:NAME or hf:PATH: a Hugging Face data set through a column mapping
mappings.py  column mappings, among them the ready ones
rules.py     options in texts, and the data sets' rules of rightness
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mirl_core.errors import ConfigError
from mirl_core.tasks.data.mappings import READY
from mirl_core.tasks.questions import DataSet

WORLDS = (
    "digits/iid",
    "digits/shifted",
    "digits/ambiguous",
    "charts/iid",
    "charts/half",
    "charts/quarter",
    "charts/shifted",
    "charts/ambiguous",
    "easy-vqa",
)


def names() -> tuple[str, ...]:
    """Return the names that `open_data` takes, for help texts; placeholders are in capitals."""
    return (*WORLDS, *(f"hf:{name}" for name in READY), "FILE.jsonl", "hf:PATH")


def open_data(
    name: str,
    part: str,
    limit: int | None,
    seed: int,
    mapping: str | Path | None = None,
    *,
    skip: int = 0,
    unlabelled: bool = False,
) -> DataSet:
    """Return the questions of the data set `name`, without the first `skip` of their order.

    Args:
        name: one of `names()`.
        part: `dev` or `test`; published data sets may have further parts. A file is one part.
        limit: most questions, chosen by `seed`; None: all. A larger limit only appends.
        seed: chooses among the questions where there are more than `limit`.
        mapping: a YAML file that maps the columns, for `hf:` names only.
        skip: for questions on which nothing was chosen and of which nothing was reported.
        unlabelled: whether questions of a JSON-lines file may lack an answer.

    Raises:
        ConfigError: the data set doesn't exist, has no such part, no more than `skip` questions, or its
            content is malformed.
    """
    if not skip:
        return _open(name, part, limit, seed, mapping, unlabelled)
    data = _open(name, part, None if limit is None else limit + skip, seed, mapping, unlabelled)
    if not (questions := data.questions[skip:]):
        raise ConfigError(f"skip: {name} has only {len(data.questions)} questions", param="skip")
    return replace(data, questions=questions)


def _open(
    name: str, part: str, limit: int | None, seed: int, mapping: str | Path | None, unlabelled: bool
) -> DataSet:
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

        return open_file(name, part, limit, seed, unlabelled=unlabelled)
    raise ConfigError(f"data: there is no '{name}'; there are: {', '.join(names())}", param="data")
