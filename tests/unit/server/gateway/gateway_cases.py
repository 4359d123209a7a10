"""A gateway in this process, before fake vLLM servers: a real uvicorn each, and a scripted remote engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mirl_core.engines.fake import FakeEngine
from mirl_core.engines.remote.server import Counters
from mirl_core.errors import EngineDeadError
from mirl_server.gateway.app import Gateway, make_gateway
from mirl_server.gateway.flags import GatewayFlags
from mirl_server.settings.server import ServerSettings
from tests.helpers.waiting import until
from tests.unit.server.harness import DESCRIPTIONS
from tests.unit.server.http.serving import serving

NAME = "m"
CARD = {"id": NAME, "object": "model", "root": "/models/m", "parent": None, "max_model_len": 4096}
Answer = Callable[[Request], Awaitable[Response]]


@dataclass
class Received:
    """A request that came to a fake server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FakeVLLM:
    """A vLLM server without a model. `answers` holds functions by path; others get an empty object."""

    def __init__(self, *, gates: bool = False) -> None:
        self.received: list[Received] = []
        self.answers: dict[str, Answer] = {}
        self.left = asyncio.Event()
        """Set when a stream's client has gone."""
        self.url = ""
        self.cards: list[dict[str, Any]] = [CARD]
        if gates:
            self.cards.append({**CARD, "id": f"{NAME}:direct", "parent": NAME})
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route("/{path:path}", self._any, methods=["GET", "POST"], response_model=None)

    async def _any(self, request: Request) -> Response:
        path = request.url.path
        body = await request.body()
        if path == "/v1/models":
            return JSONResponse({"object": "list", "data": self.cards})
        self.received.append(Received(request.method, path, dict(request.headers), body))
        answer = self.answers.get(path)
        return await answer(request) if answer is not None else JSONResponse({"model": NAME, "path": path})

    async def endless(self, request: Request) -> Response:
        """Answer with a stream that ends only when its client leaves."""

        async def events() -> AsyncIterator[bytes]:
            try:
                for number in range(10_000):
                    yield f'data: {{"model":"{NAME}","n":{number}}}\n\n'.encode()
                    await asyncio.sleep(0.01)
            finally:
                self.left.set()

        return StreamingResponse(events(), media_type="text/event-stream")


@dataclass
class FakeServer:
    """A server of the remote engine."""

    url: str
    up: bool = True
    reason: str = "it is down"
    address: str | None = None
    in_flight: int = 0
    counters: Counters = field(default_factory=Counters)

    @property
    def name(self) -> str:
        return self.url

    @contextmanager
    def working(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class FakeFleet(FakeEngine):
    """A remote engine with scripted samples."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(
            DESCRIPTIONS,
            lambda suffix, _: f"<think>so</think><answer>{7 if 'seven' in suffix else 1}</answer>",
        )
        self.servers = tuple(FakeServer(url) for url in urls)
        self.inexact_reason = None

    async def health(self) -> None:
        if not any(server.up for server in self.servers):
            raise EngineDeadError("no server is left")


@dataclass
class Behind:
    """A gateway that runs, and what is behind it."""

    gateway: Gateway
    servers: Sequence[FakeVLLM]
    url: str
    started: list[dict[str, Any]]
    """The arguments of each start of the remote engine."""
    fleets: list[FakeFleet] = field(default_factory=list)

    @property
    def fleet(self) -> FakeFleet:
        return self.fleets[0]

    def client(self, **how: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=30, **how)

    async def post(self, path: str, body: Any = None, **how: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, **({"json": body} if body is not None else {}), **how)

    async def get(self, path: str, **how: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path, **how)

    async def ready(self) -> None:
        """Wait until the gateway has connected."""
        async with asyncio.timeout(20):
            await until(lambda: bool(self.gateway.service.names))


@asynccontextmanager
async def gateway_before(
    *servers: FakeVLLM,
    flags: dict[str, Any] | None = None,
    connect: bool = True,
    fail: Sequence[Exception] = (),
    **settings: Any,
) -> AsyncIterator[Behind]:
    """Run a gateway before fake servers.

    Args:
        flags: of vLLM's names, without the leading dashes.
        connect: wait until it has connected.
        fail: errors that the first starts of the remote engine raise.
        settings: the operator's.
    """
    failures, started, fleets = list(fail), [], []

    async def start(urls: Sequence[str], **how: Any) -> Any:
        started.append({"urls": tuple(urls), **how})
        if failures:
            raise failures.pop(0)
        fleets.append(FakeFleet(urls))
        return fleets[-1]

    async with AsyncExitStack() as stack:
        for server in servers:
            server.url = f"http://127.0.0.1:{await stack.enter_async_context(serving(server.app))}"
        urls = [server.url for server in servers] or ["http://127.0.0.1:9"]
        engine = {"urls": urls, **settings.pop("engine", {})}
        loaded = ServerSettings.load(engine=engine, **settings)
        gateway = make_gateway(loaded, GatewayFlags(flags or {}), start=start)
        # uvicorn's lifespan is off in tests, as its signals are.
        await stack.enter_async_context(gateway.app.router.lifespan_context(gateway.app))
        port = await stack.enter_async_context(serving(gateway.app, loaded.http))
        behind = Behind(gateway, servers, f"http://127.0.0.1:{port}", started, fleets)
        if connect:
            await behind.ready()
        yield behind
