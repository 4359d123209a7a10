"""A quiet start: vLLM's lines below an error are left out until the server serves.

`mirl-serve` starts quietly unless the operator chooses a log level. A file marks the time of the start for
all of its processes: while it exists, they drop vLLM's warnings, and the first error of any is written there,
so that the command can end with the reason of a start that failed.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MARKER = "_MIRL_STARTING"
"""The environment variable with the path of the file."""
QUIET = "_MIRL_QUIET"
"""The environment variable that is set where vLLM's level is `mirl-serve`'s choice, not the operator's."""
LEVEL = "VLLM_LOGGING_LEVEL"
WHOLE_LOG = "--log-level info shows the whole log"
_CHOICES = (LEVEL, "VLLM_LOGGING_CONFIG_PATH", "VLLM_CONFIGURE_LOGGING")
_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-torch._library",
}
"""Variables that keep other libraries' warnings back, in this process and in those that it starts."""


def begin(chosen: bool) -> None:
    """Mark the start, before vLLM is imported, and make it quiet unless the operator chose a log level.

    Args:
        chosen: a flag or a setting has a log level or another form of lines.
    """
    file, path = tempfile.mkstemp(prefix="mirl-start-")
    os.close(file)
    os.environ[MARKER] = path
    # Python's own process for shared memory outlives a start that is interrupted, and warns.
    ignored = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, ignored))
    if chosen or any(name in os.environ for name in _CHOICES):
        return
    os.environ[QUIET] = "1"
    os.environ[LEVEL] = "WARNING"
    os.environ["PYTHONWARNINGS"] = "ignore"
    warnings.simplefilter("ignore")
    for name, value in _LIBRARIES.items():
        os.environ.setdefault(name, value)


def is_quiet() -> bool:
    """Return whether vLLM's log level is `mirl-serve`'s choice."""
    return QUIET in os.environ


def is_starting() -> bool:
    """Return whether `mirl-serve` still starts; False under vLLM's own command."""
    return MARKER in os.environ and Path(os.environ[MARKER]).exists()


def end() -> None:
    """Mark the end of the start, for all processes."""
    if MARKER in os.environ:
        Path(os.environ[MARKER]).unlink(missing_ok=True)


def reason() -> str | None:
    """Return the first error of any process during the start, on one line; None: none was logged."""
    if not is_starting():
        return None
    with suppress(OSError):
        lines = Path(os.environ[MARKER]).read_text(encoding="utf-8").splitlines()
        return lines[0] if lines else None
    return None


class StartRecords:
    """A factory of log records: while the server starts, vLLM's warnings are debug lines, errors are noted.

    A factory, not a handler's filter: vLLM makes its handlers anew, some after it has loaded plugins, and
    wraps the factory that it finds.

    Args:
        make: the factory so far.
    """

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._starting = True

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Return the record that the factory so far makes, changed where it must be."""
        record = self._make(*args, **kwargs)
        self._starting = self._starting and is_starting()
        if self._starting and record.name.startswith("vllm"):
            if record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1]:
                note(record.exc_info[1])
            if record.levelno == logging.WARNING and is_quiet():
                record.levelno = logging.DEBUG
        return record


def note(error: BaseException) -> None:
    """Note an error as the reason of a start that fails, unless there is one: the first is the cause."""
    if not is_starting() or reason():
        return
    message = " ".join(str(error).split())
    with suppress(OSError):
        Path(os.environ[MARKER]).write_text(f"{type(error).__name__}: {message}\n", encoding="utf-8")


def watch_logs() -> None:
    """Begin to make records with StartRecords, in each process: the launcher's and those of the engine."""
    if is_starting():
        logging.setLogRecordFactory(StartRecords(logging.getLogRecordFactory()))
