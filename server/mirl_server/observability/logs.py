"""Logs: what a line may say, and lines as JSON.

Prompts, images, answers and keys never enter a line. So what is known about a request goes through `note`,
which takes the fields of `FIELDS` only, and an unexpected exception is told by `trail`, which leaves out its
message: libraries quote their input in theirs.
"""

from __future__ import annotations

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
"""Everything that a request's line may say."""
LONGEST = 256
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STATE = "mirl_log"


class LogSettings(Settings):
    """What is logged, and how."""

    format: Literal["text", "json"] = "text"
    """`text` for people; `json`: one object a line, vLLM's and uvicorn's lines too."""
    requests: bool = True
    """One line for each request once it has ended: status, seconds, tokens, stages; never a prompt or key."""


def __getattr__(name: str) -> str:
    # `LEVEL` is the level that logging.json names: vLLM's variable at that moment, so that processes agree.
    if name == "LEVEL":
        return os.environ.get("VLLM_LOGGING_LEVEL", "INFO")
    raise AttributeError(name)


def json_formatter() -> logging.Formatter:
    """Lines as JSON: `event`, `level`, `logger`, `timestamp`, the request's id, and `FIELDS`."""
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
    """Leave out what exceptions say: type and frames remain."""
    for raised in event.get("exception") or ():
        for name in ("exc_value", "exc_notes"):
            raised.pop(name, None)
    return event


class WithoutArguments(logging.Filter):
    """Leaves out of a backend's errors about requests what the requests said: the sentence remains, and of an
    exception the trail."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        said = str(record.msg).partition("%")[0].rstrip(": ")
        raised = record.exc_info[1] if record.exc_info else None
        record.msg = "%s" if raised is None else "%s: %s"
        record.args = (said,) if raised is None else (said, trail(raised))
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
"""vLLM's loggers that quote a wrong request: its model's name, or an exception with what it is about."""


def share_handlers(settings: LogSettings) -> None:
    """Log where vLLM logs, as the operator set it up; leave alone what someone set up already.

    Under vLLM's own command its lines are what its own flags say, and only ours can be JSON.
    """
    # Pillow tells the values of EXIF tags at DEBUG.
    logging.getLogger("PIL").setLevel(logging.INFO)
    for name in QUOTING:
        logging.getLogger(name).addFilter(WITHOUT_ARGUMENTS)
    theirs = logging.getLogger("vllm")
    handlers = list(theirs.handlers)
    if settings.format == "json":
        handlers = [logging.StreamHandler(sys.stdout)]
        handlers[0].setFormatter(json_formatter())
    for name in LOGGERS:
        ours = logging.getLogger(name)
        if not ours.handlers and handlers:
            ours.handlers = handlers
            ours.setLevel(theirs.level)
            ours.propagate = False


def sane_id(given: str | None) -> str | None:
    """A request id as a client gave it, if it is fit for logs and headers; else None."""
    return given if given and _SANE_ID.fullmatch(given) else None


def begin_notes(scope: Scope) -> dict[str, Any]:
    """Start collecting what is known about a request; `note` adds to it."""
    notes: dict[str, Any] = {}
    scope.setdefault("state", {})[_STATE] = notes
    return notes


def note(scope: MutableMapping[str, Any], **fields: object) -> None:
    """Say something about a request in its line. Without a line nothing happens.

    Args:
        fields: of `FIELDS`; numbers, short names and flags, never anything of a prompt. None is left out.

    Raises:
        KeyError: a field isn't one of `FIELDS`.
    """
    unknown = fields.keys() - set(FIELDS)
    if unknown:
        raise KeyError(f"not a field of logs: {', '.join(sorted(unknown))}")
    notes = scope.get("state", {}).get(_STATE)
    if notes is not None:
        notes |= {name: _clipped(value) for name, value in fields.items() if value is not None}


def trail(error: BaseException) -> str:
    """An exception and what caused it, on one line: types and places, no messages and no values."""
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
