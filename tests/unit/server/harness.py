"""The routes on a fake engine, reached in memory, and what requests to them are made of."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from openai import AsyncOpenAI
from PIL import Image
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from mirl_core.config import ModelSettings
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.pipeline.run import Pipeline
from mirl_server.apis.pages.document import name_document
from mirl_server.apis.router import make_router
from mirl_server.handling.service import Service
from mirl_server.media.images import Images
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings, default_options

DESCRIPTIONS = [
    FakeText("a red seven</description>", logprobs=-0.5, marginal=-3),
    FakeText("a red one</description>", logprobs=-0.5, marginal=-0.6),
]


def png(colour: str = "red", size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(colour: str = "red", size: tuple[int, int] = (4, 4)) -> str:
    return "data:image/png;base64," + base64.b64encode(png(colour, size)).decode()


def question(text: str = "which digit?", url: str | None = None) -> dict[str, Any]:
    """A user message with an image."""
    parts = [
        {"type": "image_url", "image_url": {"url": url or data_url()}},
        {"type": "text", "text": text},
    ]
    return {"role": "user", "content": parts}


@dataclass
class Harness:
    """An app over a fake engine, and what its backend was handed."""

    engine: FakeEngine
    app: FastAPI
    registry: CollectorRegistry
    service: Service
    handed: list[dict[str, Any]] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=True), base_url="http://test"
        )

    async def ask(self, body: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
        default = {"model": "m", "messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
        async with self.client() as client:
            return await client.post(
                "/v1/chat/completions", json=(default if body is None else body) | fields
            )

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@cache
def _routes() -> Sequence[BaseRoute]:
    """Return an app's routes, made once: they hold no state of a test, and take a tenth of a second."""
    app = FastAPI(openapi_url=None)
    app.include_router(make_router())
    return tuple(app.routes)


def make_harness(
    engine: FakeEngine | None = None,
    with_engine: bool = True,
    draining: bool = False,
    model: ModelSettings | None = None,
    images: Images | None = None,
    **settings: Any,
) -> Harness:
    engine = engine or FakeEngine(
        DESCRIPTIONS, lambda suffix, j: f"<think>so</think><answer>{7 if 'seven' in suffix else 1}</answer>"
    )
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    app = FastAPI()
    app.router.routes.extend(_routes())
    name_document(app)
    loaded = ServerSettings.load(**settings)
    model = model or ModelSettings(instruction="")
    handed: list[dict[str, Any]] = []

    async def delegate(body: dict[str, Any], request: Request) -> Response:
        handed.append(body)
        return JSONResponse({"id": "x", "object": "chat.completion", "model": "m", "choices": []})

    async def cards() -> list[dict[str, Any]]:
        return [
            {"id": "m", "object": "model", "parent": None},
            {"id": "lora", "object": "model", "parent": "m"},
        ]

    app.state.mirl = Service(
        pipeline=Pipeline(engine, model) if with_engine else None,
        options=default_options(model, loaded),
        settings=loaded,
        names=("m", "alias"),
        cards=cards,
        delegate=delegate,
        metrics=metrics,
        images=images or Images.of(loaded.limits, loaded.images, metrics.time_images, metrics.fetched),
        draining=lambda: draining,
    )
    return Harness(engine, app, registry, app.state.mirl, handed)


Build = Callable[..., Harness]


def events(response: httpx.Response) -> list[Any]:
    """The data of a finished stream, `[DONE]` checked and left out."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def client(harness: Harness) -> AsyncOpenAI:
    """Return the openai package's client of the app; it raises what the app raises."""
    transport = httpx.ASGITransport(harness.app, raise_app_exceptions=True)
    return AsyncOpenAI(
        base_url="http://test/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.AsyncClient(transport=transport),
    )
