"""The only module that fetches: images from http(s) URLs, for untrusted clients.

- Every address that a host resolves to is checked, and the connection goes to a checked address: there is no
  second look-up with another answer. TLS and `Host` still carry the name.
- Each redirect is checked against the same rules, and none leads from https to http.
- One deadline covers look-ups, connections, redirects and bodies. Bytes are counted as they arrive.
- Requests carry nothing of the server: no proxy, cookies or credentials. Errors quote nothing of the remote
  server: no address, no header, no body.

It uses httpcore, the transport of httpx, because an httpx client has features that would have to be disabled
(redirects, decompression, cookies, netrc, proxies from the environment).
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
"""Timeout of one address, so that a dead address leaves time for the next."""
MAX_ADDRESSES = 4
"""Most addresses of a host to try."""
RESOLVER_THREADS = 8
REDIRECTS = (301, 302, 303, 307, 308)
UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
"""Media types of files that were uploaded to object stores without a type: their first bytes decide."""
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
    """Do nothing about a fetch's outcome."""


class _FetchError(Exception):
    """A failed fetch: an outcome for the metrics, a message for the client."""

    def __init__(self, outcome: FetchOutcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class ImageFetcher:
    """A fetcher of images within the operator's rules. One instance serves a process.

    Args:
        settings: the rules.
        ended: called with the outcome of each fetch.
        resolve: returns a host's addresses; by default the system's resolver.
        network: opens the connections, to addresses only.
        tls: trusted certificates; by default httpx's bundle, or `SSL_CERT_FILE`.
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

    async def fetch(self, urls: Mapping[str, str], budget: ImageBudget) -> dict[str, bytes]:
        """Fetch `urls`, several at a time, and return the file of each.

        Args:
            urls: each URL with its content part, as errors name it.
            budget: the request's image budget; it is checked here, and charged when the files are decoded.

        Raises:
            ImageError: a fetch fails or a URL is against the rules; the other fetches are cancelled.
            RequestTooLargeError: a file, or all files together, exceed a limit.
        """
        # All URLs are checked before the first connection.
        try:
            targets = {url: self._rules.target(url, where) for url, where in urls.items()}
        except ImageError:
            self._ended("refused")
            raise
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        request_slots = asyncio.Semaphore(self.settings.per_request)
        fetch_budget = replace(budget)  # decoding charges the original

        async def fetch_url(url: str) -> bytes:
            where = urls[url]
            with self._reported(where):
                async with asyncio.timeout_at(deadline), request_slots, self._slots:
                    return await self._follow(targets[url], where, fetch_budget)

        tasks = [asyncio.create_task(fetch_url(url)) for url in urls]
        try:
            return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _reported(self, where: str) -> Iterator[None]:
        """Report the outcome of a fetch, and turn its errors into the client's."""
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

    async def _follow(self, target: Target, where: str, budget: ImageBudget) -> bytes:
        for _ in range(self.settings.max_redirects + 1):
            try:
                async with self._get(target) as response:
                    if response.status not in REDIRECTS:
                        return await _body(response, where, budget)
                    location = _header(response, b"location")
            except _BROKEN as error:
                raise _unreachable(error) from error
            target = self._redirected(target, location, where)
        limit = self.settings.max_redirects
        raise _FetchError(
            "refused",
            f"the image's URL redirects more than {limit} times; give its final URL, or {REMEDY}",
        )

    def _redirected(self, target: Target, location: str, where: str) -> Target:
        try:
            next_url = target.url.join(location)
        except (httpx.InvalidURL, ValueError) as error:
            raise _FetchError("refused", f"the image's URL redirects to nowhere; {REMEDY}") from error
        if target.url.scheme == "https" and next_url.scheme == "http":
            raise _FetchError("refused", f"the image's URL redirects from https to http; {REMEDY}")
        return self._rules.target(next_url, where)

    @asynccontextmanager
    async def _get(self, target: Target) -> AsyncIterator[httpcore.Response]:
        """Yield the response to a GET over a new connection."""

        async def addresses() -> Sequence[str]:
            return await self._addresses(target)

        # A pool per request: a connection that outlives its request could serve another tenant.
        checked = _CheckedNetwork(addresses, self._network)
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
        """Return the addresses of a target's host, at most MAX_ADDRESSES.

        Raises:
            _FetchError: the host has no address, or one that is not allowed.
        """
        addresses = list(dict.fromkeys(await self._resolve(target.host, target.port)))
        # The same message for a missing host and an internal one, so that it does not reveal internal names.
        if not addresses or not all(self._rules.may_connect(address, target) for address in addresses):
            raise _FetchError(
                "refused" if addresses else "unreachable",
                f"the image's host has no address that this server fetches from; check it, or {REMEDY}",
            )
        return addresses[:MAX_ADDRESSES]


class SystemResolver:
    """The system's resolver in separate threads, so that a slow name server does not block other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="mirl-resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return a host's addresses; empty if it has none."""

        def look_up() -> list[str]:
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                return []
            return [str(entry[4][0]) for entry in entries]

        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """A network backend that connects to checked addresses only, for any requested host."""

    def __init__(
        self, addresses: Callable[[], Awaitable[Sequence[str]]], network: httpcore.AsyncNetworkBackend
    ) -> None:
        self._addresses = addresses
        self._network = network
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self, host: str, port: int, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        last_error: Exception = httpcore.ConnectError()
        for address in await self._addresses():
            try:
                stream = await self._network.connect_tcp(address, port, timeout=CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
            else:
                self._streams.append(stream)
                return stream
        raise last_error

    async def aclose(self) -> None:
        """Close all streams: httpcore 1.0 leaves a stream open that is cancelled in its TLS handshake."""
        for stream in self._streams:
            await stream.aclose()


async def _body(response: httpcore.Response, where: str, budget: ImageBudget) -> bytes:
    """Return the file in a response; raise as soon as it is known to be no image, or too large."""
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
        budget.check_bytes(int(length), where)
    raw = bytearray()
    async for chunk in response.aiter_stream():
        budget.take_bytes(len(chunk), where, before=len(raw))
        raw += chunk
        if len(raw) >= _SIGNATURE_BYTES and media_type(bytes(raw[:_SIGNATURE_BYTES])) is None:
            raise _FetchError("not_image", f"what the image's URL gives is no image; {KNOWN}")
    return bytes(raw)


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _unreachable(error: Exception) -> _FetchError:
    certificate = isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError)
    problem = "has no certificate that is trusted here" if certificate else "can't be reached, or breaks off"
    return _FetchError("unreachable", f"the image's server {problem}; try again, or {REMEDY}")
