"""A quiet start: which lines are left out, until when, and the reason of a start that fails."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirl_server.observability import quiet_start


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the environment and the filters of warnings as they were; begin without an operator's choice."""
    before = dict(os.environ)
    for name in (quiet_start.LEVEL, "VLLM_LOGGING_CONFIG_PATH", "VLLM_CONFIGURE_LOGGING", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    with warnings.catch_warnings():
        yield
    quiet_start.end()
    os.environ.clear()
    os.environ.update(before)


def level_of(
    make: quiet_start.StartRecords, level: int, name: str = "vllm.engine", error: Exception | None = None
) -> int:
    """Return the level of a record that is made for a line of this level."""
    info = (type(error), error, None) if error else None
    return make(name, level, "file.py", 1, "said", None, info).levelno


def test_vllm_is_quiet_until_the_server_serves() -> None:
    quiet_start.begin(chosen=False)
    assert quiet_start.is_quiet()
    assert os.environ[quiet_start.LEVEL] == "WARNING"
    assert os.environ["PYTHONWARNINGS"] == "ignore"
    make = quiet_start.StartRecords(logging.LogRecord)
    assert level_of(make, logging.WARNING) == logging.DEBUG
    assert level_of(make, logging.ERROR) == logging.ERROR
    assert level_of(make, logging.WARNING, "mirl_server.access") == logging.WARNING
    assert quiet_start.is_starting()
    quiet_start.end()
    assert not quiet_start.is_starting()
    assert level_of(make, logging.WARNING) == logging.WARNING
    quiet_start.end()


@pytest.mark.parametrize(
    "variable", [None, quiet_start.LEVEL, "VLLM_LOGGING_CONFIG_PATH", "VLLM_CONFIGURE_LOGGING"]
)
def test_an_operators_choice_stands(variable: str | None) -> None:
    if variable:
        os.environ[variable] = "INFO"
    quiet_start.begin(chosen=variable is None)
    assert not quiet_start.is_quiet()
    assert os.environ.get(quiet_start.LEVEL) == ("INFO" if variable == quiet_start.LEVEL else None)
    assert level_of(quiet_start.StartRecords(logging.LogRecord), logging.WARNING) == logging.WARNING
    # The tracker of shared memory warns after an interrupted start, whatever the level.
    assert os.environ["PYTHONWARNINGS"] == "ignore:resource_tracker"


def test_the_first_error_is_the_reason() -> None:
    quiet_start.begin(chosen=False)
    make = quiet_start.StartRecords(logging.LogRecord)
    assert quiet_start.reason() is None
    level_of(make, logging.ERROR)
    assert quiet_start.reason() is None
    level_of(make, logging.ERROR, error=ValueError("no memory\n  for the cache"))
    level_of(make, logging.ERROR, error=RuntimeError("see above"))
    assert quiet_start.reason() == "ValueError: no memory for the cache"
    quiet_start.end()
    assert quiet_start.reason() is None


def test_under_vllms_own_command_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (quiet_start.MARKER, quiet_start.QUIET):
        monkeypatch.delenv(name, raising=False)
    assert not quiet_start.is_starting()
    assert level_of(quiet_start.StartRecords(logging.LogRecord), logging.WARNING) == logging.WARNING
    assert quiet_start.reason() is None
    factory = logging.getLogRecordFactory()
    quiet_start.watch_logs()
    assert logging.getLogRecordFactory() is factory


def test_a_handler_made_later_drops_warnings_until_the_server_serves() -> None:
    quiet_start.begin(chosen=False)
    factory = logging.getLogRecordFactory()
    logger, lines = logging.getLogger("vllm.start"), io.StringIO()
    try:
        quiet_start.watch_logs()
        handler = logging.StreamHandler(lines)
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)
        logger.warning("while it loads")
        logger.error("at any time")
        quiet_start.end()
        logger.warning("while it serves")
    finally:
        logging.setLogRecordFactory(factory)
        logger.handlers.clear()
    assert lines.getvalue().splitlines() == ["at any time", "while it serves"]


def test_the_marker_is_a_file_of_this_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quiet_start.begin(chosen=True)
    assert [os.environ[quiet_start.MARKER]] == [str(path) for path in tmp_path.iterdir()]
    quiet_start.end()
    assert list(tmp_path.iterdir()) == []
