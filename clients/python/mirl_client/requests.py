"""Requests of the client: addresses, bodies, and the defaults that the environment sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from mirl_client.answers import Message
from mirl_client.errors import NotMIRLError
from mirl_client.pictures import Picture, as_pictures, picture_url

DEFAULT_URL = "http://127.0.0.1:8000"
"""The address of `mirl-serve` with its defaults."""
DIRECT = ":direct"
"""Ends the name of the plain model beside each gated one."""

_OWN_FIELDS = frozenset({"model", "messages", "mirl", "n", "stream", "stream_options"})


def api_url(base_url: str | None) -> str:
    """Return the address of a server's API, which ends with `/v1`.

    Args:
        base_url: the server's address, with or without `/v1`; None: `MIRL_BASE_URL`, else `DEFAULT_URL`.

    Raises:
        ValueError: it is no http(s) URL.
    """
    url = (base_url or os.environ.get("MIRL_BASE_URL") or DEFAULT_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"not the http(s) address of a server: {url}")
    return url if url.endswith("/v1") else f"{url}/v1"


def api_key_of(api_key: str | None) -> str:
    """Return the key to send; None: `MIRL_API_KEY`, else a word, since a header can't be empty."""
    return api_key or os.environ.get("MIRL_API_KEY") or "none"


def gated_model(names: Iterable[str]) -> str:
    """Return the first of a server's model names that is gated.

    Raises:
        NotMIRLError: none is.
    """
    listed = list(names)
    for name in listed:
        if f"{name}{DIRECT}" in listed:
            return name
    raise NotMIRLError("the server lists no gated model: it is no MIRL server, or its plugin is off")


def conversation(
    pictures: Picture | Sequence[Picture],
    question: str,
    history: Iterable[Mapping[str, Any]] = (),
    *,
    max_pixels: int | None = None,
    max_side: int | None = None,
) -> list[Message]:
    """Return a conversation that ends with a question about pictures; without pictures it is text alone.

    Raises:
        PictureError: a picture can't be read.
    """
    urls = [
        picture_url(picture, max_pixels=max_pixels, max_side=max_side) for picture in as_pictures(pictures)
    ]
    parts: list[Message] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content: Any = [*parts, {"type": "text", "text": question}] if parts else question
    return [*map(dict, history), {"role": "user", "content": content}]


def fields_of(
    preset: str | None,
    options: Mapping[str, Any] | None,
    seed: int | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the fields of a request beside its model and messages.

    Raises:
        ValueError: `extra` has a field that the client sets, or one that a single answer excludes.
    """
    if refused := sorted(_OWN_FIELDS & (extra or {}).keys()):
        raise ValueError(f"not a field of `extra`: {', '.join(refused)}")
    fields = dict(extra or {})
    mirl = ({"preset": preset} if preset is not None else {}) | dict(options or {})
    if mirl:
        fields["mirl"] = mirl
    if seed is not None:
        fields["seed"] = seed
    return fields
