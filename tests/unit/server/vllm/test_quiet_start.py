"""A quiet start: which lines are left out, until when, and the reason of a start that fails."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirl_server.settings.server import ServerSettings
from mirl_server.vllm import quiet_start

QUIET = ServerSettings()


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


def record(level: int, name: str = "vllm.engine", error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord(name, level, "file.py", 1, "said", None, info)


def test_vllm_is_quiet_until_the_server_serves() -> None:
    quiet_start.begin(QUIET, chosen=False)
    assert quiet_start.is_quiet()
    assert os.environ[quiet_start.LEVEL] == "WARNING"
    assert os.environ["PYTHONWARNINGS"] == "ignore"
    rule = quiet_start.StartFilter()
    assert [rule.filter(record(level)) for level in (logging.INFO, logging.WARNING, logging.ERROR)] == [
        False, False, True,
    ]  # fmt: skip
    assert rule.filter(record(logging.INFO, "mirl_server.access"))
    assert quiet_start.is_starting()
    quiet_start.end()
    assert not quiet_start.is_starting()
    assert rule.filter(record(logging.WARNING))
    quiet_start.end()


@pytest.mark.parametrize(
    "variable", [None, quiet_start.LEVEL, "VLLM_LOGGING_CONFIG_PATH", "VLLM_CONFIGURE_LOGGING"]
)
def test_an_operators_choice_stands(variable: str | None) -> None:
    if variable:
        os.environ[variable] = "INFO"
    quiet_start.begin(QUIET, chosen=variable is None)
    assert not quiet_start.is_quiet()
    assert os.environ.get(quiet_start.LEVEL) == ("INFO" if variable == quiet_start.LEVEL else None)
    assert quiet_start.StartFilter().filter(record(logging.INFO))
    # The tracker of shared memory warns after an interrupted start, whatever the level.
    assert os.environ["PYTHONWARNINGS"] == "ignore:resource_tracker"


def test_json_lines_are_for_machines_and_complete() -> None:
    quiet_start.begin(ServerSettings.load(log={"format": "json"}), chosen=False)
    assert not quiet_start.is_quiet()


def test_the_first_error_is_the_reason() -> None:
    quiet_start.begin(QUIET, chosen=False)
    rule = quiet_start.StartFilter()
    assert quiet_start.reason() is None
    assert rule.filter(record(logging.ERROR))
    assert quiet_start.reason() is None
    rule.filter(record(logging.ERROR, error=ValueError("no memory\n  for the cache")))
    rule.filter(record(logging.ERROR, error=RuntimeError("see above")))
    assert quiet_start.reason() == "ValueError: no memory for the cache"
    quiet_start.end()
    assert quiet_start.reason() is None


def test_under_vllms_own_command_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (quiet_start.MARKER, quiet_start.QUIET):
        monkeypatch.delenv(name, raising=False)
    assert not quiet_start.is_starting()
    assert quiet_start.StartFilter().filter(record(logging.DEBUG))
    assert quiet_start.reason() is None


def test_a_handler_has_one_filter() -> None:
    logger, handler = logging.getLogger("vllm"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        quiet_start.watch_logs()
        quiet_start.watch_logs()
        assert [type(rule) for rule in handler.filters] == [quiet_start.StartFilter]
    finally:
        logger.removeHandler(handler)


def test_the_marker_is_a_file_of_this_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quiet_start.begin(QUIET, chosen=True)
    assert [os.environ[quiet_start.MARKER]] == [str(path) for path in tmp_path.iterdir()]
    quiet_start.end()
    assert list(tmp_path.iterdir()) == []
