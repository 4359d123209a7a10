"""Messages of the Anthropic API: read as chat's messages, and fitted to the backend's own handler."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mirl_core.errors import RequestError
from mirl_server.apis.translation.fields import Turns, object_of, text_of
from mirl_server.handling.reading.conversation import RemoteImage
from mirl_server.media.images import is_remote

Json = dict[str, Any]
_USED: Mapping[object, frozenset[str]] = {
    "text": frozenset({"text"}),
    "image": frozenset({"source"}),
    "tool_use": frozenset({"id", "name", "input"}),
    "tool_result": frozenset({"tool_use_id", "content"}),
    "thinking": frozenset({"thinking"}),
    "redacted_thinking": frozenset(),
}
"""The properties of a block that are read, by its type."""
_TYPED = frozenset(
    {
        "content", "data", "id", "input", "is_error", "name", "signature", "source", "text", "thinking",
        "tool", "tool_name", "tool_use_id",
    }
)  # fmt: skip
"""The properties whose types vLLM checks, in blocks of any type."""


def add_message(turns: Turns, value: object, path: str, roles: Sequence[str]) -> None:
    """Add a message of the API as chat's messages.

    Raises:
        RequestError: it is malformed, or has blocks that the gate does not take.
    """
    message = object_of(value, path)
    role: Any = message.get("role")
    content = message.get("content")
    if role not in roles:
        raise RequestError(f"{path}.role must be one of {', '.join(roles)}", param=f"{path}.role")
    if isinstance(content, str):
        turns.add({"role": role, "content": content}, path)
    elif isinstance(content, list):
        _add_blocks(turns, role, content, path)
    else:
        raise RequestError(f"{path}.content must be text or a list of blocks", param=f"{path}.content")


def text_of_blocks(value: object, path: str) -> str:
    """Return a text, or the joined texts of text blocks."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RequestError(f"{path} must be text or a list of text blocks", param=path)
    return "".join(_text(object_of(item, f"{path}[{j}]"), f"{path}[{j}]") for j, item in enumerate(value))


def _text(block: Mapping[str, Any], path: str) -> str:
    """Return the text of a text block; a null is an empty text, as for vLLM."""
    if block.get("type") != "text":
        raise RequestError(f"{path} must be a text block", param=path)
    return "" if block.get("text", 0) is None else text_of(block.get("text"), f"{path}.text")


def _add_blocks(turns: Turns, role: str, blocks: list[Any], path: str) -> None:
    """Add a message of blocks; a tool's result becomes a separate message before the user's."""
    parts: dict[str, Json] = {}
    calls: list[Json] = []
    thoughts: list[str] = []
    for j, value in enumerate(blocks):
        block_path = f"{path}.content[{j}]"
        block = object_of(value, block_path)
        kind = block.get("type")
        if kind == "text":
            if text := _text(block, block_path):
                parts[block_path] = {"type": "text", "text": text}
        elif kind == "image" and role == "user":
            parts[block_path] = _image(block.get("source"), block_path)
        elif kind == "tool_result" and role == "user":
            _add_tool_result(turns, block, block_path)
        elif kind == "tool_use" and role == "assistant":
            calls.append(_tool_use(block, block_path))
        elif kind == "thinking" and role == "assistant":
            thoughts.append(text_of(block.get("thinking"), f"{block_path}.thinking"))
        elif kind != "redacted_thinking" or role != "assistant":  # it is encrypted
            raise RequestError(
                f"{block_path}: blocks of type '{str(kind)[:40]}' from the {role} can't go through the gate; "
                "send text and images",
                param=block_path,
            )
    if role == "user":
        if parts:
            turns.add({"role": role, "content": list(parts.values())}, path, list(parts))
        return
    # Templates take an assistant's or system's turn as text.
    text = "".join(part["text"] for part in parts.values())
    message: Json = {"role": role, "content": text if text or not calls else None}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning": "".join(thoughts)} if thoughts else {}
    turns.add(message, path)


def _image(value: object, path: str) -> Json:
    source = object_of(value, f"{path}.source")
    kind = source.get("type", "base64" if "data" in source else None)
    if kind == "url":
        url = text_of(source.get("url"), f"{path}.source.url")
    elif kind == "base64":
        declared = source.get("media_type")
        # The file itself says of which format it is.
        media_type = "" if declared is None else text_of(declared, f"{path}.source.media_type")
        url = f"data:{media_type};base64,{text_of(source.get('data'), f'{path}.source.data')}"
    else:
        raise RequestError(f"{path}.source.type must be base64 or url", param=f"{path}.source.type")
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_use(block: Mapping[str, Any], path: str) -> Json:
    values = {} if block.get("input", 0) is None else object_of(block.get("input"), f"{path}.input")
    arguments = json.dumps(values, ensure_ascii=False)
    function = {"name": text_of(block.get("name"), f"{path}.name"), "arguments": arguments}
    return {"id": text_of(block.get("id"), f"{path}.id"), "type": "function", "function": function}


