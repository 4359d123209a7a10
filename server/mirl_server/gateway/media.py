"""The media of plain requests, checked before an engine sees them.

In process, vLLM's own handlers read images through a connector with MIRL's rules (`mirl_server.vllm.media`).
Engines elsewhere may have none, and would fetch any URL that a client names. So every URL is found here,
wherever vLLM would look for one: images by URL are fetched by MIRL's rules and sent as data, those in data
URLs are checked against the limits, and what could only be fetched by the engine is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Receive

from mirl_core.errors import ImageError
from mirl_server.handling.streaming import unless_gone
from mirl_server.media.images import Images, is_remote
from mirl_server.media.rules import refused_url

_IMAGES = ("image_url", "input_image")
_OTHERS = ("audio_url", "video_url")
_LISTS = ("images",)
"""Fields that hold a list of URLs of images (Cohere's `/v2/embed`)."""
_WITHOUT = frozenset(
    {"chat_template_kwargs", "metadata", "mirl", "response_format", "structured_outputs", "tools"}
)
"""Fields in which a URL is the client's own data."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A URL in a body."""

    url: str
    path: str
    """Its field, as errors name it."""
    image: bool
    replace: Callable[[str], None]
    """Puts another URL in its place."""


async def check_media(images: Images, body: Any, receive: Receive) -> bool:
    """Check all media of a body, and replace images by URL with data; return whether the body has changed.

    Args:
        receive: the request's channel, whose body has been read.

    Raises:
        ImageError, RequestTooLargeError: a medium is refused.
        ClientGone: the client left meanwhile.
    """
    media = list(find_media(body))
    for medium in media:
        # A URL with any other scheme is refused as an image is: the engine may read files.
        if not medium.image and medium.url[:5].lower() != "data:":
            raise ImageError(
                "audio and video by URL are not fetched here; send a data URL", param=medium.path
            )
        if medium.image and not is_remote(medium.url) and medium.url[:5].lower() != "data:":
            raise refused_url(medium.url, medium.path)
    remote = [medium for medium in media if medium.image and is_remote(medium.url)]
    inline = [(medium.url, medium.path) for medium in media if medium.image and medium not in remote]
    if not media:
        return False
    # Data first: a request that is refused for it fetches nothing.
    await unless_gone(receive, images.check(inline))
    if not remote:
        return False
    urls = await unless_gone(receive, images.inline([(medium.url, medium.path) for medium in remote]))
    for medium, url in zip(remote, urls, strict=True):
        medium.replace(url)
    return True


def find_media(body: Any) -> Iterator[Medium]:
    """Yield every medium in a body by its URL, in any of the forms that vLLM's endpoints take."""
    pending: list[tuple[Any, str]] = [(body, "")]
    while pending:
        value, path = pending.pop()
        if isinstance(value, list):
            pending += reversed([(member, f"{path}[{i}]") for i, member in enumerate(value)])
        elif isinstance(value, dict):
            yield from _media_of(value, path)
            # The arguments of a tool call are the client's own data too.
            without = _WITHOUT | {"input"} if value.get("type") == "tool_use" else _WITHOUT
            members = [
                (member, f"{path}.{name}" if path else name)
                for name, member in value.items()
                if name not in without
            ]
            pending += reversed(members)


def _media_of(part: dict[str, Any], path: str) -> Iterator[Medium]:
    for name in (*_IMAGES, *_OTHERS):
        inner = part.get(name)
        holder, key = (inner, "url") if isinstance(inner, dict) else (part, name)
        if isinstance(url := holder.get(key), str):
            yield Medium(url, path or name, name in _IMAGES, partial(holder.__setitem__, key))
    for name in _LISTS:
        urls = part.get(name)
        if not isinstance(urls, list):
            continue
        for i, url in enumerate(urls):
            if isinstance(url, str):
                yield Medium(url, f"{path}.{name}[{i}]".lstrip("."), True, partial(urls.__setitem__, i))
    yield from _source(part, path)


def _source(part: dict[str, Any], path: str) -> Iterator[Medium]:
    """Yield the image of a content block of the Anthropic API, as vLLM reads its source."""
    source = part.get("source")
    if part.get("type") != "image" or not isinstance(source, dict):
        return
    if source.get("type") == "url":
        url = source.get("url")
    else:
        url = f"data:{source.get('media_type') or ''};base64,{source.get('data') or ''}"
    if isinstance(url, str):
        yield Medium(url, path, True, partial(source.__setitem__, "url"))
