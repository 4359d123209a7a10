"""The layer that reads request lines as proxies and clients write them: `HEAD`, and a slash behind a path."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirl_server.http.scope import route_path


class RequestLines:
    """ASGI middleware: a slash behind a path is left out, and HEAD is answered as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if route_path(scope).rstrip("/") and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
            if isinstance(raw_path := scope.get("raw_path"), bytes):
                scope["raw_path"] = raw_path.rstrip(b"/")
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_head)
