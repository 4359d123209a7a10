"""A web server whose answers are set byte by byte, and a network on which its address is any address."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpcore

from mirl_server.media.fetching import ImageFetcher
from mirl_server.media.rules import FetchOutcome, ImageFetching

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]
PUBLIC = "93.184.215.14"
HOST = "images.example"


def answer(body: bytes, kind: str | None = "image/png", status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer; a header's underscores are dashes, and an empty one is left out."""
    all_headers = {"content-type": kind or "", "content-length": str(len(body))}
    all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return answer(b"", None, f"{status} Found", location=location, set_cookie="secret=1")


@dataclass
class Origin:
    """The server: what it answers by path, and the requests that it received."""

    port: int = 0
    answers: dict[str, bytes | Write] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    received: asyncio.Event = field(default_factory=asyncio.Event)
    """Set from the first request on."""
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no connection is open."""

    def paths(self) -> list[str]:
        return [head.split(" ", 2)[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.quiet.clear()
        self.most_open = max(self.most_open, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            self.received.set()
            response = self.answers.get(head.split(" ", 2)[1], answer(b"", None, "404 Not Found"))
            if callable(response):
                # A client sends nothing more: the end of what it sends is the end of it.
                work = [asyncio.ensure_future(response(writer)), asyncio.ensure_future(reader.read())]
                await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
            else:
                writer.write(response)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            if not self.open:
                self.quiet.set()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def origin(tls: ssl.SSLContext | None = None, **answers: bytes | Write) -> AsyncIterator[Origin]:
    """A running server; `a=…` answers `/a`."""
    started = Origin(answers={f"/{name}": response for name, response in answers.items()})
    server = await asyncio.start_server(started.serve, "127.0.0.1", 0, ssl=tls)
    started.port = server.sockets[0].getsockname()[1]
    try:
        yield started
    finally:
        server.close()
        if started.open:
            async with asyncio.timeout(5):
                await started.quiet.wait()


class Network(httpcore.AsyncNetworkBackend):
    """Every address is the origin's, but for those that don't answer; remembers who was called."""

    def __init__(self, origin: Origin, dead: Sequence[str] = ()) -> None:
        self.called: list[tuple[str, int]] = []
        self._origin = origin
        self._dead = dead
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *_: Any, **how: Any) -> httpcore.AsyncNetworkStream:
        self.called.append((host, port))
        if host in self._dead:
            raise httpcore.ConnectError
        return await self._network.connect_tcp("127.0.0.1", self._origin.port)


class Names:
    """A name server. A host's answers are given one after the other, the last one for ever."""

    def __init__(self, hosts: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._hosts = {host: list(answers) for host, answers in hosts.items()}
        self.looked_up: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        # What the system's resolver says of an address.
        answers = self._hosts.get(host, [[host]] if host[-1].isdigit() or ":" in host else [[]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Web:
    """A fetcher on a network of its own."""

    fetcher: ImageFetcher
    network: Network
    names: Names
    ended: list[FetchOutcome]
    """How each fetch ended."""


def web(
    origin: Origin,
    hosts: Mapping[str, Sequence[Sequence[str]]] | None = None,
    dead: Sequence[str] = (),
    tls: ssl.SSLContext | None = None,
    **settings: Any,
) -> Web:
    """A fetcher to which `images.example` is the origin, at a public address."""
    rules = ImageFetching(**{"allow_hosts": [HOST, "*.example.org"], "timeout": 5, **settings})
    network, names = Network(origin, dead), Names({HOST: [[PUBLIC]], **(hosts or {})})
    ended: list[FetchOutcome] = []
    fetcher = ImageFetcher(rules, names, network, tls or ssl.create_default_context(), ended.append)
    return Web(fetcher, network, names, ended)
