"""The outermost layer of the app: gives each request an id, and logs one line when it has ended.

Pure ASGI: a stream passes unchanged, and its line is logged after its last byte.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_core.errors import EngineError
from mirl_server.http.errors import error_object
from mirl_server.http.scope import route_path
from mirl_server.observability.logs import LONGEST, LogSettings, begin_notes, sane_id, trail

logger = logging.getLogger(__name__)

HEADER = "x-request-id"
GONE = 499
"""The logged status of a request whose client disconnected before the response started."""
QUIET = ("/health", "/ready", "/metrics", "/ping")
_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


class CutShortError(Exception):
    """A response failed after it had started. Raised to close the connection; the log has the cause."""


class RequestLog:
    """ASGI middleware that reads and returns `x-request-id`, and logs a line for each request.

    The id is the client's if it is sane (1 to 128 of A-Za-z0-9._:-), else a new one; routes read it as
    `request.state.request_id`, and every JSON line that is logged during the request carries it.

    Args:
        quiet: paths that are logged only when they fail: those of probes and scrapers.
        ended: called after each request, before its line.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: LogSettings,
        quiet: Collection[str] = QUIET,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.app = app
        self._settings = settings
        self._quiet = frozenset(quiet)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        request_id = sane_id(Headers(scope=scope).get(HEADER)) or uuid.uuid4().hex
        notes = begin_notes(scope)
        scope["state"]["request_id"] = request_id
        status, started = 0, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        # Bound around the whole app, so that each line of the request's tasks carries its id.
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, answer)
            except Exception as error:  # noqa: BLE001 - the last line of defence
                # Not raised further: an outer handler would log its message too.
                logger.error("a request failed unexpectedly: %s", trail(error))
                if status:
                    raise CutShortError from None
                body = error_object(EngineError("internal error"), path)
                await JSONResponse(body, 500)(scope, receive, answer)
            finally:
                self._ended()
                if self._settings.requests and (path not in self._quiet or status >= 500):
                    # Without the query, which may hold keys.
                    line = {
                        "request_id": request_id,
                        "method": scope["method"],
                        "path": quote(scope["path"], safe="/:@!$&'()*+,;=~-._")[:LONGEST],
                        "status": status or GONE,
                        "seconds": round(time.perf_counter() - started, 4),
                    }
                    self._write({**line, **notes})

    def _write(self, line: dict[str, Any]) -> None:
        level = logging.WARNING if line["status"] >= 500 else logging.INFO
        if self._settings.format == "json":
            logger.log(level, "request", extra=line)
        else:
            flat = {name: _flat(value) for name, value in line.items()}
            logger.log(level, "%s", _logfmt(logger, "info", flat))


def _flat(value: Any) -> Any:
    """Return a mapping as text without spaces (`describe:0.2,fork:1.1`), any other value unchanged."""
    if isinstance(value, dict):
        return ",".join(f"{name}:{inner}" for name, inner in value.items())
    return value
