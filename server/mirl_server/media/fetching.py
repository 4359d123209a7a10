"""The one place that fetches: images from http(s) URLs, for clients that nobody trusts.

- Every address that a host resolves to is checked, and the connection goes to a checked one: there is no
  second look-up that could answer otherwise. TLS and `Host` still carry the name.
- Redirects are held against the same rules one by one, and never lead from https to http.
- One deadline covers look-ups, connections, redirects and bodies. Bytes are counted as they come.
- Nothing of the server goes along: no proxy, cookies or credentials. Nothing of the other side comes back in
  errors: no address, no header, no body.

httpcore, httpx's own transport, rather than an httpx client: it does none of what would have to be switched
off here (redirects, decompression, cookies, netrc, proxies from the environment).
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace

import httpcore
import httpx

from mirl_core import __version__
from mirl_core.errors import ImageError, RequestTooLargeError
from mirl_server.media.decoding import KNOWN, ImageBudget
from mirl_server.media.rules import DEFAULT_PORTS, REMEDY, FetchOutcome, ImageFetching, Rules, Target
from mirl_server.media.structure import FORMATS, media_type

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
CONNECT_SECONDS = 3.0
"""For one address, so that a dead one leaves time for the next."""
MAX_ADDRESSES = 4
"""Of a host, to try."""
RESOLVER_THREADS = 8
REDIRECTS = (301, 302, 303, 307, 308)
UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
"""What object stores say of files that were uploaded without a type: their first bytes decide."""
HEADERS = (
    (b"User-Agent", f"mirl/{__version__}".encode()),
    (b"Accept", ", ".join(FORMATS).encode()),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)
_SIGNATURE_BYTES = 16
_BROKEN = (
    httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol,
    OSError, EOFError, ValueError,
)  # fmt: skip


def ignore(outcome: FetchOutcome) -> None:
    """Hear how a fetch ended, and do nothing."""


class _FetchError(Exception):
    """Why an image can't be had: an outcome for the metrics, a sentence for the client."""

    def __init__(self, outcome: FetchOutcome, says: str) -> None:
        super().__init__(says)
        self.outcome = outcome


class ImageFetcher:
    """Fetches images within the operator's rules. One serves a process.

    Args:
        settings: the rules.
        ended: hears how each fetch ended.
        resolve: a host's addresses; the system's resolver by default.
        network: makes the connections, to addresses only.
        tls: certificates to trust; the bundle that httpx uses, or `SSL_CERT_FILE`, by default.
    """

    def __init__(
        self,
        settings: ImageFetching,
        resolve: Resolver | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
        ended: Callable[[FetchOutcome], None] = ignore,
    ) -> None:
        self.settings = settings
        self._ended = ended
        self._rules = Rules(settings)
        self._resolve = resolve or SystemResolver()
        self._network = network or httpcore.AnyIOBackend()
        self._tls = tls or httpx.create_ssl_context()
        self._slots = asyncio.Semaphore(settings.max_concurrent)

    async def fetch(self, urls: Mapping[str, str], room: ImageBudget) -> dict[str, bytes]:
        """The files at `urls` (each with the content part that it stands in), several at a time.

        Raises:
            ImageError: one can't be had; the others are given up.
            RequestTooLargeError: one is over a limit, or all together are.
        """
        # All are checked before the first connection.
        try:
            targets = {url: self._rules.target(url, where) for url, where in urls.items()}
        except ImageError:
            self._ended("refused")
            raise
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        mine = asyncio.Semaphore(self.settings.per_request)
        counted = replace(room)  # what is decoded later counts there

        async def one(url: str) -> bytes:
            where = urls[url]
            with self._told(where):
                async with asyncio.timeout_at(deadline), mine, self._slots:
                    return await self._follow(targets[url], where, counted)

        tasks = [asyncio.create_task(one(url)) for url in urls]
        try:
            return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _told(self, where: str) -> Iterator[None]:
        """One fetch: its outcome counted, its errors as the client hears them."""
        outcome: FetchOutcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except TimeoutError:
            outcome = "timeout"
            raise ImageError(
                f"the image could not be fetched within {self.settings.timeout:g} seconds; "
                f"try again, or {REMEDY}",
                param=where,
            ) from None
        except RequestTooLargeError:
            outcome = "too_large"
            raise
        except ImageError:  # a redirect's target is against the rules
            outcome = "refused"
            raise
        except _FetchError as error:
            outcome = error.outcome
            raise ImageError(str(error), param=where) from error
        finally:
            self._ended(outcome)

    async def _follow(self, target: Target, where: str, room: ImageBudget) -> bytes:
        for _ in range(self.settings.max_redirects + 1):
            try:
                async with self._answer(target) as response:
                    if response.status not in REDIRECTS:
                        return await _body(response, where, room)
                    location = _header(response, b"location")
            except _BROKEN as error:
                raise _unreachable(error) from error
            target = self._redirected(target, location, where)
        most = self.settings.max_redirects
        raise _FetchError(
            "refused",
            f"the image's URL redirects more than {most} times; give its final URL, or {REMEDY}",
        )

    def _redirected(self, target: Target, location: str, where: str) -> Target:
        try:
            following = target.url.join(location)
        except (httpx.InvalidURL, ValueError) as error:
            raise _FetchError("refused", f"the image's URL redirects to nowhere; {REMEDY}") from error
        if target.url.scheme == "https" and following.scheme == "http":
            raise _FetchError("refused", f"the image's URL redirects from https to http; {REMEDY}")
        return self._rules.target(following, where)

    @asynccontextmanager
    async def _answer(self, target: Target) -> AsyncIterator[httpcore.Response]:
        """The answer to one GET, over a connection of its own."""

        async def addresses() -> Sequence[str]:
            return await self._addresses(target)

        # A pool of one: a connection that outlives its request could serve another tenant's.
        checked = _Checked(addresses, self._network)
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=checked,
        )
        async with aclosing(checked), pool:
            url = httpcore.URL(
                scheme=target.url.raw_scheme,
                host=target.host.encode(),
                port=target.port,
                target=target.url.raw_path,
            )
            host = f"[{target.host}]" if ":" in target.host else target.host
            if target.port != DEFAULT_PORTS[target.url.scheme]:
                host = f"{host}:{target.port}"
            async with pool.stream("GET", url, headers=[(b"Host", host.encode()), *HEADERS]) as response:
                yield response

    async def _addresses(self, target: Target) -> Sequence[str]:
        """All addresses of a target's host, each of which may be connected to."""
        found = list(dict.fromkeys(await self._resolve(target.host, target.port)))
        # One answer for a host that isn't there and for one that is internal: nobody is to learn which.
        if not found or not all(self._rules.may_connect(address, target) for address in found):
            raise _FetchError(
                "refused" if found else "unreachable",
                f"the image's host has no address that this server fetches from; check it, or {REMEDY}",
            )
        return found[:MAX_ADDRESSES]


