"""Facts of a request in its ASGI scope and of its response's first message."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Message, Scope


def route_path(scope: Scope) -> str:
    """Return the path below the app's `root_path`."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_event_stream(start: Message) -> bool:
    """Return whether an `http.response.start` begins an event stream."""
    return Headers(raw=start.get("headers", [])).get("content-type", "").startswith("text/event-stream")
