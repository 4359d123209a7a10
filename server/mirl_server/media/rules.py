"""Rules of fetching: the operator's settings for images by URL, and the form of an allowed URL."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import httpx
from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from mirl_core.config import Settings, listed
from mirl_core.errors import ImageError
from mirl_server.media.addresses import Network, kind_of, unwrapped, within

REMEDY = "send a data URL (data:image/png;base64,…)"
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL = 8192
FetchOutcome = Literal[
    "ok", "refused", "unreachable", "status", "not_image", "too_large", "timeout", "cancelled"
]
"""The end of an image's fetch. `refused`: by these rules, redirects too; `status`: by the remote server."""
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
# Other notations that some resolvers read as an IPv4 address: 0x7f.1, 2130706433, 127.1.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostPattern:
    """A pattern of hosts: `example.com`, `*.example.com` (all below), `*`; a port may follow."""

    host: str
    """An exact host in lower case; `.example.com` for all below it; empty for every host."""
    port: int | None = None
    """None: the scheme's own port, and no other."""

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Read a pattern; raise ValueError if the text is none."""
        match = re.fullmatch(r"(\*\.)?(\[[^\]]+\]|[^\s:/@\[\]]+?)(?::([0-9]{1,5}))?", text.strip())
        error = ValueError(f"{text!r} names no host: write example.com, *.example.com, example.com:8443 or *")
        if match is None:
            raise error
        below, name, port = match[1] or "", match[2], int(match[3]) if match[3] else None
        if name == "*" and not below:
            return cls("", port)
        try:
            host = plain_host(httpx.URL(f"http://{name}/"))
        except httpx.InvalidURL:
            host = None
        if host is None or (port is not None and not 0 < port < 65536):
            raise error
        return cls(f".{host}" if below else host, port)

    def matches(self, host: str, port: int, scheme: str) -> bool:
        """Return whether a URL's host and port match."""
        if port != (DEFAULT_PORTS[scheme] if self.port is None else self.port):
            return False
        return self.covers(host)

    def covers(self, host: str) -> bool:
        """Return whether a host matches, for any port."""
        return self.host in ("", host) or (self.host.startswith(".") and host.endswith(self.host))


Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]


class ImageFetching(Settings):
    """Images by http(s) URL. Off until a host is allowed."""

    allow_hosts: Hosts = ()
    """Hosts to fetch from: `example.com`, `*.example.com`, `*`; `:8443` behind it for another port."""
    deny_hosts: Hosts = ()
    """Hosts, addresses or networks (`10.1.0.0/16`) never to fetch from; they override the allowed ones."""
    allow_private: bool = False
    """Also connect to private addresses, for allowed hosts that are named (not for `*`). Never to this
    machine, link-local addresses or cloud metadata."""
    https_only: bool = False
    """Refuse http URLs."""
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """Seconds for all images of a request together, from the first look-up to the last byte."""
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    """Redirects to follow for one image. Each is checked against the same rules."""
    per_request: Annotated[int, Field(ge=1)] = 4
    """Images of one request to fetch at a time."""
    max_concurrent: Annotated[int, Field(ge=1)] = 32
    """Images to fetch at a time, over all requests."""

    @field_validator("allow_hosts")
    @classmethod
    def _hosts(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            HostPattern.parse(pattern)
        return patterns

    @field_validator("deny_hosts")
    @classmethod
    def _hosts_or_networks(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if _network(pattern) is None:
                HostPattern.parse(pattern)
        return patterns


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be fetched if its host's addresses are allowed."""

    url: httpx.URL
    host: str
    port: int
    named: bool
    """Whether a pattern names the host, rather than `*`."""


class Rules:
    """The parsed settings, with checks of URLs and addresses."""

    def __init__(self, settings: ImageFetching) -> None:
        self.settings = settings
        self._allowed = [HostPattern.parse(text) for text in settings.allow_hosts]
        networks = {text: _network(text) for text in settings.deny_hosts}
        self._denied_networks = [network for network in networks.values() if network is not None]
        self._denied = [HostPattern.parse(text) for text, network in networks.items() if network is None]

    def target(self, location: str | httpx.URL, where: str) -> Target:
        """Return a URL's host and port, if it may be fetched.

        Raises:
            ImageError: the URL is malformed, carries credentials, or its scheme, host or port isn't allowed.
        """
        try:
            if len(str(location)) > MAX_URL:
                raise ImageError(f"the image's URL is over {MAX_URL} characters; {REMEDY}", param=where)
            url = httpx.URL(location)
            host = plain_host(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise ImageError(f"the image's URL is malformed; check it, or {REMEDY}", param=where) from error
        if url.scheme not in DEFAULT_PORTS or host is None:
            raise ImageError(
                f"the image's URL must read https://host/path, with a plain host; or {REMEDY}", param=where
            )
        if url.scheme == "http" and self.settings.https_only:
            raise ImageError(f"images are fetched by https only; or {REMEDY}", param=where)
        if url.userinfo:
            raise ImageError(
                f"the image's URL carries a name or password; leave it out, or {REMEDY}", param=where
            )
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        allowed = [pattern for pattern in self._allowed if pattern.matches(host, port, url.scheme)]
        denied = any(pattern.port in (None, port) and pattern.covers(host) for pattern in self._denied)
        if not allowed or denied:
            raise ImageError(f"images from this host and port are not fetched here; {REMEDY}", param=where)
        return Target(url, host, port, named=any(pattern.host for pattern in allowed))

    def may_connect(self, address: str, target: Target) -> bool:
        """Return whether an address of the target's host may be connected to."""
        plain = unwrapped(address)
        # The written form is checked too: the operator may deny a whole NAT64 prefix.
        if plain is None or any(
            within(form, self._denied_networks) for form in (plain, ipaddress.ip_address(address))
        ):
            return False
        kind = kind_of(address)
        return kind == "public" or (kind == "private" and self.settings.allow_private and target.named)


def plain_host(url: httpx.URL) -> str | None:
    """Return a URL's host in lower case, IDNA-encoded, without the root's dot; None if it is not valid."""
    host = url.raw_host.decode("ascii").lower().removesuffix(".")
    labels = host.split(".")
    if ":" in host or _NUMBER.fullmatch(labels[-1]):
        try:
            return None if "%" in host else str(ipaddress.ip_address(host))
        except ValueError:
            return None
    return host if len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels) else None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None


def refused_url(url: str, where: str) -> ImageError:
    """Return the error for a URL that is no data URL and may not be fetched."""
    scheme = url[:16].split(":", 1)[0].lower() if ":" in url[:16] else ""
    if scheme in DEFAULT_PORTS:
        reason = "images by URL are not enabled (the operator's --allow-image-host does)"
    else:
        reason = f"'{scheme}:' URLs are not accepted" if scheme else "that is not a URL"
    return ImageError(f"{reason}; {REMEDY}", param=where)
