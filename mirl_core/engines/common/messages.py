"""Conversations as messages for vLLM: only text and images that are already decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mirl_core.errors import RequestError
from mirl_core.types import Conversation, is_image

if TYPE_CHECKING:
    from PIL.Image import Image

_TEXT_PARTS = ("text", "refusal", "thinking", "tool_reference")


def messages_with(
    conversation: Conversation, image_part: Callable[[Image], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the messages with every image replaced by the content part that `image_part` returns for it.

    Raises:
        RequestError: a part is neither text nor a decoded image; vLLM would fetch the URL in it.
    """
    messages = []
    for number, message in enumerate(conversation.messages):
        content = message.get("content")
        if isinstance(content, list | tuple):
            content = [_part(part, f"messages[{number}].content", image_part) for part in content]
        messages.append({**message, "content": content})
    return messages


def _part(part: Any, where: str, image_part: Callable[[Image], dict[str, Any]]) -> Any:
    if is_image(part):
        return image_part(part["image"])
    if isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RequestError(
        f"{where}: a part of type {kind!r} is neither text nor a decoded image", param="messages"
    )
