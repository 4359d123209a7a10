"""What a client may send, how slowly it may, and how slowly it may read: real sockets on a real uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import httptools
import httpx
import pytest

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_server.access.quotas import Quotas
from mirl_server.middleware.stack import install_middleware
from mirl_server.settings.server import ServerSettings
from tests.helpers.waiting import until
from tests.unit.server.harness import Build, Harness, question
from tests.unit.server.http.echo import Echo
from tests.unit.server.http.serving import answer, connection, serving

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"


def check(body: bytes, code: str | None) -> None:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


async def test_bodies_within_the_limit_pass_and_keep_the_connection() -> None:
    async with Echo().serving() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (0, 1000):
            response = await client.post("/v1/chat/completions", content=b"x" * size)
            assert (response.status_code, response.text) == (200, str(size))
            assert "connection" not in response.headers


async def test_a_large_body_is_refused_by_its_announced_length() -> None:
    echo = Echo()
    async with echo.serving() as port, connection(port) as (reader, writer):
        writer.write(HEAD + b"content-length: 99999999\r\n\r\n")
        status, body = await answer(reader)
        assert status == 413
        check(body, "request_too_large")
    assert echo.ended == 0


async def test_a_large_body_is_refused_while_it_is_read() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 100

    echo = Echo()
    async with echo.serving() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        response = await client.post("/v1/chat/completions", content=parts())
        assert response.status_code == 413
        check(response.content, "request_too_large")
        assert (await client.get("/ok")).status_code == 200
    assert echo.ended == 1


async def test_a_client_still_sending_gets_the_413() -> None:
    """Megabytes on their way when the answer goes out: the connection must not be reset over it."""
    async with (
        Echo(max_body_bytes=100_000).serving() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for content in (b"x" * 4_000_000, b"x" * 100_001):
            response = await client.post("/v1/chat/completions", content=content)
            assert response.status_code == 413
            check(response.content, "request_too_large")


@pytest.mark.parametrize(
    "length",
    [b"content-length: 5\r\ncontent-length: 2000\r\n", b"content-length: -1\r\n", b"content-length: x\r\n",
     b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"transfer-encoding: chunked, chunked\r\n"],
)  # fmt: skip
async def test_lengths_that_lie_are_refused(length: bytes) -> None:
    async with Echo().serving() as port, connection(port) as (reader, writer):
        writer.write(HEAD + length + b"\r\nhello")
        status, body = await answer(reader)
        assert status == 400
        check(body, None)


async def test_a_broken_chunk_is_a_400() -> None:
    async with Echo().serving() as port, connection(port) as (reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n")
        status, body = await answer(reader)
        assert status == 400
        check(body, None)


async def _read_first() -> None:
    """Let the loop read what was answered: a write to a closed connection loses it."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("drip", [False, True])
async def test_a_slow_body_is_a_408(drip: bool) -> None:
    echo = Echo()
    async with echo.serving() as port, connection(port) as (reader, writer):
        writer.write(HEAD + b"content-length: 500\r\n\r\n{")
        waiting = asyncio.create_task(answer(reader))
        while drip and not waiting.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
            await _read_first()
        status, body = await waiting
        assert status == 408
        check(body, "request_timeout")
    assert echo.ended == 1


@pytest.mark.parametrize("start", [HEAD, b"POST /v1", b"GET /ok HTTP/1.1\r\nhost: t\r\n\r\nGET /"])
async def test_slow_headers_are_a_408(start: bytes) -> None:
    async with Echo().serving() as port, connection(port) as (reader, writer):
        writer.write(start)
        ended = asyncio.create_task(reader.read())
        for _ in range(40):
            await asyncio.sleep(0.03)
            await _read_first()
            if ended.done():
                break
            writer.write(b"a")
        said = await ended
        assert b" 408 " in said
        assert b'"request_timeout"' in said


async def test_silence_is_closed() -> None:
    async with Echo().serving() as port, connection(port) as (reader, _):
        async with asyncio.timeout(3):
            assert await reader.read() == b""


async def test_a_drip_after_the_answer_is_closed() -> None:
    """uvicorn's own keep-alive timer is stopped by the first byte and never starts again."""
    echo = Echo()
    async with echo.serving(timeout_keep_alive=60) as port, connection(port) as (reader, writer):
        writer.write(b"POST /ok HTTP/1.1\r\nhost: t\r\ncontent-length: 500\r\n\r\n")  # 405, unread
        assert b" 405 " in await reader.readuntil(b"\r\n\r\n")
        ended = asyncio.create_task(reader.read())
        async with asyncio.timeout(3):
            while not ended.done():
                writer.write(b"x")
                await asyncio.sleep(0.02)
        await asyncio.gather(ended, return_exceptions=True)  # the end, or a reset


async def test_a_connection_may_rest_longer_than_headers_may_take() -> None:
    echo = Echo()
    ask = b"GET /ok HTTP/1.1\r\nhost: t\r\n\r\n"
    async with echo.serving(timeout_keep_alive=60) as port, connection(port) as (reader, writer):
        for _ in range(2):
            writer.write(ask)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(2) == b"ok"
            await asyncio.sleep(0.5)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ok HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(300)) + b"\r\n",
        b"GET /ok HTTP/1.1\r\nh: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nh: " + b"x" * 70_000,
        b"GET /" + b"x" * 70_000,
        b"GET /ok HTTP/1.1\r\n" + b"x" * 70_000,
    ],
)
async def test_headers_too_many_or_too_large_are_a_431(head: bytes) -> None:
    async with Echo(header_seconds=5).serving() as port, connection(port) as (reader, writer):
        writer.write(head)
        status, body = await answer(reader)
        assert status == 431
        check(body, "request_too_large")


