"""A request's images: where each stands and what it says in, pictures (or data URLs) out."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

from PIL import Image

from mirl_core.config import Limits
from mirl_core.errors import RequestTooLargeError
from mirl_server.media.decoding import ImageBudget, check_bytes, decode_bytes, decode_url
from mirl_server.media.fetching import ImageFetcher, ignore
from mirl_server.media.rules import FetchOutcome, ImageFetching, refused_url

T = TypeVar("T")
Timed = Callable[[Literal["fetch", "decode"]], AbstractContextManager[None]]
Located = Sequence[tuple[str, str]]
"""URLs, each with the content part that it stands in, as errors name it."""
MAX_THREADS = 4


class Images:
    """Reads the images of requests. One serves a process.

    Args:
        limits: what one request may bring.
        fetcher: gets http(s) URLs; None: they are refused.
        timed: times a step of a request's images.
        ended: hears of an image that is not fetched because nothing is.
    """

    def __init__(
        self,
        limits: Limits,
        fetcher: ImageFetcher | None = None,
        timed: Timed = lambda _: nullcontext(),
        ended: Callable[[FetchOutcome], None] = ignore,
    ) -> None:
        self.limits = limits
        self._ended = ended
        self._fetcher = fetcher
        self._timed = timed
        # Few, because each may hold a picture of the largest size several times over.
        threads = min(MAX_THREADS, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="mirl-images")

    @classmethod
    def of(
        cls,
        limits: Limits,
        fetching: ImageFetching,
        timed: Timed = lambda _: nullcontext(),
        ended: Callable[[FetchOutcome], None] = ignore,
    ) -> Images:
        """By the operator's settings: nothing is fetched unless a host is allowed.

        Args:
            ended: hears how each fetch ended.
        """
        fetcher = ImageFetcher(fetching, ended=ended) if fetching.allow_hosts else None
        return cls(limits, fetcher, timed, ended)

    async def decode(self, urls: Located) -> list[Image.Image]:
        """The pictures, in order. A URL that occurs twice is fetched and decoded once.

        Raises:
            ImageError: a URL is of a kind that isn't taken, can't be fetched, or is no image.
            RequestTooLargeError: an image, their number, or all of them together are over a limit.
        """
        where, room = self._distinct(urls), ImageBudget.of(self.limits)
        # What came along first: a request that must be refused for it fetches nothing.
        near = {url: part for url, part in where.items() if not is_remote(url)}
        pictures: dict[str, Image.Image] = {}
        if near:
            with self._timed("decode"):
                pictures = await self._thread(lambda: {url: decode_url(url, near[url], room) for url in near})
        fetched = await self._fetch({url: part for url, part in where.items() if is_remote(url)}, room)
        if fetched:
            with self._timed("decode"):
                pictures |= await self._thread(
                    lambda: {url: decode_bytes(fetched.pop(url), where[url], room) for url in list(fetched)}
                )
        return [pictures[url] for url, _ in urls]

    async def inline(self, urls: Located) -> list[str]:
        """Remote images as data URLs of the same bytes, for a handler that must fetch nothing itself.

        Raises:
            ImageError, RequestTooLargeError: as `decode`, as far as a file's header tells.
        """
        where, room = self._distinct(urls), ImageBudget.of(self.limits)
        fetched = await self._fetch(where, room)

        def data_url(raw: bytes, part: str) -> str:
            return f"data:{check_bytes(raw, part, room)};base64,{base64.b64encode(raw).decode()}"

        inlined = await self._thread(lambda: {url: data_url(raw, where[url]) for url, raw in fetched.items()})
        return [inlined[url] for url, _ in urls]

    def _distinct(self, urls: Located) -> dict[str, str]:
        """Each URL with the first part that it stands in."""
        most = self.limits.max_images
        if len(urls) > most:
            raise RequestTooLargeError(
                f"the conversation has {len(urls)} images; this server takes at most {most}",
                param=urls[most][1],
            )
        where: dict[str, str] = {}
        for url, part in urls:
            where.setdefault(url, part)
        return where

    async def _fetch(self, urls: dict[str, str], room: ImageBudget) -> dict[str, bytes]:
        if not urls:
            return {}
        if self._fetcher is None:
            self._ended("refused")
            raise refused_url(*next(iter(urls.items())))
        with self._timed("fetch"):
            return await self._fetcher.fetch(urls, room)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def check_processing(given: object, limits: Limits) -> None:
    """RequestTooLargeError where `mm_processor_kwargs` would have a picture blown up over the limit.

    Processors differ in what they call it (`min_pixels`, `size.shortest_edge`, `size.height`): no number may
    be more than the most pixels, and no height times its width.
    """
    if isinstance(given, list):
        for one in given:
            check_processing(one, limits)
    elif isinstance(given, dict):
        most = limits.max_image_pixels
        numbers = [one for one in given.values() if isinstance(one, int | float)]
        height, width = given.get("height"), given.get("width")
        if isinstance(height, int | float) and isinstance(width, int | float):
            numbers.append(height * width)
        if any(one > most for one in numbers):
            raise RequestTooLargeError(
                f"mm_processor_kwargs asks for more than {most} pixels; ask for fewer",
                param="mm_processor_kwargs",
            )
        for one in given.values():
            check_processing(one, limits)


def is_remote(url: str) -> bool:
    """Whether a URL would be fetched over the network, by this server or by vLLM."""
    return url[:4].lower() == "http"
