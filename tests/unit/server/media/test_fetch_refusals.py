"""The messages of fetches that fail, word by word, and the bounds at which a fetch is refused."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from typing import Any

import httpcore
import pytest

from mirl_core import __version__
from mirl_core.config import Limits
from mirl_core.errors import ImageError, RequestTooLargeError
from mirl_server.media.decoding import ImageBudget
from mirl_server.media.fetching import ImageFetcher, SystemResolver
from mirl_server.media.rules import FetchOutcome, ImageFetching
from tests.helpers.waiting import until
from tests.unit.server.harness import png
from tests.unit.server.media.origin import HOST, PUBLIC, Network, Web, answer, origin, redirect, web

URL = f"http://{HOST}/a"
WHERE = "messages[2].content[3]"
PNG = png()
DATA = "send a data URL (data:image/png;base64,…)"
FORMATS = "send PNG, JPEG, WebP, GIF or BMP"
NO_ADDRESS = f"the image's host has no address that this server fetches from; check it, or {DATA}"
BREAKS_OFF = f"the image's server can't be reached, or breaks off; try again, or {DATA}"
OTHER_TYPE = f"what the image's URL gives is of another type; {FORMATS}"
NO_IMAGE = f"what the image's URL gives is no image; {FORMATS}"
COMPRESSED = f"the image's server sends it compressed, unasked; {DATA}"
NOT_HERE = f"images from this host and port are not fetched here; {DATA}"


async def fetch(setup: Web, url: str = URL, **limits: int) -> bytes:
    return (await setup.fetcher.fetch({url: WHERE}, ImageBudget.of(Limits(**limits))))[url]


async def refusal(setup: Web, url: str = URL, **limits: int) -> str:
    with pytest.raises((ImageError, RequestTooLargeError)) as caught:
        await fetch(setup, url, **limits)
    assert caught.value.param == WHERE
    return caught.value.message


@pytest.mark.parametrize(
    ("response", "outcome", "message"),
    [
        (b"", "unreachable", BREAKS_OFF),
        (answer(PNG, content_length="9" * 19), "unreachable", BREAKS_OFF),
        (answer(PNG, content_length="9" * 18), "too_large",
         "the image is over 4000 bytes; send a smaller one"),
        (answer(PNG, content_length="4001"), "too_large", "the image is over 4000 bytes; send a smaller one"),
        (answer(PNG, content_length="4000"), "unreachable", BREAKS_OFF),
        (answer(PNG + bytes(4001 - len(PNG)), content_length=""), "too_large",
         "the image is over 4000 bytes; send a smaller one"),
        (answer(PNG, "image/tiff"), "not_image", OTHER_TYPE),
        (answer(PNG, "text/html; a=image/png"), "not_image", OTHER_TYPE),
        (answer(b"<html>12345678</"), "not_image", NO_IMAGE),
        (answer(PNG, content_encoding="gzip"), "not_image", COMPRESSED),
        (answer(PNG, content_encoding="identity, gzip"), "not_image", COMPRESSED),
        (answer(b"", None, "404 Not Found"), "status",
         f"the image's server answers with status 404; check the URL, or {DATA}"),
        (answer(PNG, status="201 Created"), "status",
         f"the image's server answers with status 201; check the URL, or {DATA}"),
        (redirect("/a"), "refused",
         f"the image's URL redirects more than 3 times; give its final URL, or {DATA}"),
        (redirect("http://[::1"), "refused", f"the image's URL redirects to nowhere; {DATA}"),
        (redirect("http://evil.example/"), "refused", NOT_HERE),
        (redirect("http://internal.example.org/"), "refused", NO_ADDRESS),
        (redirect("http://nobody.example.org/"), "unreachable", NO_ADDRESS),
    ],
)  # fmt: skip
async def test_messages_name_part_and_remedy(response: bytes, outcome: FetchOutcome, message: str) -> None:
    async with origin(a=response) as server:
        setup = web(server, {"internal.example.org": [["10.0.0.1"]]})
        assert await refusal(setup, max_image_bytes=4000) == message
        assert setup.ended == [outcome]


async def test_the_time_limit_names_its_seconds() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        return await asyncio.Event().wait() or []

    ended: list[FetchOutcome] = []
    fetcher = ImageFetcher(ImageFetching(allow_hosts=[HOST], timeout=0.05), never, ended=ended.append)
    with pytest.raises(ImageError) as caught:
        await fetcher.fetch({URL: WHERE}, ImageBudget.of(Limits()))
    assert caught.value.message == f"the image could not be fetched within 0.05 seconds; try again, or {DATA}"
    assert (caught.value.param, ended) == (WHERE, ["timeout"])


@pytest.mark.parametrize(
    "response",
    [
        answer(PNG, "image/jpg"),
        answer(PNG, "image/png ; a=b; c=d"),
        answer(PNG, "application/octet-stream"),
        answer(PNG, content_encoding="Identity"),
        answer(b"fifteen letters"),  # too short for a signature: the decoder refuses it
        answer(PNG.ljust(4000, b"\0")),
    ],
)
async def test_the_file_is_returned_as_it_is(response: bytes) -> None:
    async with origin(a=response) as server:
        setup = web(server)
        assert await fetch(setup, max_image_bytes=4000) == response.partition(b"\r\n\r\n")[2]
        assert setup.ended == ["ok"]


async def test_the_request_carries_nothing_of_the_server() -> None:
    async with origin(a=answer(PNG)) as server:
        await fetch(web(server))
        assert "".join(server.heads) == (
            f"GET /a HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: mirl/{__version__}\r\n"
            "Accept: image/png, image/jpeg, image/webp, image/gif, image/bmp\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
        )


async def test_a_redirect_to_a_latin_1_path() -> None:
    moved = b"HTTP/1.1 302 Found\r\nlocation: /\xfc\r\ncontent-length: 0\r\n\r\n"
    async with origin(a=moved) as server:
        server.answers["/%C3%BC"] = answer(PNG)
        assert await fetch(web(server)) == PNG
        assert server.paths() == ["/a", "/%C3%BC"]


@pytest.mark.parametrize(("most", "redirects", "reached"), [(0, 0, True), (2, 2, True), (2, 3, False)])
async def test_as_many_redirects_as_allowed(most: int, redirects: int, reached: bool) -> None:
    async with origin() as server:
        server.answers |= {f"/{number}": redirect(f"/{number - 1}") for number in range(1, redirects + 1)}
        server.answers["/0"] = answer(PNG)
        setup, url = web(server, max_redirects=most), f"http://{HOST}/{redirects}"
        if reached:
            assert await fetch(setup, url) == PNG
        else:
            message = f"the image's URL redirects more than {most} times; give its final URL, or {DATA}"
            assert await refusal(setup, url) == message
        assert len(server.heads) == min(redirects, most) + 1


async def test_a_refusal_waits_until_the_other_fetches_have_ended() -> None:
    async def silent(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with origin(a=silent, b=answer(b"", None, "404 Not Found")) as server:
        setup = web(server, timeout=60)
        with pytest.raises(ImageError, match="status 404") as caught:
            await setup.fetcher.fetch({URL: "x", f"http://{HOST}/b": WHERE}, ImageBudget.of(Limits()))
        assert (caught.value.param, sorted(setup.ended)) == (WHERE, ["cancelled", "status"])


class Recording(Network):
    """A network that keeps the options of each connection."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.options: list[dict[str, Any]] = []

    async def connect_tcp(
        self, host: str, port: int, *rest: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        self.options.append(options)
        return await super().connect_tcp(host, port, *rest, **options)


async def test_four_distinct_addresses_are_tried_for_three_seconds_each() -> None:
    lookups: list[tuple[str, int]] = []
    dead = [f"93.184.215.{last}" for last in (1, 2, 3, 4)]
    addresses = [*dead[:1] * 3, *dead[1:3], PUBLIC]

    async def resolve(host: str, port: int) -> Sequence[str]:
        lookups.append((host, port))
        return addresses

    async with origin(a=answer(PNG)) as server:
        network = Recording(server, dead)
        settings = ImageFetching(allow_hosts=[f"{HOST}:8080"], timeout=5)
        fetcher = ImageFetcher(settings, resolve, network)
        url = f"http://{HOST}:8080/a"
        assert await fetcher.fetch({url: WHERE}, ImageBudget.of(Limits())) == {url: PNG}
        assert lookups == [(HOST, 8080)]
        assert network.called == [(address, 8080) for address in (*dead[:3], PUBLIC)]
        assert network.options == [{"timeout": 3.0}] * 4
        addresses[-1:] = [dead[3], PUBLIC]
        with pytest.raises(ImageError) as caught:
            await fetcher.fetch({url: WHERE}, ImageBudget.of(Limits()))
        assert caught.value.message == BREAKS_OFF
        assert network.called[4:] == [(address, 8080) for address in dead]


async def test_fetches_report_to_nobody_by_default() -> None:
    async with origin(a=answer(PNG)) as server:
        fetcher = ImageFetcher(ImageFetching(allow_hosts=[HOST]), web(server).names, Network(server))
        assert await fetcher.fetch({URL: WHERE}, ImageBudget.of(Limits())) == {URL: PNG}
        with pytest.raises(ImageError, match="not fetched here"):
            await fetcher.fetch({"http://evil.example/": WHERE}, ImageBudget.of(Limits()))


async def test_a_fetch_leaves_the_requests_budget_to_the_decoder() -> None:
    budget = ImageBudget.of(Limits(max_total_image_bytes=1000))
    async with origin(a=answer(PNG)) as server:
        await web(server).fetcher.fetch({URL: WHERE}, budget)
    assert budget == ImageBudget.of(Limits(max_total_image_bytes=1000))


async def test_eight_names_are_looked_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    calls: list[tuple[Any, ...]] = []
    release = threading.Event()

    def blocked(*arguments: Any, **options: Any) -> list[Any]:
        threads.append(threading.current_thread().name)
        calls.append((*arguments, options))
        assert release.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.2.3.4", 81))]

    monkeypatch.setattr("mirl_server.media.fetching.socket.getaddrinfo", blocked)
    resolve = SystemResolver()
    lookups = [asyncio.create_task(resolve("a.example", 81)) for _ in range(16)]
    try:
        async with asyncio.timeout(10):
            await until(lambda: len(threads) >= 8)
        assert sorted(threads) == [f"mirl-resolver_{number}" for number in range(8)]
    finally:
        release.set()
    assert await asyncio.gather(*lookups) == [["1.2.3.4"]] * 16
    assert calls == [("a.example", 81, {"type": socket.SOCK_STREAM})] * 16
