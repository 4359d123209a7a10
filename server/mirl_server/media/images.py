"""Images of requests: located URLs in, pictures (or data URLs) out."""

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
from mirl_server.media.decoding import ImageBudget, check_bytes, data_bytes, decode_bytes, decode_url
from mirl_server.media.fetching import ImageFetcher, ignore
from mirl_server.media.rules import FetchOutcome, ImageFetching, refused_url

T = TypeVar("T")
Timed = Callable[[Literal["fetch", "decode"]], AbstractContextManager[None]]
Located = Sequence[tuple[str, str]]
"""URLs, each with its content part, as errors name it."""
MAX_THREADS = 4


class Images:
    """A reader of requests' images. One instance serves a process.

    Args:
        limits: limits of one request.
        fetcher: fetches http(s) URLs; None: they are refused.
        timed: times a step of a request's images.
        ended: called with `refused` where there is no fetcher.
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
        # Few, because each may hold several copies of a picture of the largest size.
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
        """Create a reader from the operator's settings; it fetches only if a host is allowed.

        Args:
            ended: called with the outcome of each fetch.
        """
        fetcher = ImageFetcher(fetching, ended=ended) if fetching.allow_hosts else None
        return cls(limits, fetcher, timed, ended)

    async def decode(self, urls: Located) -> list[Image.Image]:
        """Return the pictures, in order. A URL that occurs twice is fetched and decoded once.

        Raises:
            ImageError: a URL has another scheme, can't be fetched, or is no image.
            RequestTooLargeError: an image, the number of images, or all together exceed a limit.
        """
        where, budget = self._distinct(urls), ImageBudget.of(self.limits)
        # Data URLs first: a request that is refused for one of them fetches nothing.
        inline = {url: part for url, part in where.items() if not is_remote(url)}
        pictures: dict[str, Image.Image] = {}
        if inline:
            with self._timed("decode"):
                pictures = await self._thread(
                    lambda: {url: decode_url(url, inline[url], budget) for url in inline}
                )
        fetched = await self._fetch({url: part for url, part in where.items() if is_remote(url)}, budget)
        if fetched:
            with self._timed("decode"):
                pictures |= await self._thread(
                    lambda: {url: decode_bytes(fetched.pop(url), where[url], budget) for url in list(fetched)}
                )
        return [pictures[url] for url, _ in urls]

    async def inline(self, urls: Located) -> list[str]:
        """Return remote images as data URLs of the same bytes, for a handler that must not fetch.

        Raises:
            ImageError, RequestTooLargeError: as in `decode`, but checked by the files' headers only.
        """
        where, budget = self._distinct(urls), ImageBudget.of(self.limits)
        fetched = await self._fetch(where, budget)

        def data_url(raw: bytes, part: str) -> str:
            return f"data:{check_bytes(raw, part, budget)};base64,{base64.b64encode(raw).decode()}"

        inlined = await self._thread(lambda: {url: data_url(raw, where[url]) for url, raw in fetched.items()})
        return [inlined[url] for url, _ in urls]

    async def check(self, urls: Located) -> None:
        """Check the images of data URLs by their files' headers, for a handler that decodes them itself.

        Raises:
            ImageError, RequestTooLargeError: as in `decode`, for all but the files' pixels.
        """
        budget = ImageBudget.of(self.limits)

        def check_all() -> None:
            for url, part in urls:
                check_bytes(data_bytes(url, part, budget), part, budget)

        if urls:
            with self._timed("decode"):
                await self._thread(check_all)

    def _distinct(self, urls: Located) -> dict[str, str]:
        """Return each distinct URL with its first content part."""
        limit = self.limits.max_images
        if len(urls) > limit:
            raise RequestTooLargeError(
                f"the conversation has {len(urls)} images; this server takes at most {limit}",
                param=urls[limit][1],
            )
        where: dict[str, str] = {}
        for url, part in urls:
            where.setdefault(url, part)
        return where

    async def _fetch(self, urls: dict[str, str], budget: ImageBudget) -> dict[str, bytes]:
        if not urls:
            return {}
        if self._fetcher is None:
            self._ended("refused")
            raise refused_url(*next(iter(urls.items())))
        with self._timed("fetch"):
            return await self._fetcher.fetch(urls, budget)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def check_processing(kwargs: object, limits: Limits) -> None:
    """Raise RequestTooLargeError if `mm_processor_kwargs` would enlarge a picture over the limit.

    Processors name the size differently (`min_pixels`, `size.shortest_edge`, `size.height`): no number, and
    no height times its width, may exceed the limit in pixels.
    """
    if isinstance(kwargs, list):
        for member in kwargs:
            check_processing(member, limits)
    elif isinstance(kwargs, dict):
        limit = limits.max_image_pixels
        numbers = [value for value in kwargs.values() if isinstance(value, int | float)]
        height, width = kwargs.get("height"), kwargs.get("width")
        if isinstance(height, int | float) and isinstance(width, int | float):
            numbers.append(height * width)
        if any(number > limit for number in numbers):
            raise RequestTooLargeError(
                f"mm_processor_kwargs asks for more than {limit} pixels; ask for fewer",
                param="mm_processor_kwargs",
            )
        for value in kwargs.values():
            check_processing(value, limits)


def is_remote(url: str) -> bool:
    """Return whether a URL is fetched over the network, by this server or by vLLM."""
    return url[:4].lower() == "http"
