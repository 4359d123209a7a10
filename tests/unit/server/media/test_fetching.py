"""The fetcher on real sockets: what it sends, where it connects, and what it refuses to read."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Sequence
from typing import Any

import httpcore
import pytest

from mirl_core.config import Limits
from mirl_core.errors import ImageError, RequestTooLargeError
from mirl_server.media.decoding import ImageBudget
from mirl_server.media.fetching import ImageFetcher, SystemResolver
from mirl_server.media.rules import ImageFetching
from tests.unit.server.harness import png
from tests.unit.server.media.origin import HOST, PUBLIC, Web, Write, answer, origin, redirect, web

URL = f"http://{HOST}/a"
WHERE = "messages[0].content[1]"
PNG = png()
OK = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"


async def fetch(setup: Web, *urls: str, **limits: int) -> list[bytes]:
    room = ImageBudget.of(Limits(**limits))
    return list((await setup.fetcher.fetch(dict.fromkeys(urls or (URL,), WHERE), room)).values())


async def refused(setup: Web, *urls: str, **limits: int) -> str:
    """What a refusal says. It names the part and a remedy, and nothing of what is behind the server."""
    with pytest.raises((ImageError, RequestTooLargeError)) as caught:
        await fetch(setup, *urls, **limits)
    assert caught.value.param == WHERE
    assert "send" in caught.value.message
    for private in ("10.", "127.", "169.254", "secret", "internal"):
        assert private not in caught.value.message
    return caught.value.message


async def test_one_plain_request_to_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://10.0.0.1:1")
    async with origin(a=answer(PNG)) as server:
        setup = web(server)
        assert await fetch(setup) == [PNG]
        assert setup.network.called == [(PUBLIC, 80)]
        assert setup.names.looked_up == [HOST]
        head = server.heads[0].lower().split("\r\n")
        assert head[0] == "get /a http/1.1"
        assert {line.split(":")[0] for line in head[1:] if line} == {
            "host", "user-agent", "accept", "accept-encoding", "connection"
        }  # fmt: skip
        assert f"host: {HOST}" in head
        assert "accept-encoding: identity" in head
        assert any(line.startswith("user-agent: mirl/") for line in head)


async def test_the_port_is_in_the_host_header() -> None:
    async with origin(a=answer(PNG)) as server:
        setup = web(server, allow_hosts=[f"{HOST}:8080", "[2606:4700::1111]:81"])
        await fetch(setup, f"http://{HOST}:8080/a", "http://[2606:4700::1111]:81/a")
        assert sorted(setup.network.called) == [("2606:4700::1111", 81), (PUBLIC, 8080)]
        hosts = {head.split("Host: ")[1].split("\r\n")[0] for head in server.heads}
        assert hosts == {f"{HOST}:8080", "[2606:4700::1111]:81"}


@pytest.mark.parametrize(
    "addresses",
    [[], ["127.0.0.1"], ["10.0.0.5"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"],
     ["2002:7f00:1::"], ["fe80::1%eth0"], ["fd00:ec2::254"], ["100.64.0.1"],
     [PUBLIC, "127.0.0.1"], ["nonsense"]],
    ids=repr,
)  # fmt: skip
async def test_internal_hosts_look_like_hosts_that_are_not_there(addresses: Sequence[str]) -> None:
    async with origin(a=answer(PNG)) as server:
        setup = web(server, {HOST: [addresses]})
        assert "no address that this server fetches from" in await refused(setup)
        assert setup.network.called == []


async def test_a_name_that_changes_its_address_is_looked_up_once() -> None:
    async with origin(a=answer(PNG), b=redirect("/a")) as server:
        setup = web(server, {HOST: [[PUBLIC], ["127.0.0.1"]]})
        assert await fetch(setup) == [PNG]
        assert (setup.names.looked_up, setup.network.called) == ([HOST], [(PUBLIC, 80)])
        # A redirect to the same name is a new connection, and checked anew.
        again = web(server, {HOST: [[PUBLIC], ["127.0.0.1"]]})
        assert "no address" in await refused(again, f"http://{HOST}/b")
        assert again.network.called == [(PUBLIC, 80)]


async def test_private_addresses_by_the_operators_word() -> None:
    async with origin(a=answer(PNG)) as server:
        inside = {HOST: [["10.0.0.5"]]}
        assert await fetch(web(server, inside, allow_private=True)) == [PNG]
        await refused(web(server, inside, allow_private=True, allow_hosts=["*"]))
        await refused(web(server, {HOST: [["127.0.0.1"]]}, allow_private=True))
        await refused(web(server, inside, allow_private=True, deny_hosts=["10.0.0.0/8"]))


async def test_the_next_address_where_the_first_is_dead() -> None:
    async with origin(a=answer(PNG)) as server:
        setup = web(server, {HOST: [["8.8.8.8", PUBLIC]]}, dead=["8.8.8.8"])
        assert await fetch(setup) == [PNG]
        assert setup.network.called == [("8.8.8.8", 80), (PUBLIC, 80)]
        assert "can't be reached" in await refused(web(server, dead=[PUBLIC]))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_without_what_they_set(status: int) -> None:
    async with origin(b=redirect("./a?x#y"), c=answer(PNG)) as server:
        server.answers["/a?x"] = redirect("http://b.example.org/c", status)
        setup = web(server, {"b.example.org": [["1.1.1.1"]]})
        assert await fetch(setup, f"http://{HOST}/b") == [PNG]
        assert setup.network.called == [(PUBLIC, 80), (PUBLIC, 80), ("1.1.1.1", 80)]
        assert not any("cookie" in head.lower() for head in server.heads)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://internal.example.org/", "no address"),
        ("http://127.0.0.1/", "not fetched here"),
        ("http://evil.example/", "not fetched here"),
        ("http://images.example:22/", "not fetched here"),
        ("http://u:secret@images.example/", "name or password"),
        ("file:///etc/passwd", "plain host"),
        ("data:image/png;base64,aGk=", "plain host"),
        ("gopher://images.example/", "plain host"),
        ("http://[::1", "redirects to nowhere"),
        ("/a", "more than 3 times"),
        ("", "more than 3 times"),
    ],
)
async def test_redirects_are_held_against_the_rules(location: str, said: str) -> None:
    async with origin(a=redirect(location)) as server:
        setup = web(server, {"internal.example.org": [["10.0.0.1"]]})
        assert said in await refused(setup)
        assert {address for address, _ in setup.network.called} == {PUBLIC}


async def test_redirects_can_be_switched_off() -> None:
    async with origin(a=redirect("/b"), b=answer(PNG)) as server:
        assert "more than 0 times" in await refused(web(server, max_redirects=0))
        assert server.paths() == ["/a"]


def dribble(head: bytes, chunk: bytes = b"", pause: float = 0.02) -> Write:
    """Says `head`, then `chunk` for ever."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


