"""A media connector for vLLM that checks images against the operator's limits before vLLM decodes them.

`NAME:direct` and vLLM's other endpoints read data URLs by vLLM's own code, which opens dozens of formats and
checks only the size of each picture. Without this connector an image that gated requests may not send (a
small file that takes long to open, or a thousand files that are too large together) would pass there.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, ClassVar

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.connector import global_thread_pool
from vllm.multimodal.media.image import ImageMediaIO

from mirl_core.config import Limits
from mirl_core.errors import RequestError
from mirl_server.media.decoding import DAMAGED, ImageBudget, check_bytes, data_bytes

DEFAULT = "http"
"""vLLM's name for its own connector; an operator's (`VLLM_MEDIA_CONNECTOR`) has another name and stays."""
_PART = "image_url"


class _RequestImages:
    """The image budget of one request. Its images are checked one after another, so that each is counted."""

    def __init__(self, limits: Limits) -> None:
        self.budget = ImageBudget.of(limits)
        self.lock = asyncio.Lock()


_REQUEST_IMAGES: ContextVar[_RequestImages | None] = ContextVar("mirl_images", default=None)


def check_images(app: FastAPI, limits: Limits) -> None:
    """Replace vLLM's media connector, and add the middleware that gives each request an image budget."""
    MEDIA_CONNECTOR_REGISTRY.register(DEFAULT)(type("Checked", (CheckedConnector,), {"limits": limits}))
    app.add_middleware(_RequestImagesMiddleware, limits=limits)


class _RequestImagesMiddleware:
    """ASGI middleware that sets the request's image budget for the several connectors that vLLM creates."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _REQUEST_IMAGES.set(_RequestImages(self._limits))
        await self.app(scope, receive, send)


class CheckedConnector(MediaConnector):  # type: ignore[misc] # vllm's types are not followed
    """vLLM's own connector with a check of each image's data. `check_images` sets `limits`."""

    limits: ClassVar[Limits] = Limits()

    async def load_from_url_async(self, url: str, media_io: Any, **options: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO) or url[:5].lower() != "data:":
            return await super().load_from_url_async(url, media_io, **options)
        images = _REQUEST_IMAGES.get() or _RequestImages(self.limits)
        loop = asyncio.get_running_loop()
        async with images.lock:
            raw = await loop.run_in_executor(global_thread_pool, _checked, url, images.budget)
        return await loop.run_in_executor(global_thread_pool, _loaded, raw, media_io)

    def _load_data_url(self, url: str, media_io: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO):
            return super()._load_data_url(url, media_io)
        return _loaded(_checked(url, ImageBudget.of(self.limits)), media_io)

    def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
        if self.allowed_local_media_path is None:
            # vLLM answers its own error here with a 500.
            raise VLLMValidationError("'file:' URLs are not accepted; send a data URL", parameter=_PART)
        return super()._load_file_url(url_spec, media_io)


def _checked(url: str, budget: ImageBudget) -> bytes:
    try:
        raw = data_bytes(url, _PART, budget)
        check_bytes(raw, _PART, budget)
    except RequestError as error:
        raise VLLMValidationError(error.message, parameter=_PART) from error
    return raw


def _loaded(raw: bytes, media_io: Any) -> Any:
    try:
        return media_io.load_bytes(raw)
    except DAMAGED as error:
        message = "the image is damaged or cut short; send a whole file"
        raise VLLMValidationError(message, parameter=_PART) from error