def _add_tool_result(turns: Turns, block: Mapping[str, Any], path: str) -> None:
    """Add a tool's result; its images become a user's message behind it, as in vLLM."""
    identity = text_of(block.get("tool_use_id"), f"{path}.tool_use_id")
    content, texts, images = block.get("content"), [], {}
    for j, value in enumerate(content if isinstance(content, list) else ()):
        part_path = f"{path}.content[{j}]"
        part = object_of(value, part_path)
        if part.get("type") == "image":
            images[part_path] = _image(part.get("source"), part_path)
        elif not _is_null_text(part):
            texts.append(_text(part, part_path))
    if isinstance(content, list):
        content = "\n".join(texts)
    elif content is not None:
        content = text_of_blocks(content, f"{path}.content")
    turns.add({"role": "tool", "tool_call_id": identity, "content": content or ""}, path)
    if images:
        turns.add({"role": "user", "content": list(images.values())}, path, list(images))


def fit_system(system: object) -> None:
    """Change the blocks of `system`, in place, as those of messages."""
    for block in system if isinstance(system, list) else ():
        if isinstance(block, dict):
            _drop_unused(block)


def _drop_unused(block: Json) -> None:
    """Leave out the properties of a block that nobody reads: vLLM checks their types all the same."""
    kind = block.get("type")
    for name in _TYPED - _USED[kind] if isinstance(kind, str) and kind in _USED else ():
        block.pop(name, None)


def fit_messages(messages: object) -> None:
    """Change messages, in place, into the form in which vLLM takes what the gate takes."""
    for _, block in _blocks(messages):
        _drop_unused(block)
        content = block.get("content")
        if isinstance(content, list):
            # vLLM joins the texts of a tool's result, nulls too.
            block["content"] = [part for part in content if not _is_null_text(part)]
    for _, source in _image_sources(messages):
        if source.get("media_type", "") is None:
            del source["media_type"]
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "assistant":
            message["content"] = _one_text(message.get("content"))


def _one_text(blocks: Any) -> Any:
    """Return an assistant's blocks with all text in the first of its text blocks: templates take one text."""
    texts = [block for block in blocks if _is_text(block)] if isinstance(blocks, list) else []
    if len(texts) < 2:
        return blocks
    whole = {**texts[0], "text": "".join(block["text"] or "" for block in texts)}
    others = [block for block in blocks if not _is_text(block)]
    return [whole, *others]


def _is_text(block: object) -> bool:
    return (
        isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str | None)
    )


def remote_images(messages: object) -> list[RemoteImage]:
    """Return the images that the backend would have to fetch."""
    images: list[RemoteImage] = []
    for path, source in _image_sources(messages):
        url = source.get("url")
        if source.get("type") == "url" and isinstance(url, str) and is_remote(url):
            images.append((url, path, partial(_replace_source, source)))
    return images


def _replace_source(source: Json, url: str) -> None:
    """Make a data URL the source of an image."""
    head, _, data = url.partition(";base64,")
    source.clear()
    source.update(type="base64", media_type=head.removeprefix("data:"), data=data)


def _is_null_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and part.get("text") is None


def _blocks(messages: object) -> list[tuple[str, Json]]:
    """Return every block of the messages and of their tools' results, with its path."""
    blocks: list[tuple[str, Json]] = []
    pending = [
        (f"messages[{i}].content", message.get("content"))
        for i, message in enumerate(messages if isinstance(messages, list) else ())
        if isinstance(message, dict)
    ]
    while pending:
        path, content = pending.pop(0)
        for j, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                blocks.append((f"{path}[{j}]", block))
                if block.get("type") == "tool_result":
                    pending.append((f"{path}[{j}].content", block.get("content")))
    return blocks


def _image_sources(messages: object) -> list[tuple[str, Json]]:
    """Return the source of each image, with the path of its block."""
    return [
        (path, block["source"])
        for path, block in _blocks(messages)
        if block.get("type") == "image" and isinstance(block.get("source"), dict)
    ]