@pytest.mark.parametrize(
    "slow",
    [
        dribble(b""),
        dribble(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        dribble(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        dribble(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + PNG[:20], b"x"),
        dribble(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 999\r\n\r\n"),
    ],
    ids=["silent", "headers", "informational", "body", "no body"],
)
async def test_time_limit(slow: Write) -> None:
    async with origin(a=slow) as server, asyncio.timeout(60):  # the origin never ends by itself
        assert "within 0.2 seconds" in await refused(web(server, timeout=0.2))


async def test_time_limit_covers_names_and_queues() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    fetcher = ImageFetcher(ImageFetching(allow_hosts=[HOST], timeout=0.1), never)
    with pytest.raises(ImageError, match=r"within 0\.1 seconds"):
        await fetcher.fetch({URL: WHERE}, ImageBudget.of(Limits()))
    async with origin(a=dribble(b""), b=answer(PNG)) as server:
        setup = web(server, timeout=0.2, max_concurrent=1)
        assert "within 0.2 seconds" in await refused(setup, URL, f"http://{HOST}/b")
        assert await fetch(setup, f"http://{HOST}/b") == [PNG]


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (answer(PNG + bytes(5000)), "over 4000 bytes"),
        (dribble(OK + b"\r\n" + PNG, bytes(500), 0), "over 4000 bytes"),
        (dribble(OK + b"transfer-encoding: chunked\r\n\r\n"
                 b"8\r\n" + PNG[:8] + b"\r\n", b"1f4\r\n" + bytes(500) + b"\r\n", 0), "over 4000 bytes"),
        (answer(PNG, content_length="9" * 15), "over 4000 bytes"),
        (answer(PNG, content_length=str(len(PNG) + 9)), "breaks off"),
        (answer(PNG, content_length="-1"), "breaks off"),
        (answer(PNG, content_length="1, 2"), "breaks off"),
        (answer(gzip.compress(bytes(9000)), content_encoding="gzip"), "compressed"),
        (answer(PNG, transfer_encoding="gzip, chunked", content_length=""), "breaks off"),
        (answer(b"<html>secret</html>", "text/html"), "another type"),
        (answer(PNG, "image/svg+xml"), "another type"),
        (answer(PNG, "application/json"), "another type"),
        (answer(b"<html>secret and more</html>"), "is no image"),
        (answer(b"<html>secret and more</html>", None), "is no image"),
        (answer(b"secret", None, "404 Not Found"), "status 404"),
        (answer(b"secret", "image/png", "500 Oops"), "status 500"),
        (answer(PNG, status="206 Partial Content"), "status 206"),
        (answer(b"", None, "204 No Content"), "status 204"),
        (b"SSH-2.0-OpenSSH_9.6 secret\r\n", "breaks off"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", "breaks off"),
        (b"", "breaks off"),
    ],
)  # fmt: skip
async def test_answers_that_are_no_image(response: bytes | Write, said: str) -> None:
    async with origin(a=response) as server:
        assert said in await refused(web(server), max_image_bytes=4000)


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (answer(PNG), "ok"),
        (redirect("http://evil.example/"), "refused"),
        (redirect("http://[::1"), "refused"),
        (redirect("http://internal.example.org/"), "refused"),
        (redirect("http://nobody.example.org/"), "unreachable"),
        (redirect("/a"), "refused"),
        (b"", "unreachable"),
        (answer(b"", None, "404 Not Found"), "status"),
        (answer(b"<html>", "text/html"), "not_image"),
        (answer(bytes(99)), "not_image"),
        (answer(PNG + bytes(5000)), "too_large"),
        (dribble(b""), "timeout"),
    ],
)
async def test_each_outcome_is_reported_once(response: bytes | Write, outcome: str) -> None:
    async with origin(a=response) as server:
        setup = web(server, {"internal.example.org": [["10.0.0.1"]]}, timeout=0.5)
        with contextlib.suppress(ImageError, RequestTooLargeError):
            await fetch(setup, max_image_bytes=4000)
        assert setup.ended == [outcome]
        # One that is refused by its text ends the others before they begin.
        await refused(setup, "file:///etc/passwd", URL)
        assert setup.ended == [outcome, "refused"]


