"""Tools of the other APIs as chat's: functions of the client. The server runs no tools itself."""

from __future__ import annotations

from typing import Any

from mirl_core.errors import RequestError
from mirl_server.apis.translation.fields import object_of, text_of
from mirl_server.handling.reading.fields import check_refused

Json = dict[str, Any]


def responses_tools(tools: object, choice: object) -> Json:
    """Return `tools` and `tool_choice` of the Responses API as chat's fields."""
    known = ("name", "description", "parameters", "strict")
    chat: Json = {"tools": _functions(tools, ("function",), {name: name for name in known}, {})}
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise RequestError(
                "tool_choice must be none, auto, required or a function of tools by its name",
                param="tool_choice",
            )
        choice = _choice_of(choice.get("name"))
    return chat | {"tool_choice": choice}


def messages_tools(tools: object, choice: object) -> Json:
    """Return `tools` and `tool_choice` of the Anthropic API as chat's fields."""
    known = {
        "name": "name",
        "description": "description",
        "input_schema": "parameters",
        "strict": "strict",
        "cache_control": None,
    }
    chat: Json = {"tools": _functions(tools, (None, "custom"), known, {"defer_loading": (False,)})}
    if choice is None:
        return chat
    chosen = object_of(choice, "tool_choice")
    kinds = {"auto": "auto", "any": "required", "none": "none"}
    kind = chosen.get("type")
    if kind != "tool" and (not isinstance(kind, str) or kind not in kinds):
        raise RequestError("tool_choice.type must be one of auto, any, tool, none", param="tool_choice.type")
    if chosen.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat | {"tool_choice": _choice_of(chosen.get("name")) if kind == "tool" else kinds[str(kind)]}


def _functions(
    tools: object,
    kinds: tuple[object, ...],
    known: dict[str, str] | dict[str, str | None],
    neutral: dict[str, tuple[object, ...]],
) -> list[Json] | None:
    """Return a list of tools as chat's.

    Args:
        kinds: the types that are functions.
        known: chat's name by a tool's field; None: without effect.
        neutral: the values that ask for nothing, by other field.
    """
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise RequestError("tools must be a list", param="tools")
    chat_tools = []
    for i, value in enumerate(tools):
        path = f"tools[{i}]"
        tool = object_of(value, path)
        kind = tool.get("type")
        if kind not in kinds:
            raise RequestError(
                f"{path}: tools of type '{str(kind)[:40]}' can't be run here; send functions of your own",
                param=path,
            )
        function: Json = {}
        for name, setting in tool.items():
            if name in known:
                if (chat := known[name]) is not None and setting is not None:
                    function[chat] = setting
            elif name != "type":
                check_refused(f"{path}.{name[:64]}", setting, neutral.get(name, ()), "leave it out")
        text_of(function.get("name"), f"{path}.name")
        if "parameters" in function:
            schema = next(name for name, chat in known.items() if chat == "parameters")
            object_of(function["parameters"], f"{path}.{schema}")
        chat_tools.append({"type": "function", "function": function})
    return chat_tools


def _choice_of(name: object) -> Json:
    return {"type": "function", "function": {"name": text_of(name, "tool_choice.name")}}
