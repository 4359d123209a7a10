"""A quiet start: vLLM's lines below an error are left out until the server serves.

`mirl-serve` starts quietly unless the operator chooses a log level. A file marks the time of the start for
all of its processes: while it exists, their handlers drop vLLM's warnings, and the first error of any is
written there, so that the command can end with the reason of a start that failed.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirl_server.settings.server import ServerSettings

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


def begin(settings: ServerSettings, chosen: bool) -> None:
    """Mark the start, before vLLM is imported, and make it quiet unless the operator chose a log level.

    Args:
        chosen: the command line has a log level or a configuration of logs.
    """
    file, path = tempfile.mkstemp(prefix="mirl-start-")
    os.close(file)
    os.environ[MARKER] = path
    # Python's own process for shared memory outlives a start that is interrupted, and warns.
    ignored = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, ignored))
    if chosen or settings.log.format == "json" or any(name in os.environ for name in _CHOICES):
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


class StartFilter(logging.Filter):
    """A handler's filter: while the server starts, it drops vLLM's lines below an error, and notes errors."""

    def __init__(self) -> None:
        super().__init__()
        self._starting = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the handler writes a line."""
        self._starting = self._starting and is_starting()
        if not self._starting or not record.name.startswith("vllm"):
            return True
        if record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1]:
            note(record.exc_info[1])
        return record.levelno >= logging.ERROR or not is_quiet()


def note(error: BaseException) -> None:
    """Note an error as the reason of a start that fails, unless there is one: the first is the cause."""
    if not is_starting() or reason():
        return
    message = " ".join(str(error).split())
    with suppress(OSError):
        Path(os.environ[MARKER]).write_text(f"{type(error).__name__}: {message}\n", encoding="utf-8")


def watch_logs() -> None:
    """Filter the handlers of this process's vLLM; vLLM calls it in each process that it starts."""
    for handler in logging.getLogger("vllm").handlers:
        if not any(isinstance(filter_, StartFilter) for filter_ in handler.filters):
            handler.addFilter(StartFilter())