async def test_trailers_are_headers_too() -> None:
    echo = Echo(body_seconds=5)
    async with echo.serving() as port, connection(port) as (reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        writer.write(b"".join(b"h%d: x\r\n" % n for n in range(300)))
        status, _ = await answer(reader)
        assert status == 431
    await until(lambda: echo.ended == 1)


async def test_what_is_no_http_is_a_400() -> None:
    for line in (b"\x16\x03\x01\x02\x00\x01", b"HELLO\r\n\r\n", b"GET /ok HTTP/9.9\r\n\r\n"):
        async with Echo().serving() as port, connection(port) as (reader, writer):
            writer.write(line)
            status, body = await answer(reader)
            assert status == 400
            check(body, None)


async def read_out(connected: socket.socket) -> None:
    """Read until the connection's end."""
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.get_running_loop().sock_recv(connected, 1_000_000):
            pass


async def test_who_does_not_read_is_cut() -> None:
    echo = Echo()
    async with echo.serving() as port:
        with socket.socket() as lazy:
            lazy.setblocking(False)
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, ("127.0.0.1", port))
            await loop.sock_sendall(lazy, b"GET /flood HTTP/1.1\r\nhost: t\r\n\r\n")
            async with asyncio.timeout(5):
                await until(lambda: echo.ended == 1)
                await read_out(lazy)
            assert echo.ended == 1


async def test_who_reads_slowly_but_reads_is_served() -> None:
    echo = Echo(write_seconds=1)
    async with echo.serving() as port, connection(port) as (reader, writer):
        writer.write(b"GET /flood HTTP/1.1\r\nhost: t\r\n\r\n")
        read = 0
        for _ in range(60):
            read += len(await reader.read(400_000))
            await asyncio.sleep(0.02)
        assert read > 1_000_000
        assert echo.ended == 0
    async with asyncio.timeout(5):
        await until(lambda: echo.ended == 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_closed_socket_frees_everything_at_once(build: Build, stream: bool) -> None:
    harness, quotas = slow(build)
    async with serving(harness.app) as port, connection(port) as (_, writer):
        writer.write(asking(stream))
        async with asyncio.timeout(5):
            await until(lambda: harness.engine.running == 3)
            assert harness.service.admission.running("gated") > 0
            writer.close()
            # Long before anything else would end it: the engine has half a minute to go.
            await until(lambda: harness.engine.running == 0)
            await until(lambda: not quotas.running)
    assert harness.service.admission.running("gated") == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pipelined", [False, True])
async def test_who_half_closes_gets_the_answer(build: Build, stream: bool, pipelined: bool) -> None:
    harness, _ = slow(build, FakeText("a</description>", delay=0.05))
    requests = 2 if pipelined else 1
    async with serving(harness.app) as port, connection(port) as (reader, writer):
        writer.write(asking(stream) * requests)
        writer.write_eof()
        async with asyncio.timeout(5):
            said = await reader.read()  # to the end: the connection is closed once nothing is owed
    # What a client makes of it that knows no more than HTTP/1.1.
    parser, answers = httptools.HttpResponseParser(answered := Answered()), answered.bodies
    parser.feed_data(said)
    assert answered.statuses.count(200) == requests
    assert set(answered.statuses) <= {100, 200}
    assert len(answers) == requests
    for body in answers:
        assert (b"data: [DONE]" in body) if stream else json.loads(body)["choices"]
    assert harness.service.admission.running("gated") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_who_half_closes_and_leaves_later_frees_everything(build: Build, stream: bool) -> None:
    harness, quotas = slow(build)
    async with serving(harness.app) as port, connection(port) as (reader, writer):
        writer.write(asking(stream))
        await until(lambda: harness.engine.running == 3)
        writer.write_eof()
        await asyncio.sleep(1.5)
        assert harness.engine.running == 3
        said = await reader.read(100_000)
        # Asked whether it is there, in a way that is no part of the answer.
        assert (
            (b"\r\n2\r\n:\n\r\n" in said)
            if stream
            else set(said.split(b"\r\n")) == {b"HTTP/1.1 100 Continue", b""}
        )
        writer.transport.abort()
        async with asyncio.timeout(3):
            await until(lambda: harness.engine.running == 0)
            await until(lambda: not quotas.running)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_half_closed_body_is_nobodys_request(build: Build, version: bytes) -> None:
    """Cut short, or of a version without interim responses: the client counts as gone."""
    harness, quotas = slow(build)
    request_bytes = asking(False).replace(b"HTTP/1.1", b"HTTP/" + version)
    async with serving(harness.app) as port, connection(port) as (reader, writer):
        writer.write(request_bytes if version == b"1.0" else request_bytes[:-10])
        await until(lambda: bool(quotas.running))
        writer.write_eof()
        async with asyncio.timeout(3):
            assert await reader.read() == b""
            await until(lambda: not quotas.running)
    assert harness.engine.running == 0


class Answered:
    """What a parser finds."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self._body = b""

    def on_status(self, status: bytes) -> None:
        self.statuses.append({b"Continue": 100, b"OK": 200}[status])
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self.statuses[-1] == 200:
            self.bodies.append(self._body)


def slow(build: Build, *texts: FakeText) -> tuple[Harness, Quotas]:
    harness = build(FakeEngine(list(texts) or [FakeText("a b c</description>", delay=30)]))
    return harness, install_middleware(harness.app, ServerSettings.load()).quotas


def asking(stream: bool) -> bytes:
    body = json.dumps({"messages": [question()], "stream": stream, "mirl": {"descriptions": 3}}).encode()
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
