"""Images that vLLM decodes itself, held against the operator's limits first.

`NAME:direct` and vLLM's other endpoints read data URLs by vLLM's own code, which opens dozens of formats and
looks at nothing but each picture's size: a file that is small to send and long to open, or a thousand that
are large together, refused at the gate, would only have to be sent there. vLLM lets its media connector be
replaced; this one looks before it decodes.
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
"""vLLM's name of its own connector. An operator's (`VLLM_MEDIA_CONNECTOR`) has another, and stays."""
_PART = "image_url"


class _Look:
    """What one request's images may still take. They are looked at one by one, so that each counts."""

    def __init__(self, limits: Limits) -> None:
        self.room = ImageBudget.of(limits)
        self.turn = asyncio.Lock()


_LOOK: ContextVar[_Look | None] = ContextVar("mirl_images", default=None)


def check_images(app: FastAPI, limits: Limits) -> None:
    """Have vLLM look at images this way from here on, all of a request's together."""
    MEDIA_CONNECTOR_REGISTRY.register(DEFAULT)(type("Checked", (CheckedConnector,), {"limits": limits}))
    app.add_middleware(_ByRequest, limits=limits)


class _ByRequest:
    """ASGI middleware: tells a connector, of which vLLM makes several, which request it works for."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _LOOK.set(_Look(self._limits))
        await self.app(scope, receive, send)


class CheckedConnector(MediaConnector):  # type: ignore[misc] # vllm's types are not followed
    """vLLM's own, but for the look at an image's data. `check_images` sets `limits`."""

    limits: ClassVar[Limits] = Limits()

    async def load_from_url_async(self, url: str, media_io: Any, **how: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO) or url[:5].lower() != "data:":
            return await super().load_from_url_async(url, media_io, **how)
        look = _LOOK.get() or _Look(self.limits)
        loop = asyncio.get_running_loop()
        async with look.turn:
            raw = await loop.run_in_executor(global_thread_pool, _checked, url, look.room)
        return await loop.run_in_executor(global_thread_pool, _loaded, raw, media_io)

    def _load_data_url(self, url: str, media_io: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO):
            return super()._load_data_url(url, media_io)
        return _loaded(_checked(url, ImageBudget.of(self.limits)), media_io)

    def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
        if self.allowed_local_media_path is None:
            # vLLM's own error ends as a 500.
            raise VLLMValidationError("'file:' URLs are not accepted; send a data URL", parameter=_PART)
        return super()._load_file_url(url_spec, media_io)


def _checked(url: str, room: ImageBudget) -> bytes:
    try:
        raw = data_bytes(url, _PART, room)
        check_bytes(raw, _PART, room)
    except RequestError as error:
        raise VLLMValidationError(error.message, parameter=_PART) from error
    return raw


def _loaded(raw: bytes, media_io: Any) -> Any:
    try:
        return media_io.load_bytes(raw)
    except DAMAGED as error:
        says = "the image is damaged or cut short; send a whole file"
        raise VLLMValidationError(says, parameter=_PART) from error
