"""The messages of a chat request: whether they bring an image, and the conversation with images decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mirl_core.errors import RequestError
from mirl_core.types import Conversation
from mirl_server.handling.reading.request import ROLES, ChatRequest
from mirl_server.handling.reading.tools import template_tools
from mirl_server.media.images import Images, is_remote

_IMAGE_PARTS = ("image", "image_url", "image_pil", "image_embeds", "input_image")

RemoteImage = tuple[str, str, Callable[[str], None]]
"""An image's URL, the path of its content part, and a setter that replaces the URL in the body."""


def brings_image(messages: object) -> bool:
    """Return whether the newest message is a user's and carries an image. Nothing is validated before."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user" or not isinstance(last.get("content"), list):
        return False
    return any(
        isinstance(part, dict) and (part.get("type") in _IMAGE_PARTS or "image_url" in part)
        for part in last["content"]
    )


def remote_images(messages: object) -> list[RemoteImage]:
    """Return the images that a handler would have to fetch.

    They are wherever vLLM looks for an image: `image_url` in a part of any type, as text or as an object.
    """
    images: list[RemoteImage] = []
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            holder, key = (part, "image_url") if isinstance(part, dict) else ({}, "")
            if isinstance(holder.get(key), dict):
                holder, key = holder[key], "url"
            url = holder.get(key)
            if isinstance(url, str) and is_remote(url):
                images.append((url, f"messages[{i}].content[{j}]", partial(holder.__setitem__, key)))
    return images


async def read_conversation(request: ChatRequest, images: Images) -> Conversation:
    """Return the conversation with its images fetched and decoded.

    Raises:
        RequestError: a message or content part is malformed, or of a type that the gate does not take.
        ImageError, RequestTooLargeError: an image is refused; `param` is `messages[i].content[j]`.
    """
    urls: list[tuple[str, str]] = []
    for i, message in enumerate(request.messages):
        _check_message(message, f"messages[{i}]")
        if isinstance(message.get("content"), list):
            urls += _image_urls(message["content"], f"messages[{i}].content")
    decoded = iter(await images.decode(urls))
    messages: list[Mapping[str, Any]] = []
    for message in request.messages:
        content = message.get("content")
        if isinstance(content, list):
            content = [
                part if part["type"] == "text" else {"type": "image", "image": next(decoded)}
                for part in content
            ]
        messages.append({**message, "content": content})
    tools = template_tools(request.tools, request.tool_choice)
    return Conversation(tuple(messages), request.chat_template_kwargs or {}, tuple(tools))


def _check_message(message: Mapping[str, Any], path: str) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise RequestError(f"{path}.role must be one of {', '.join(ROLES)}", param=f"{path}.role")
    if content is not None and not isinstance(content, str | list):
        raise RequestError(f"{path}.content must be text or a list of parts", param=f"{path}.content")
    if content is None and not message.get("tool_calls"):
        raise RequestError(f"{path}.content is missing", param=f"{path}.content")


def _image_urls(parts: Sequence[object], path: str) -> list[tuple[str, str]]:
    """Return the URL and the path of every image among a message's parts."""
    urls = []
    for j, part in enumerate(parts):
        part_path = f"{path}[{j}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise RequestError(f"{part_path} must be an object with a type", param=part_path)
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise RequestError(f"{part_path}.text must be text", param=f"{part_path}.text")
        elif kind == "image_url":
            image_url = part.get("image_url")
            url = image_url.get("url") if isinstance(image_url, dict) else image_url
            if not isinstance(url, str):
                raise RequestError(f"{part_path}.image_url.url is missing", param=f"{part_path}.image_url")
            urls.append((url, part_path))
        else:
            raise RequestError(
                f"{part_path}: parts of type '{kind[:40]}' can't go through the gate; send text and "
                "image_url",
                param=part_path,
            )
    return urls
