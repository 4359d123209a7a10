"""The reader of a request's images: which steps it times, what it fetches, and how errors name the part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from PIL import Image

from mirl_core.config import Limits
from mirl_core.errors import ImageError, RequestTooLargeError
from mirl_server.media.images import Images, check_processing
from mirl_server.media.rules import FetchOutcome, ImageFetching
from tests.unit.server.harness import data_url, png
from tests.unit.server.media.origin import HOST, answer, origin, web

REMOTE = f"http://{HOST}/a"
LOCAL = data_url("blue")
OFF = (
    "images by URL are not enabled (the operator's --allow-image-host does); "
    "send a data URL (data:image/png;base64,…)"
)
NOT_HERE = "images from this host and port are not fetched here; send a data URL (data:image/png;base64,…)"
DAMAGED = "the image is damaged or cut short; send a whole file"


PICTURE = Image.new("RGB", (4, 4))


def timer(steps: list[str]) -> Callable[[Any], AbstractContextManager[None]]:
    """Return a `timed` that appends the start and the end of each step."""

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        steps.append(step)
        yield
        steps.append(f"{step} ends")

    return timed


@pytest.mark.parametrize(
    ("urls", "steps"),
    [
        ([], []),
        ([LOCAL], ["decode", "decode ends"]),
        ([REMOTE], ["fetch", "fetch ends", "decode", "decode ends"]),
        ([REMOTE, LOCAL], ["decode", "decode ends", "fetch", "fetch ends", "decode", "decode ends"]),
    ],
)
async def test_each_step_is_timed_once(urls: list[str], steps: list[str]) -> None:
    timed: list[str] = []
    async with origin(a=answer(png("red"))) as served:
        images = Images(Limits(), web(served).fetcher, timer(timed))
        pictures = await images.decode([(url, f"part {number}") for number, url in enumerate(urls)])
    colours = {REMOTE: (255, 0, 0), LOCAL: (0, 0, 255)}
    assert [picture.getpixel((0, 0)) for picture in pictures] == [colours[url] for url in urls]
    assert timed == steps


async def test_an_inlined_image_is_fetched_and_not_decoded() -> None:
    timed: list[str] = []
    async with origin(a=answer(png())) as served:
        images = Images(Limits(), web(served).fetcher, timer(timed))
        assert await images.inline([]) == []
        assert await images.inline([(REMOTE, "x"), (REMOTE, "y")]) == [data_url()] * 2
        assert served.paths() == ["/a"]
    assert timed == ["fetch", "fetch ends"]


async def test_without_a_fetcher_the_first_url_is_refused() -> None:
    ended: list[FetchOutcome] = []
    images = Images(Limits(), ended=ended.append)
    for read in (images.decode, images.inline):
        ended.clear()
        with pytest.raises(ImageError) as caught:
            await read([(REMOTE, "part 0"), (f"{REMOTE}b", "part 1")])
        assert (caught.value.message, caught.value.param) == (OFF, "part 0")
        assert ended == ["refused"]
    with pytest.raises(ImageError):
        await Images(Limits()).decode([(REMOTE, "part 0")])


@pytest.mark.parametrize(("hosts", "message"), [((), OFF), (("other.example",), NOT_HERE)])
async def test_the_operators_settings_decide_whether_it_fetches(hosts: tuple[str, ...], message: str) -> None:
    timed: list[str] = []
    ended: list[FetchOutcome] = []
    images = Images.of(Limits(max_images=1), ImageFetching(allow_hosts=hosts), timer(timed), ended.append)
    with pytest.raises(ImageError) as caught:
        await images.decode([(REMOTE, "part 0")])
    assert (caught.value.message, caught.value.param) == (message, "part 0")
    assert ended == ["refused"]
    assert timed == (["fetch"] if hosts else [])
    with pytest.raises(RequestTooLargeError):
        await images.decode([(LOCAL, "part 0")] * 2)


async def test_settings_alone_make_a_reader() -> None:
    images = Images.of(Limits(), ImageFetching(allow_hosts=("other.example",)))
    assert [picture.size for picture in await images.decode([(LOCAL, "part 0")])] == [(4, 4)]
    with pytest.raises(ImageError, match="not fetched here"):
        await images.decode([(REMOTE, "part 0")])


async def test_too_many_images_name_the_first_over_the_limit() -> None:
    images = Images(Limits(max_images=2))
    with pytest.raises(RequestTooLargeError) as caught:
        await images.decode([(LOCAL, f"part {number}") for number in range(4)])
    assert caught.value.message == "the conversation has 4 images; this server takes at most 2"
    assert caught.value.param == "part 2"


async def test_an_image_that_occurs_twice_is_named_by_its_first_part() -> None:
    broken = b"\x89PNG\r\n\x1a\n and no more"
    async with origin(a=answer(broken)) as served:
        images = Images(Limits(), web(served).fetcher)
        for read in (images.decode, images.inline):
            with pytest.raises(ImageError) as caught:
                await read([(REMOTE, "part 0"), (REMOTE, "part 1")])
            assert (caught.value.message, caught.value.param) == (DAMAGED, "part 0")
        with pytest.raises(ImageError) as caught:
            await images.decode([(LOCAL, "part 0"), *[(LOCAL[:50], f"part {number}") for number in (1, 2)]])
        assert caught.value.param == "part 1"


async def test_a_bad_data_url_is_refused_before_any_fetch() -> None:
    async with origin(a=answer(png())) as served:
        setup = web(served)
        with pytest.raises(ImageError) as caught:
            await Images(Limits(), setup.fetcher).decode([(REMOTE, "part 0"), ("file:///a", "part 1")])
        assert caught.value.param == "part 1"
        assert setup.names.looked_up == []


async def test_pictures_are_decoded_outside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def decode(*_: object) -> Image.Image:
        threads.append(threading.current_thread().name)
        return PICTURE

    monkeypatch.setattr("mirl_server.media.images.decode_url", decode)
    assert await Images(Limits()).decode([(LOCAL, "part 0")]) == [PICTURE]
    # The default executor's threads have other names, and are shared with work that may block.
    assert threads == ["mirl-images_0"]


@pytest.mark.parametrize(("cores", "threads"), [(None, 1), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (64, 4)])
def test_few_pictures_are_decoded_at_a_time(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    pools: list[tuple[int, str]] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, max_workers: int, *, thread_name_prefix: str) -> None:
            pools.append((max_workers, thread_name_prefix))
            super().__init__(max_workers)

    monkeypatch.setattr("mirl_server.media.images.os.cpu_count", lambda: cores)
    monkeypatch.setattr("mirl_server.media.images.ThreadPoolExecutor", Pool)
    Images(Limits())
    assert pools == [(threads, "mirl-images")]


@pytest.mark.parametrize(
    "enlarged",
    [
        {"min_pixels": 101},
        {"size": {"height": 10, "width": 10.5}},
        {"size": {"height": 10.5, "width": 10}},
        [{}, [{"a": 100, "b": 101}]],
    ],
)
def test_a_processor_that_enlarges_a_picture_is_refused(enlarged: object) -> None:
    with pytest.raises(RequestTooLargeError) as caught:
        check_processing(enlarged, Limits(max_image_pixels=100))
    assert caught.value.message == "mm_processor_kwargs asks for more than 100 pixels; ask for fewer"
    assert caught.value.param == "mm_processor_kwargs"
