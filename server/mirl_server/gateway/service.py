"""The service of a gateway's app: before an engine is ready, and from then on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request, Response

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.errors import EngineDeadError
from mirl_core.pipeline.run import Pipeline
from mirl_server.assembly.app import tracing_to
from mirl_server.gateway.engines import Connected, GatewayEngines
from mirl_server.gateway.flags import GatewayFlags
from mirl_server.gateway.media import check_media
from mirl_server.gateway.model import Cards
from mirl_server.gateway.routes import new_response_id, stored_at
from mirl_server.gateway.upstream import Engine, Upstream
from mirl_server.handling.admission import SEQUENCES, Admission
from mirl_server.handling.lifetime import Lifetime
from mirl_server.handling.plain import rename_model
from mirl_server.handling.reading.request import MAX_TOP_LOGPROBS
from mirl_server.handling.service import BackendHandler, Service, service_of
from mirl_server.media.decoding import read_references
from mirl_server.media.images import Images
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings, default_options

RESPONSES = "/v1/responses"
PATHS: Mapping[str, str] = {
    "responses": RESPONSES,
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
}


@dataclass(frozen=True, slots=True)
class ServiceMaker:
    """What both services of a gateway are made of."""

    settings: ServerSettings
    flags: GatewayFlags
    life: Lifetime
    metrics: Metrics
    engines: GatewayEngines
    upstream: Upstream
    private: bool
    """Whether `/ready`, which needs no key, names neither engines nor reasons."""

    def waiting(self) -> Service:
        """Return the service while no engine has been ready yet: it refuses every request with a 503."""

        async def refuse(body: dict[str, Any], request: Request) -> Response:
            raise EngineDeadError(self._no_engine())

        async def no_cards() -> list[dict[str, Any]]:
            raise EngineDeadError(self._no_engine())

        admission = Admission(self.settings.admission, SEQUENCES * len(self.settings.engine.urls))
        self.life.drained = admission.drain
        keep_alive = self.flags["sse-keep-alive-interval"]
        settings, metrics = self.settings, self.metrics
        if keep_alive:
            settings = settings.model_copy(update={"keep_alive": float(keep_alive)})
        return Service(
            pipeline=None,
            options=default_options(ModelSettings(), settings),
            settings=settings,
            names=(),
            cards=no_cards,
            delegate=refuse,
            handlers=dict.fromkeys(PATHS, refuse),
            metrics=metrics,
            admission=admission,
            images=Images.of(settings.limits, settings.images, metrics.time_images, metrics.fetched),
            tracing=tracing_to(self.flags["otlp-traces-endpoint"]),
            priorities=self.settings.engine.priorities,
            # A sampled token's log-probability comes beside the likeliest, within the engines' own limit.
            max_top_logprobs=MAX_TOP_LOGPROBS - 1,
            checks_plain_forms=False,
            force_usage=self.flags["enable-force-include-usage"],
            draining=lambda: self.life.draining,
            no_engine=self._no_engine,
            engines=self._states,
        )

    def connected(self, waiting: Service, connected: Connected) -> Service:
        """Return the service once an engine is ready.

        Raises:
            ConfigError: a reference image of the model can't be read.
        """
        model, cards = connected.model, connected.cards
        names = cards.names(cards.base(self.settings.engine.model))
        references = read_references(model.reference_images)
        options: MIRLOptions = default_options(model, waiting.settings)

        async def listed() -> list[dict[str, Any]]:
            return [dict(card) for card in (await self.engines.cards()).all]

        return replace(
            waiting,
            pipeline=Pipeline(connected.engine, model, references, self.life.closing),
            options=options,
            names=names,
            cards=listed,
            delegate=self._handler("/v1/chat/completions", cards),
            handlers={api: self._handler(path, cards) for api, path in PATHS.items()},
        )

    def _handler(self, path: str, cards: Cards) -> BackendHandler:
        """Return the handler that passes plain requests on to an engine's own endpoint."""

        async def handle(body: dict[str, Any], request: Request) -> Response:
            await check_media(service_of(request).images, body, request.receive)
            name = body.get("model")
            # A name that is not text is the engine's to refuse.
            plain = cards.plain(name) if isinstance(name, str) else name
            body = {**body, "model": plain} if plain != name else body
            response = await self._send(request, path, body)
            return rename_model(response, str(name), {str(plain)}) if plain != name else response

        return handle

    async def _send(self, request: Request, path: str, body: dict[str, Any]) -> Response:
        if path != RESPONSES:
            return await self.upstream.send(request, path, _json(body))

        def content(engine: Engine) -> bytes:
            # vLLM takes the id of a response from the request. It names the engine, for what comes later.
            return _json({"request_id": new_response_id(engine), **body})

        # The engine that stores the previous response answers the next one.
        stores = stored_at(body.get("previous_response_id"))
        return await self.upstream.send(request, path, content, stores)

    def _states(self) -> list[dict[str, Any]]:
        states = self.engines.states()
        if not self.private:
            return states
        return [{"engine": at, "ready": state["ready"]} for at, state in enumerate(states)]

    def _no_engine(self) -> str:
        return "no engine is ready; see the gateway's log" if self.private else self.engines.why_none()


def _json(body: dict[str, Any]) -> bytes:
    # ASCII: a text may hold half of a surrogate pair, which has no UTF-8.
    return json.dumps(body, separators=(",", ":")).encode()
