"""Logs: the fields of a line, and lines as JSON.

Prompts, images, answers and keys never enter a line. Facts about a request therefore go through `note`, which
takes only the fields of `FIELDS`, and `trail` describes an unexpected exception without its message, because
libraries quote their input in messages.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog
from starlette.types import Scope

from mirl_core.config import Settings

CONFIG = Path(__file__).with_name("logging.json")
"""A `dictConfig` that writes every logger's lines as JSON. vLLM applies it in each of its processes."""
LOGGERS = ("mirl_server", "mirl_core")
FIELDS = (
    "request_id", "trace_id", "id", "method", "path", "status", "seconds", "key", "model", "endpoint",
    "stream", "outcome", "error", "images", "prompt_tokens", "completion_tokens", "scored_tokens",
    "descriptions", "kept", "chains", "vote_share", "stages",
)  # fmt: skip
"""All fields of a request's line."""
LONGEST = 256
"""Most characters of a value."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STATE = "mirl_log"


class LogSettings(Settings):
    """The log's content and format."""

    format: Literal["text", "json"] = "text"
    """`text` for people; `json`: an object per line, for vLLM's and uvicorn's lines too."""
    requests: bool = True
    """A line for each request when it has ended: status, seconds, tokens, stages; never a prompt or key."""


def __getattr__(name: str) -> str:
    # logging.json refers to `LEVEL`: vLLM's variable at the time of access, so that all processes agree.
    if name == "LEVEL":
        return os.environ.get("VLLM_LOGGING_LEVEL", "INFO")
    raise AttributeError(name)


def json_formatter() -> logging.Formatter:
    """Format as JSON lines: `event`, `level`, `logger`, `timestamp`, the request's id, `FIELDS`."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(FIELDS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.PROCESS}),
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
            ),
            _without_messages,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )


def _without_messages(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove the messages of exceptions; types and frames remain."""
    for exception in event.get("exception") or ():
        for name in ("exc_value", "exc_notes"):
            exception.pop(name, None)
    return event


class WithoutArguments(logging.Filter):
    """A filter that removes the requests' content from a backend's error records.

    The constant sentence of the message remains, and the trail of an exception.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        sentence = str(record.msg).partition("%")[0].rstrip(": ")
        error = record.exc_info[1] if record.exc_info else None
        record.msg = "%s" if error is None else "%s: %s"
        record.args = (sentence,) if error is None else (sentence, trail(error))
        record.exc_info = record.exc_text = None
        return True


WITHOUT_ARGUMENTS = WithoutArguments()
QUOTING = tuple(
    f"vllm.entrypoints.{name}"
    for name in (
        "anthropic.api_router", "openai.chat_completion.serving", "openai.chat_completion.batch_serving",
        "openai.responses.serving", "scale_out.render.serving", "scale_out.token_in_token_out.serving",
    )
)  # fmt: skip
"""vLLM's loggers that quote a wrong request: its model's name, or an exception about its content."""


def share_handlers(settings: LogSettings, level: int | None = None) -> None:
    """Give MIRL's loggers the handlers of vLLM's logger, unless they have handlers already.

    Under vLLM's own command vLLM's flags determine its lines, and only MIRL's lines can be JSON.

    Args:
        level: of MIRL's lines, where it is not vLLM's.
    """
    # Pillow logs the values of EXIF tags at DEBUG.
    logging.getLogger("PIL").setLevel(logging.INFO)
    for name in QUOTING:
        logging.getLogger(name).addFilter(WITHOUT_ARGUMENTS)
    vllm_logger = logging.getLogger("vllm")
    handlers = list(vllm_logger.handlers)
    if settings.format == "json":
        handlers = [logging.StreamHandler(sys.stdout)]
        handlers[0].setFormatter(json_formatter())
    elif level is not None:
        handlers = [copy.copy(handler) for handler in handlers]
        for handler in handlers:
            handler.setLevel(level)
    for name in LOGGERS:
        mirl_logger = logging.getLogger(name)
        if not mirl_logger.handlers and handlers:
            mirl_logger.handlers = handlers
            mirl_logger.setLevel(vllm_logger.level if level is None else level)
            mirl_logger.propagate = False


def sane_id(request_id: str | None) -> str | None:
    """Return a client's request id if it is fit for logs and headers, else None."""
    return request_id if request_id and _SANE_ID.fullmatch(request_id) else None


def begin_notes(scope: Scope) -> dict[str, Any]:
    """Start the notes of a request, which `note` adds to, and return them."""
    notes: dict[str, Any] = {}
    scope.setdefault("state", {})[_STATE] = notes
    return notes


def note(scope: MutableMapping[str, Any], **fields: object) -> None:
    """Add fields to a request's line; do nothing without `begin_notes`.

    Args:
        fields: members of `FIELDS`: numbers, short names and flags, never text of a prompt. None is left out.

    Raises:
        KeyError: a field is not in `FIELDS`.
    """
    unknown = fields.keys() - set(FIELDS)
    if unknown:
        raise KeyError(f"not a field of logs: {', '.join(sorted(unknown))}")
    notes = scope.get("state", {}).get(_STATE)
    if notes is not None:
        notes |= {name: _clipped(value) for name, value in fields.items() if value is not None}


def trail(error: BaseException) -> str:
    """Return an exception and its causes on one line: types and places, no messages and no values."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = traceback.extract_tb(current.__traceback__)[-3:]
        places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        parts.append(f"{type(current).__name__} at {places or 'an unknown place'}")
        current = current.__cause__ or current.__context__
    return "; caused by ".join(parts)


def _clipped(value: object) -> object:
    return value[:LONGEST] if isinstance(value, str) else value
