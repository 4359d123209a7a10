"""What counts as a request's headers, to the byte and to the line: real sockets on a real uvicorn."""

from __future__ import annotations

import pytest

from tests.unit.server.http.echo import Echo
from tests.unit.server.http.serving import answer, connection


@pytest.mark.parametrize(
    ("start", "headers"),
    [
        (b"GET /ok", [(b"a" * 300, b"x")]),
        (b"GET /ok", [(b"a", b"x" * 300)]),
        (b"GET /ok", [(b"a%d" % number, b"x") for number in range(40)]),
        (b"GET /ok?" + b"a" * 300, []),
    ],
    ids=["name", "value", "many", "url"],
)
@pytest.mark.parametrize("over", [0, 1])
async def test_every_byte_of_the_headers_is_counted(
    start: bytes, headers: list[tuple[bytes, bytes]], over: int
) -> None:
    """The path, and each line with its colon, space and end of line."""
    lines = [(b"host", b"t"), (b"connection", b"close"), *headers]
    size = len(start) - len(b"GET ") + sum(len(name) + len(value) + 4 for name, value in lines)
    head = start + b" HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % line for line in lines) + b"\r\n"
    async with (
        Echo(header_seconds=5).serving(h11_max_incomplete_event_size=size - over) as port,
        connection(port) as (reader, writer),
    ):
        writer.write(head)
        status, body = await answer(reader)
        assert status == (431 if over else 200)
        assert not over or b'"request_too_large"' in body


@pytest.mark.parametrize(("count", "status"), [(256, 200), (257, 431)])
async def test_headers_are_counted(count: int, status: int) -> None:
    lines = [b"host: t", b"connection: close", *(b"h%d: x" % number for number in range(count - 2))]
    async with Echo(header_seconds=5).serving() as port, connection(port) as (reader, writer):
        writer.write(b"GET /ok HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
        assert (await answer(reader))[0] == status