@pytest.mark.parametrize(
    "response",
    [
        answer(PNG, "IMAGE/PNG; charset=binary"),
        answer(PNG, "image/jpeg"),
        answer(PNG, "binary/octet-stream"),
        answer(PNG, None),
        answer(PNG + b"more", content_length=str(len(PNG))),
        answer(PNG, content_encoding="identity"),
        answer(b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG), content_length="", transfer_encoding="chunked"),
        answer(PNG, content_length=""),
    ],
)
async def test_answers_that_are_images(response: bytes) -> None:
    async with origin(a=response) as server:
        assert await fetch(web(server)) == [PNG]


async def test_several_at_a_time_but_not_all() -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(answer(PNG))

    async with origin(**dict.fromkeys("abcdefgh", slowly)) as server:
        urls = [f"http://{HOST}/{name}" for name in "abcdefgh"]
        assert await fetch(web(server, per_request=3), *urls) == [PNG] * 8
        assert server.most_open == 3
        server.most_open = 0
        setup = web(server, per_request=8, max_concurrent=2)
        await asyncio.gather(fetch(setup, *urls[:4]), fetch(setup, *urls[4:]))
        assert server.most_open == 2


async def test_all_images_together_have_a_limit() -> None:
    async with origin(**{name: answer(PNG) for name in "abc"}) as server:
        urls = [f"http://{HOST}/{name}" for name in "abc"]
        assert len(await fetch(web(server), *urls, max_total_image_bytes=3 * len(PNG))) == 3
        assert "together" in await refused(web(server), *urls, max_total_image_bytes=3 * len(PNG) - 1)


async def test_one_refusal_ends_the_others() -> None:
    async with origin(a=dribble(b""), b=answer(b"", None, "404 Not Found")) as server:
        async with asyncio.timeout(60):  # the other URL would take an hour
            patient = web(server, timeout=3600)
            assert "status 404" in await refused(patient, URL, f"http://{HOST}/b")
        # No name is looked up where one URL is refused by its text.
        setup = web(server)
        await refused(setup, URL, "http://evil.example/")
        assert setup.names.looked_up == []


async def test_cancelling_closes_the_connection() -> None:
    async with origin(a=dribble(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + PNG, b"x")) as server:
        setup = web(server)
        task = asyncio.create_task(fetch(setup))
        async with asyncio.timeout(5):
            await server.received.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert setup.ended == ["cancelled"]
        async with asyncio.timeout(5):
            await server.quiet.wait()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0"]
)
async def test_this_machine_is_never_reached_with_the_systems_resolver(host: str) -> None:
    async with origin(a=answer(PNG)) as server:
        settings: dict[str, Any] = {"allow_hosts": [f"*:{server.port}", f"{host}:{server.port}"]}
        fetcher = ImageFetcher(ImageFetching(**settings, allow_private=True))
        with pytest.raises(ImageError, match="no address"):
            await fetcher.fetch({f"http://{host}:{server.port}/a": WHERE}, ImageBudget.of(Limits()))
        assert server.heads == []


async def test_the_systems_resolver() -> None:
    resolve = SystemResolver()
    assert set(await resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
    assert await resolve("1.2.3.4", 80) == ["1.2.3.4"]
    assert await resolve("a" * 64 + ".invalid", 80) == []


def test_the_transport_has_what_it_needs() -> None:
    # Without anyio httpcore's stand-in fails when it is first used.
    assert issubclass(httpcore.AnyIOBackend, httpcore.AsyncNetworkBackend)
