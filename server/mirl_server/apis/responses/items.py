"""Input items of the Responses API: read as chat's messages, and fitted to the backend's own handler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirl_core.errors import RequestError
from mirl_server.apis.translation.fields import Turns, object_of, text_of
from mirl_server.handling.reading.conversation import RemoteImage, remote_parts

Json = dict[str, Any]
ROLES = ("user", "assistant", "system", "developer")
NOTHING_STORED = "nothing is stored here: send the earlier turns in input"
_DETAILS = ("auto", "low", "high", "original")
_UNFINISHED = ("in_progress", "incomplete")


def read_items(turns: Turns, items: Sequence[object]) -> None:
    """Add input items as chat's messages.

    Raises:
        RequestError: an item is malformed, or of a type that the gate does not take.
    """
    reasoning: list[str] = []
    reasoning_path = ""
    for i, value in enumerate(items):
        path = f"input[{i}]"
        item = object_of(value, path)
        if item.get("type") == "reasoning":
            reasoning, reasoning_path = [*reasoning, *_reasoning_texts(item, path)], path
            continue
        message = _message(item, path)
        if reasoning and message["role"] == "assistant":
            message["reasoning"] = _joined(reasoning)
        elif reasoning:
            # A turn that was cut off before it said anything.
            turns.add({"role": "assistant", "content": "", "reasoning": _joined(reasoning)}, reasoning_path)
        reasoning = []
        last = turns.messages[-1] if turns.messages else {}
        if last.get("role") != "assistant" or message["role"] != "assistant":
            turns.add(message, path)
        elif "tool_calls" in message:
            # Chat has a turn's words and its calls in one message.
            last["tool_calls"] = last.get("tool_calls", []) + message["tool_calls"]
        elif last["content"] is None and "reasoning" not in message:
            last["content"] = message["content"]
        else:
            turns.add(message, path)


def fit_items(items: object) -> object:
    """Return input items in the form in which vLLM takes what the gate takes; others stay as they are."""
    if not isinstance(items, list):
        return items
    fitted: list[Any] = []
    for i, item in enumerate(items):
        newest = i == len(items) - 1
        if newest and isinstance(item, dict) and item.get("status") in _UNFINISHED:
            fitted.append(item)  # the backend goes on from here
            continue
        try:
            fitted_item = _fit_item(object_of(item, ""))
        except RequestError:
            fitted_item = item  # the backend's to take or to refuse
        if fitted_item is None:
            continue
        before: Any = fitted[-1] if fitted else None
        if _is_reasoning(fitted_item) and _is_reasoning(before):
            # vLLM would make a turn of each.
            texts = [before["content"][0]["text"], fitted_item["content"][0]["text"]]
            before["content"] = [{"type": "reasoning_text", "text": _joined(texts)}]
        else:
            fitted.append(fitted_item)
    return fitted


def remote_images(items: object) -> list[RemoteImage]:
    """Return the images that the backend would have to fetch."""
    images: list[RemoteImage] = []
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            for name in ("content", "output"):
                images += remote_parts(item.get(name), f"input[{i}].{name}")
    return images


def _fit_item(item: Json) -> Any:
    """Return an item as vLLM takes it; None: it says nothing.

    Raises:
        RequestError: the gate does not take it.
    """
    kind = item.get("type", "message")
    if kind == "reasoning":
        texts = _reasoning_texts(item, "")
        content = [{"type": "reasoning_text", "text": _joined(texts)}]
        return {"type": "reasoning", "summary": [], "content": content} if texts else None
    message = _message(item, "")
    if kind == "message":
        content = item["content"]
        if isinstance(content, list):
            parts = [_fit_part(part) for part in content]
            content = parts if message["role"] == "user" else message["content"]
        return {**{name: item[name] for name in ("type", "role") if name in item}, "content": content}
    if kind == "function_call":
        return {"type": kind, **{name: item[name] for name in ("call_id", "name", "arguments")}} | (
            {"namespace": item["namespace"]} if isinstance(item.get("namespace"), str) else {}
        )
    output = item["output"]
    if isinstance(output, list):
        output = [_fit_part(part) for part in output]
    return {"type": kind, "call_id": item["call_id"], "output": output}


def _fit_part(part: Json) -> Json:
    """Return a part that the gate takes as vLLM takes it."""
    if part["type"] != "input_image":
        return {"type": "input_text", "text": part.get("text", part.get("refusal"))}
    return {"type": "input_image", "image_url": part["image_url"], "detail": part.get("detail") or "auto"}


def _is_reasoning(item: object) -> bool:
    return isinstance(item, dict) and item.get("type") == "reasoning" and bool(item.get("content"))


def _joined(reasoning: Sequence[str]) -> str:
    return "\n\n".join(reasoning)


def _message(item: Json, path: str) -> Json:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in ROLES:
            raise RequestError(f"{path}.role must be one of {', '.join(ROLES)}", param=f"{path}.role")
        content = _content(item.get("content"), f"{path}.content", images=role == "user")
        if role != "user" and isinstance(content, list):
            # Templates take an assistant's or system's turn as text.
            content = "".join(part["text"] for part in content)
        return {"role": role, "content": content}
    if kind == "function_call":
        function = {name: text_of(item.get(name), f"{path}.{name}") for name in ("name", "arguments")}
        call = {
            "id": text_of(item.get("call_id"), f"{path}.call_id"),
            "type": "function",
            "function": function,
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        content = _content(item.get("output"), f"{path}.output")
        return {
            "role": "tool",
            "tool_call_id": text_of(item.get("call_id"), f"{path}.call_id"),
            "content": content,
        }
    if kind == "item_reference":
        raise RequestError(f"{path}: {NOTHING_STORED}", param=path)
    raise RequestError(
        f"{path}: items of type '{str(kind)[:40]}' can't go through the gate; send messages, reasoning and "
        "function calls with their outputs",
        param=path,
    )


def _content(value: object, path: str, images: bool = True) -> str | list[Json]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RequestError(f"{path} must be text or a list of parts", param=path)
    return [_part(part, f"{path}[{j}]", images) for j, part in enumerate(value)]


def _part(value: object, path: str, images: bool) -> Json:
    part = object_of(value, path)
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": text_of(part.get("text"), f"{path}.text")}
    if kind == "refusal":
        return {"type": "text", "text": text_of(part.get("refusal"), f"{path}.refusal")}
    if kind == "input_image" and images:
        if part.get("file_id") is not None:
            raise RequestError(
                f"{path}.file_id: no files are kept here; send image_url", param=f"{path}.file_id"
            )
        if part.get("detail", "auto") not in (*_DETAILS, None):
            raise RequestError(f"{path}.detail must be one of {', '.join(_DETAILS)}", param=f"{path}.detail")
        url = part.get("image_url")
        if not isinstance(url, str):
            raise RequestError(f"{path}.image_url must be a URL as text", param=f"{path}.image_url")
        return {"type": "image_url", "image_url": {"url": url}}
    raise RequestError(
        f"{path}: parts of type '{str(kind)[:40]}' can't go through the gate; send input_text"
        f"{' and input_image' if images else ''}",
        param=path,
    )


def _reasoning_texts(item: Json, path: str) -> list[str]:
    """Return the texts of an earlier turn's reasoning: its content, or else its summary."""
    if item.get("encrypted_content") is not None:
        raise RequestError(
            f"{path}.encrypted_content can't be read here; leave it out", param=f"{path}.encrypted_content"
        )
    name = "content" if item.get("content") else "summary"
    parts = item.get(name) or []
    if not isinstance(parts, list):
        raise RequestError(f"{path}.{name} must be a list", param=f"{path}.{name}")
    entries = [
        (object_of(part, f"{path}.{name}[{j}]"), f"{path}.{name}[{j}].text") for j, part in enumerate(parts)
    ]
    return [text_of(part.get("text"), text_path) for part, text_path in entries]