class SystemResolver:
    """The system's resolver, in threads of its own: a slow name server must not keep others' work waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="mirl-resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """A host's addresses; none where it has none."""

        def look_up() -> list[str]:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                return []
            return [str(entry[4][0]) for entry in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever host is asked for."""

    def __init__(
        self, addresses: Callable[[], Awaitable[Sequence[str]]], network: httpcore.AsyncNetworkBackend
    ) -> None:
        self._addresses = addresses
        self._network = network
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self, host: str, port: int, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        last: Exception = httpcore.ConnectError()
        for address in await self._addresses():
            try:
                stream = await self._network.connect_tcp(address, port, timeout=CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
            else:
                self._streams.append(stream)
                return stream
        raise last

    async def aclose(self) -> None:
        """Close what was opened: httpcore 1.0 leaves open what is cancelled in its TLS handshake."""
        for stream in self._streams:
            await stream.aclose()


async def _body(response: httpcore.Response, where: str, room: ImageBudget) -> bytes:
    """The file in an answer; refused as soon as anything says that it is none, or too large."""
    if response.status != 200:
        raise _FetchError(
            "status",
            f"the image's server answers with status {response.status}; check the URL, or {REMEDY}",
        )
    kind = _header(response, b"content-type").split(";")[0].strip().lower()
    if kind not in (*FORMATS, "image/jpg", *UNTYPED):
        raise _FetchError("not_image", f"what the image's URL gives is of another type; {KNOWN}")
    if _header(response, b"content-encoding").lower() not in ("", "identity"):
        raise _FetchError("not_image", f"the image's server sends it compressed, unasked; {REMEDY}")
    length = _header(response, b"content-length")
    if re.fullmatch(r"[0-9]{1,18}", length):
        room.check_bytes(int(length), where)
    raw = bytearray()
    async for chunk in response.aiter_stream():
        room.take_bytes(len(chunk), where, before=len(raw))
        raw += chunk
        if len(raw) >= _SIGNATURE_BYTES and media_type(bytes(raw[:_SIGNATURE_BYTES])) is None:
            raise _FetchError("not_image", f"what the image's URL gives is no image; {KNOWN}")
    return bytes(raw)


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _unreachable(error: Exception) -> _FetchError:
    certificate = isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError)
    what = "has no certificate that is trusted here" if certificate else "can't be reached, or breaks off"
    return _FetchError("unreachable", f"the image's server {what}; try again, or {REMEDY}")
