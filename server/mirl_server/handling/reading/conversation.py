"""The messages of a chat request, read for the gate: whether they bring an image, and with images decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mirl_core.types import Conversation
from mirl_server.handling.reading.messages import IMAGE_TYPES, is_image_url, read_message
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.reading.tools import template_tools
from mirl_server.media.images import Images, is_remote

RemoteImage = tuple[str, str, Callable[[str], None]]
"""An image's URL, the path of its content part, and a setter that replaces the URL in the body."""


def brings_image(messages: object) -> bool:
    """Return whether the newest message is a user's and carries an image. Nothing is validated before."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user" or not isinstance(last.get("content"), list):
        return False
    return any(
        isinstance(part, dict) and (part.get("type") in IMAGE_TYPES or "image_url" in part)
        for part in last["content"]
    )


def remote_images(messages: object) -> list[RemoteImage]:
    """Return the images that a handler would have to fetch.

    They are wherever vLLM looks for an image: `image_url` in a part of any type, as text or as an object.
    """
    images: list[RemoteImage] = []
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        images += remote_parts(content, f"messages[{i}].content")
    return images


def remote_parts(parts: object, path: str) -> list[RemoteImage]:
    """Return the images among content parts that a handler would have to fetch."""
    images: list[RemoteImage] = []
    for j, part in enumerate(parts if isinstance(parts, list) else ()):
        holder, key = (part, "image_url") if isinstance(part, dict) else ({}, "")
        if isinstance(holder.get(key), dict):
            holder, key = holder[key], "url"
        url = holder.get(key)
        if isinstance(url, str) and is_remote(url):
            images.append((url, f"{path}[{j}]", partial(holder.__setitem__, key)))
    return images


async def read_conversation(request: ChatRequest, images: Images) -> Conversation:
    """Return the conversation with its images fetched and decoded.

    Raises:
        RequestError: a message or content part is malformed, or of a type that the gate does not take.
        ImageError, RequestTooLargeError: an image is refused; `param` is `messages[i].content[j]`.
    """
    read = [read_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    urls = [
        (part["image_url"]["url"], f"messages[{i}].content[{j}]")
        for i, message in enumerate(read)
        for j, part in enumerate(message["content"] if isinstance(message["content"], list) else ())
        if is_image_url(part)
    ]
    decoded = iter(await images.decode(urls))
    messages: list[Mapping[str, Any]] = []
    for message in read:
        content = message["content"]
        if isinstance(content, list):
            content = [
                {"type": "image", "image": next(decoded)} if is_image_url(part) else part for part in content
            ]
        messages.append({**message, "content": content})
    tools = template_tools(request.tools, request.tool_choice)
    return Conversation(tuple(messages), request.chat_template_kwargs or {}, tuple(tools))
