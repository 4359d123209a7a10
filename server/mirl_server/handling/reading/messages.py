"""Reading of chat messages for the gate, and their rewriting for the backend.

The gate reads every message by `read_message`. `fit_messages` changes a message that is handed on only where
the backend would refuse or misread a form that `read_message` accepts. Forms that `read_message` refuses stay
as they are: the backend's own handler knows more of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mirl_core.errors import RequestError
from mirl_server.handling.reading.request import ROLES

Json = dict[str, Any]
IMAGE_TYPES = ("image", "image_url", "image_pil", "image_embeds", "input_image")
"""Types of content parts that bring an image, in vLLM's words too."""
_TEXTS: Mapping[object, str] = {
    "text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking",
}  # fmt: skip
"""The property that holds the text, by the type of a content part that is text."""
_PLAIN_TEXTS = ("input_text", "output_text")
"""Texts of the Responses API, which vLLM takes in its own API only."""
_DETAILS = ("auto", "low", "high")
_FIELDS = ("name", "tool_call_id", "reasoning", "task")
"""Fields of a message that templates read, all of them text."""


def read_message(message: Mapping[str, Any], path: str) -> Json:
    """Return a message in one form: text, or parts of the types `text` and `image_url`.

    A null counts as an absent field, and a field that no template reads is left out.

    Args:
        path: of the message, as errors name it.

    Raises:
        RequestError: the message or a part is malformed, or of a type that the gate does not take.
    """
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if role not in ROLES:
        raise RequestError(f"{path}.role must be one of {', '.join(ROLES)}", param=f"{path}.role")
    if content is not None and not isinstance(content, str | list):
        raise RequestError(f"{path}.content must be text or a list of parts", param=f"{path}.content")
    if content is None and not calls and role != "assistant":
        raise RequestError(f"{path}.content is missing", param=f"{path}.content")
    if isinstance(content, list):
        content = [_read_part(part, f"{path}.content[{j}]") for j, part in enumerate(content)]
    read: Json = {"role": role, "content": content if calls or content is not None else ""}
    fields = {"reasoning": message.get("reasoning_content")} | {
        name: value for name in _FIELDS if (value := message.get(name)) is not None
    }
    for name, value in fields.items():
        if value is not None and not isinstance(value, str):
            raise RequestError(f"{path}.{name} must be text", param=f"{path}.{name}")
        read |= {name: value} if value is not None else {}
    if calls:
        read["tool_calls"] = _read_calls(calls, f"{path}.tool_calls")
    if isinstance(message.get("tools"), list):
        read["tools"] = message["tools"]
    return read


def is_image_url(part: Mapping[str, Any]) -> bool:
    """Return whether a part of a message that `read_message` returned is an image."""
    return bool(part["type"] == "image_url")


def fit_messages(messages: object) -> None:
    """Change messages, in place, into the form in which vLLM takes what `read_message` takes."""
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _fit_message(message, f"messages[{i}]")


def _fit_message(message: Json, path: str) -> None:
    for name in [name for name, value in message.items() if value is None and name != "content"]:
        del message[name]
    if message.get("content", "") is None and message.get("role") == "assistant":
        message["content"] = None if message.get("tool_calls") else ""
    calls = message.get("tool_calls")
    if calls == []:
        del message["tool_calls"]
    elif isinstance(calls, list):
        try:
            message["tool_calls"] = _read_calls(calls, path)
        except RequestError:
            return  # the backend's to refuse
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = [_fit_part(part) for part in content]


def _fit_part(part: Any) -> Any:
    """Return a part as vLLM takes it; other parts than texts and images are returned as they are."""
    if not isinstance(part, dict):
        return part
    if part.get("type") in _PLAIN_TEXTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if not isinstance(_url(part), str):
        return part
    if isinstance(part["image_url"], str) or part.get("type") == "input_image":
        # Of a URL that is no object vLLM takes the type, which is optional, for that of another part.
        fitted: Json = {"image_url": _url(part)}
        return fitted if part.get("uuid") is None else fitted | {"uuid": part["uuid"]}
    fitted = {name: value for name, value in part.items() if value is not None}
    fitted["image_url"] = {
        name: value for name, value in part["image_url"].items() if name != "detail" or value in _DETAILS
    }
    return fitted


def _read_part(part: object, path: str) -> Json:
    if not isinstance(part, dict) or not isinstance(part.get("type", ""), str):
        raise RequestError(f"{path} must be an object with a type", param=path)
    # Without a type a part is what it holds, as for vLLM.
    kind = part.get("type", "image_url" if "image_url" in part else None)
    if kind is None:
        raise RequestError(f"{path} must be an object with a type", param=path)
    if kind in _TEXTS:
        name = _TEXTS[kind]
        if not isinstance(part.get(name), str):
            raise RequestError(f"{path}.{name} must be text", param=f"{path}.{name}")
        return {"type": "text", "text": part[name]}
    if kind in ("image_url", "input_image"):
        url = _url(part)
        if not isinstance(url, str):
            raise RequestError(f"{path}.image_url.url is missing", param=f"{path}.image_url")
        return {"type": "image_url", "image_url": {"url": url}}
    raise RequestError(
        f"{path}: parts of type '{str(kind)[:40]}' can't go through the gate; send text and image_url",
        param=path,
    )


def _url(part: Mapping[str, Any]) -> object:
    image_url = part.get("image_url")
    return image_url.get("url") if isinstance(image_url, dict) else image_url


def _read_calls(calls: object, path: str) -> Sequence[Json]:
    """Return the tool calls of an earlier turn in OpenAI's form; arguments are JSON as text."""
    if not isinstance(calls, list):
        raise RequestError(f"{path} must be a list", param=path)
    read = []
    for j, call in enumerate(calls):
        call_path = f"{path}[{j}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") not in ("function", None):
            raise RequestError(f"{call_path} must be the call of a function", param=call_path)
        name, arguments, identity = function.get("name"), function.get("arguments"), call.get("id")
        if not isinstance(name, str):
            raise RequestError(f"{call_path}.function.name must be text", param=f"{call_path}.function.name")
        if not isinstance(identity, str | None):
            raise RequestError(f"{call_path}.id must be text", param=f"{call_path}.id")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments if arguments is not None else {}, ensure_ascii=False)
        read.append(
            {
                "id": identity if identity is not None else f"call_{j}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        )
    return read
