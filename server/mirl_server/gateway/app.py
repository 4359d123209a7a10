"""The gateway's app: MIRL's routes over its engines, what is passed on, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.middleware.cors import CORSMiddleware

from mirl_core.engines.remote.engine import RemoteEngine
from mirl_server.assembly.app import Assembly, assemble
from mirl_server.gateway.engines import Connected, GatewayEngines, Start
from mirl_server.gateway.flags import GatewayFlags
from mirl_server.gateway.metrics import process_gateway_metrics
from mirl_server.gateway.routes import GENERATING, make_pass_through
from mirl_server.gateway.service import ServiceMaker
from mirl_server.gateway.upstream import Upstream
from mirl_server.handling.lifetime import Lifetime, patience
from mirl_server.handling.service import Service
from mirl_server.middleware.stack import watch_load
from mirl_server.observability.metrics import EngineState, process_metrics
from mirl_server.settings.server import ServerSettings


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's app and its parts."""

    app: FastAPI
    life: Lifetime
    engines: GatewayEngines
    upstream: Upstream
    assembly: Assembly

    @property
    def service(self) -> Service:
        """The service of the routes, as it is now."""
        service: Service = self.app.state.mirl
        return service


def make_gateway(
    settings: ServerSettings,
    flags: GatewayFlags,
    *,
    start: Start = RemoteEngine.start,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Gateway:
    """Return a gateway. Its app's lifespan connects to the engines.

    Args:
        start: replaces RemoteEngine.start in tests.
        transport: replaces httpx's transport to the engines in tests.

    Raises:
        ConfigError: the key file, or the environment variable with keys, is wrong.
    """
    life = Lifetime(patience(settings, flags["shutdown-timeout"]))
    metrics, gateway_metrics = process_metrics(), process_gateway_metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(engines.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await upstream.close()

    documented = None if flags["disable-fastapi-docs"] else "/openapi.json"
    app = FastAPI(openapi_url=documented, lifespan=lifespan, root_path=flags["root-path"] or "")
    app.router.redirect_slashes = False

    async def on_connected(connected: Connected) -> None:
        app.state.mirl = await asyncio.to_thread(maker.connected, app.state.mirl, connected)

    engines = GatewayEngines(settings, lambda: upstream.client, on_connected, start)
    upstream = Upstream(engines, settings.engine, gateway_metrics, transport)
    app.include_router(_probes())
    app.include_router(make_pass_through(upstream))
    assembly = assemble(
        app,
        settings,
        life,
        lambda: next(iter(app.state.mirl.names), settings.engine.model or "MODEL"),
        keys=[key for key in flags["api-key"] if key],
        generating=GENERATING,
    )
    maker = ServiceMaker(
        settings, flags, life, metrics, engines, upstream, private=bool(assembly.access.keyring)
    )
    app.state.mirl = waiting = maker.waiting()
    watch_load(metrics, waiting.admission, assembly.access.quotas)

    def state() -> EngineState:
        return "draining" if life.draining else "ready" if engines.ready() else "dead"

    metrics.watch_engine(state)
    gateway_metrics.watch(
        lambda: len(engines.ready()), lambda: len(engines.states()), lambda: engines.servers
    )
    # Outside the keys and limits, so that browsers can read refusals.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=flags["allowed-origins"],
        allow_credentials=flags["allow-credentials"],
        allow_methods=flags["allowed-methods"],
        allow_headers=flags["allowed-headers"],
    )
    assembly.log_requests(flags["disable-access-log-for-endpoints"])
    return Gateway(app, life, engines, upstream, assembly)


def _probes() -> APIRouter:
    router = APIRouter()

    @router.get("/health", response_class=Response)
    async def health() -> Response:
        """200 while the gateway lives, whatever its engines do."""
        return Response()

    @router.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """The metrics of MIRL and of the gateway, in Prometheus's form."""
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return router
