"""An app behind small limits of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from mirl_server.middleware.stack import install_middleware
from mirl_server.settings.server import ServerSettings
from tests.unit.server.http.serving import serving

LIMITS = {"max_body_bytes": 1000, "body_seconds": 0.3, "header_seconds": 0.3, "write_seconds": 0.3}


class Echo:
    """An app, and what became of its requests."""

    def __init__(self, **limits: Any) -> None:
        self.settings = ServerSettings.load(http={**LIMITS, **limits})
        self.app = FastAPI()
        self.ended = 0
        install_middleware(self.app, self.settings)
        self.app.post("/v1/chat/completions")(self.read)
        self.app.get("/flood")(self.flood)
        self.app.get("/ok")(lambda: PlainTextResponse("ok"))

    async def read(self, request: Request) -> Response:
        try:
            return PlainTextResponse(str(len(await request.body())))
        finally:
            self.ended += 1

    async def flood(self) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)  # once the client is gone sending waits for nothing
            finally:
                self.ended += 1

        return StreamingResponse(chunks())

    def serving(self, **how: Any) -> contextlib.AbstractAsyncContextManager[int]:
        return serving(self.app, self.settings.http, **how)
