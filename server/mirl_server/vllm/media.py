"""A media connector for vLLM that checks images against the operator's limits and decodes them as the gate.

`NAME:direct` and vLLM's other endpoints read data URLs by vLLM's own code, which opens dozens of formats and
checks only the size of each picture. Without this connector those endpoints would accept images that the gate
refuses (a small file that takes long to open, or a thousand files that are too large together), and would
decode others differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.base import MediaWithBytes
from vllm.multimodal.media.connector import global_thread_pool
from vllm.multimodal.media.image import ImageMediaIO

from mirl_core.config import Limits
from mirl_core.errors import RequestError
from mirl_server.media.decoding import DAMAGED, ImageBudget, check_bytes, data_bytes, decode_bytes

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
    """vLLM's own connector with MIRL's checks and decoder of images. `check_images` sets `limits`."""

    limits: ClassVar[Limits] = Limits()

    async def load_from_url_async(self, url: str, media_io: Any, **options: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO):
            return await super().load_from_url_async(url, media_io, **options)
        media_io = _ImageIO(media_io, self.limits)
        if url[:5].lower() != "data:":
            return await super().load_from_url_async(url, media_io, **options)
        images = _REQUEST_IMAGES.get() or _RequestImages(self.limits)
        loop = asyncio.get_running_loop()
        async with images.lock:
            raw = await loop.run_in_executor(global_thread_pool, _checked, url, images.budget)
        return await loop.run_in_executor(global_thread_pool, media_io.load_bytes, raw)

    def load_from_url(self, url: str, media_io: Any, **options: Any) -> Any:
        own = _ImageIO(media_io, self.limits) if isinstance(media_io, ImageMediaIO) else media_io
        return super().load_from_url(url, own, **options)

    def _load_data_url(self, url: str, media_io: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO):
            return super()._load_data_url(url, media_io)
        return media_io.load_bytes(_checked(url, ImageBudget.of(self.limits)))

    def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
        if self.allowed_local_media_path is None:
            # vLLM answers its own error here with a 500.
            raise VLLMValidationError("'file:' URLs are not accepted; send a data URL", parameter=_PART)
        return super()._load_file_url(url_spec, media_io)


class _ImageIO(ImageMediaIO):  # type: ignore[misc]
    """vLLM's reader of an image file, with the decoder of gated requests.

    Two decoders would show the model two pictures: Pillow's conversion of 16-bit grey, which vLLM uses, makes
    it white.
    """

    def __init__(self, media_io: ImageMediaIO, limits: Limits) -> None:
        super().__init__(media_io.image_mode, **media_io.kwargs)
        self._limits = limits

    def load_bytes(self, data: bytes) -> Any:
        if self.image_mode != "RGB":  # the operator or the request asks for another mode
            try:
                return super().load_bytes(data)
            except DAMAGED as error:
                message = "the image is damaged or cut short; send a whole file"
                raise VLLMValidationError(message, parameter=_PART) from error
        with _errors_of_vllm():
            image = decode_bytes(data, _PART, ImageBudget.of(self._limits), self.rgba_background_color)
        # Cached by the file's bytes, and by the colour that they are shown on.
        return MediaWithBytes(image, data, {"rgba_background_color": self.rgba_background_color})


def _checked(url: str, budget: ImageBudget) -> bytes:
    with _errors_of_vllm():
        raw = data_bytes(url, _PART, budget)
        check_bytes(raw, _PART, budget)
    return raw


@contextmanager
def _errors_of_vllm() -> Iterator[None]:
    """Raise a refusal of an image as vLLM's error of a wrong request."""
    try:
        yield
    except RequestError as error:
        raise VLLMValidationError(error.message, parameter=_PART) from error
