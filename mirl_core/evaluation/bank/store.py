"""Records on disk: a folder with a header of the conditions that made them, and one JSON line a record.

    DIR/bank.json              model, settings, plan, versions
    DIR/<data set>.jsonl       one line a question, in any order

A line is appended whole and forced to disk, so that a killed process leaves at most the last line
half-written. That line is dropped when the file is read, and cut off before the next line is appended.

A record is of one question as it was sampled: it holds the digest of the question's text and pictures. Only
records of the present content are used (`Store.current`). The others stay in the file, and are used again if
the question changes back.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Generic, Protocol, Self, TypeVar

from mirl_core.algorithm.confidence import calibration_for
from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.current import Current
from mirl_core.evaluation.bank.header import check_header, references_of
from mirl_core.evaluation.bank.identity import versions
from mirl_core.evaluation.bank.live import LiveRun
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.tasks.content import content_digest
from mirl_core.tasks.json_lines import numbered_lines, parse_line
from mirl_core.tasks.model_files import fingerprint
from mirl_core.tasks.questions import DataSet, Question

__all__ = ["Bank", "LiveBank", "Store", "fingerprint", "versions"]


class Record(Protocol):
    """One question's outcome in a store, identified by its key."""

    @property
    def key(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def content(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Record)


class Store(Generic[R]):
    """Records of one kind in a folder. One process writes at a time; any number read.

    Args:
        folder: may not exist yet; nothing is written before the first `append`.
        read: the inverse of a record's `to_json`.
        header: the conditions that the records are made under; None: read the store with any header.
        held: the header's entries that must be equal for all records in the folder; the others (versions)
            keep their first values.
        model: whose files the header's `model` is of; None: not compared with those of earlier versions.

    Raises:
        ConfigError: the folder's header differs, or can't be read; `param` is the first entry that differs.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[Mapping[str, Any]], R],
        header: Mapping[str, Any] | None = None,
        held: tuple[str, ...] = (),
        model: str | Path | None = None,
    ) -> None:
        self.folder = folder
        self.notes: tuple[str, ...] = ()
        """Lines on what a header of an earlier version leaves open."""
        self._read = read
        self._files: dict[str, IO[bytes]] = {}
        self._held: dict[str, set[tuple[str, str]]] = {}
        self._digests: dict[tuple[str, str], str] = {}
        written = self._written_header()
        if header is None and written is None:
            raise ConfigError(f"{folder} holds no records: it has no bank.json", param="output")
        # Through JSON, so that tuples and lists compare equal.
        requested: dict[str, Any] = {} if header is None else json.loads(json.dumps(header))
        if written is not None and header is not None:
            self.notes = check_header(folder, written, requested, held, model)
        self.header: dict[str, Any] = requested if written is None else written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def path(self, data: str) -> Path:
        """Return the file of a data set's records."""
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', data).strip('._') or 'data'}.jsonl"

    def load(self, data: str) -> tuple[R, ...]:
        """Return all records of a data set, in the order of writing; none where there is no file.

        Raises:
            ConfigError: a line is no record, or belongs to another data set.
        """
        path = self.path(data)
        if not path.exists():
            return ()
        records: dict[tuple[str, str], R] = {}
        for number, line in numbered_lines(path, appended=True):
            try:
                record = self._read(parse_line(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ConfigError(
                    f"{path}, line {number}, is no record ({type(error).__name__}: {error}); delete that "
                    "line, and its question is run again",
                    param="output",
                ) from error
            if record.data != data:
                raise ConfigError(
                    f"{path} holds records of {record.data!r}, not of {data!r}; use another output folder",
                    param="data",
                )
            records.setdefault((record.key, record.content), record)
        return tuple(records.values())

    def keys(self, data: str) -> frozenset[str]:
        """Return the keys of a data set's questions that are in the store, whatever their content."""
        return frozenset(key for key, _ in self._in_store(data))

    def current(self, data: DataSet) -> Current[R]:
        """Return the records of the questions of `data` as they are now.

        Pictures are read only of questions that have a record.

        Raises:
            ConfigError: as `load`, or a picture can't be read.
        """
        by_key: dict[str, list[R]] = {}
        for record in self.load(data.name):
            by_key.setdefault(record.key, []).append(record)
        records: dict[str, R] = {}
        kinds: dict[str, list[str]] = {"changed": [], "unnoted": [], "unchecked": [], "judged_anew": []}
        for question in data.questions:
            if not (held := by_key.get(question.key)):
                continue
            if any(record.content for record in held):
                digest = self._digest(data.name, question)
                chosen = next((record for record in held if record.content == digest), None)
            else:
                chosen = None
            if chosen is None:
                chosen = next(
                    (record for record in held if not record.content and self._agrees(record, question)), None
                )
                if chosen is None:
                    kinds["changed" if self._tells(held) else "unnoted"].append(question.key)
                    continue
                kinds["unchecked"].append(question.key)
            elif self._other_truth(chosen, question):
                kinds["judged_anew"].append(question.key)
            records[question.key] = chosen
        return Current(records, **{kind: tuple(keys) for kind, keys in kinds.items()})

    def append(self, record: R) -> None:
        """Write one line and force it to disk.

        Raises:
            ConfigError: another process writes to the same file.
            ValueError: the store has the question with this content already.
        """
        held = self._in_store(record.data)
        if (record.key, record.content) in held:
            raise ValueError(f"{record.key} is in {self.path(record.data)} already")
        file = self._files.get(record.data) or self._open(record.data)
        file.write(json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        held.add((record.key, record.content))
        if record.content:
            # What was sampled is what this process reports, even if a file has changed since it began.
            self._digests[record.data, record.key] = record.content

    def close(self) -> None:
        """Release the files for other processes; the store remains readable."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _agrees(self, record: R, question: Question) -> bool:
        """Return whether a record without content is of this question, as far as it tells."""
        return False

    def _tells(self, records: Sequence[R]) -> bool:
        """Return whether one of a question's records tells that the question has changed."""
        return any(record.content for record in records)

    def _other_truth(self, record: R, question: Question) -> bool:
        """Return whether the record notes another truth than the question's."""
        return False

    def _digest(self, data: str, question: Question) -> str:
        if (data, question.key) not in self._digests:
            self._digests[data, question.key] = content_digest(question)
        return self._digests[data, question.key]

    def _in_store(self, data: str) -> set[tuple[str, str]]:
        if data not in self._held:
            self._held[data] = {(record.key, record.content) for record in self.load(data)}
        return self._held[data]

    def _open(self, data: str) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._written_header() is None:
            _write_whole(self.folder / "bank.json", json.dumps(self.header, indent=2) + "\n")
        path = self.path(data)
        file = path.open("ab+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ConfigError(
                f"another process writes to {path}; wait for it or use another output folder", param="output"
            ) from error
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        self._files[data] = file
        return file

    def _written_header(self) -> dict[str, Any] | None:
        path = self.folder / "bank.json"
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is not readable JSON: {error}", param="output") from error
        if not isinstance(header, dict):
            raise ConfigError(f"{path} must hold a JSON object", param="output")
        return header


class Bank(Store[BankedQuestion]):
    """The trajectory bank."""

    @classmethod
    def open(
        cls, folder: Path, model: str | Path, settings: ModelSettings, plan: BankPlan, part: str
    ) -> Bank:
        """Open the bank in `folder`, or begin one.

        Only the settings that shape samples (tags, instruction) must be equal: gates and votes are replayed,
        so a new λ in `mirl.json` leaves a bank valid.

        Raises:
            ConfigError: the folder was filled with another model, settings, plan, reference pictures or
                part.
        """
        header = {
            "model": fingerprint(model),
            "settings": _shaping(settings),
            "plan": plan.resolved(settings).to_header(),
            "references": references_of(settings, plan.references > 0),
            "part": part,
            "versions": versions(),
        }
        held = ("model", "settings", "plan", "references", "part")
        return cls(folder, BankedQuestion.from_json, header, held, model)

    @classmethod
    def existing(cls, folder: Path) -> Bank:
        """Open the bank in `folder` for reading, with the header that it has.

        Raises:
            ConfigError: the folder holds no bank.
        """
        return cls(folder, BankedQuestion.from_json)

    @property
    def plan(self) -> BankPlan:
        """The plan by which every question was sampled."""
        return BankPlan.model_validate(self.header["plan"])

    def _agrees(self, record: BankedQuestion, question: Question) -> bool:
        # A changed truth is a sign of a changed picture; an unlabelled record's truth was not known.
        return record.question == question.text and record.truth in ("", question.answer)

    def _tells(self, records: Sequence[BankedQuestion]) -> bool:
        return any(record.content or record.question for record in records)

    def _other_truth(self, record: BankedQuestion, question: Question) -> bool:
        return record.truth not in ("", question.answer)


class LiveBank(Store[LiveRun]):
    """Outcomes of the real pipeline under one set of options."""

    @classmethod
    def open(
        cls,
        folder: Path,
        model: str | Path,
        settings: ModelSettings,
        options: MIRLOptions,
        part: str,
        seed: int = 0,
        max_tokens: int | None = None,
    ) -> LiveBank:
        """Open the outcomes in `folder`, or begin them.

        Raises:
            ConfigError: the folder was filled with another model, settings, options, calibration (where these
                options are calibrated), seed, reference pictures, longest trajectory or part.
        """
        calibration = calibration_for(settings, options)
        header = {
            "model": fingerprint(model),
            "settings": _shaping(settings, "temperature"),
            "options": options.model_dump(mode="json"),
            "calibration": calibration.model_dump(mode="json") if calibration else None,
            "seed": seed,
            "references": references_of(settings, ESTIMATORS[options.estimator].needs_references),
            "max_tokens": max_tokens,
            "part": part,
            "versions": versions(),
        }
        held = ("model", "settings", "options", "calibration", "seed", "references", "max_tokens", "part")
        return cls(folder, LiveRun.from_json, header, held, model)


def _shaping(settings: ModelSettings, *more: str) -> dict[str, Any]:
    """Return the settings that shape samples: tags, instruction, `more`, and a lenient reading.

    A strict reading is not noted: banks that are older than the choice hold no other.
    """
    names = {"tags", "instruction", *more, *(["lenient"] if settings.lenient else [])}
    return settings.model_dump(mode="json", include=names)


def _write_whole(path: Path, text: str) -> None:
    """Write a file atomically: it is there whole or not at all."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
