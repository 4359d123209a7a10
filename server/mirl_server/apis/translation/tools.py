"""Tools of the other APIs in chat's words: functions of the caller's own. Nobody here could run others."""

from __future__ import annotations

from typing import Any

from mirl_core.errors import RequestError
from mirl_server.apis.translation.fields import check_refused, object_of, text_of

Json = dict[str, Any]


def responses_tools(given: object, choice: object) -> Json:
    """`tools` and `tool_choice` of the Responses API as fields of chat."""
    known = ("name", "description", "parameters", "strict")
    chat: Json = {"tools": _functions(given, ("function",), {name: name for name in known}, {})}
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise RequestError(
                "tool_choice must be none, auto, required or a function of tools by its name",
                param="tool_choice",
            )
        choice = _named(choice.get("name"))
    return chat | {"tool_choice": choice}


def messages_tools(given: object, choice: object) -> Json:
    """`tools` and `tool_choice` of the Anthropic API as fields of chat."""
    known = {
        "name": "name",
        "description": "description",
        "input_schema": "parameters",
        "strict": "strict",
        "cache_control": None,
    }
    chat: Json = {"tools": _functions(given, (None, "custom"), known, {"defer_loading": (False,)})}
    if choice is None:
        return chat
    chosen = object_of(choice, "tool_choice")
    kinds = {"auto": "auto", "any": "required", "none": "none"}
    kind = chosen.get("type")
    if kind != "tool" and (not isinstance(kind, str) or kind not in kinds):
        raise RequestError("tool_choice.type must be one of auto, any, tool, none", param="tool_choice.type")
    if chosen.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat | {"tool_choice": _named(chosen.get("name")) if kind == "tool" else kinds[str(kind)]}


def _functions(
    given: object,
    kinds: tuple[object, ...],
    known: dict[str, str] | dict[str, str | None],
    neutral: dict[str, tuple[object, ...]],
) -> list[Json] | None:
    """A list of tools in chat's words.

    Args:
        kinds: the types that are functions.
        known: a tool's fields: chat's names of them, None for one without effect.
        neutral: other fields: values that ask for nothing.
    """
    if given is None:
        return None
    if not isinstance(given, list):
        raise RequestError("tools must be a list", param="tools")
    tools = []
    for i, one in enumerate(given):
        where = f"tools[{i}]"
        tool = object_of(one, where)
        kind = tool.get("type")
        if kind not in kinds:
            raise RequestError(
                f"{where}: tools of type '{str(kind)[:40]}' can't be run here; send functions of your own",
                param=where,
            )
        function: Json = {}
        for name, value in tool.items():
            if name in known:
                if (chat := known[name]) is not None and value is not None:
                    function[chat] = value
            elif name != "type":
                check_refused(f"{where}.{name[:64]}", value, neutral.get(name, ()), "leave it out")
        text_of(function.get("name"), f"{where}.name")
        if "parameters" in function:
            schema = next(name for name, chat in known.items() if chat == "parameters")
            object_of(function["parameters"], f"{where}.{schema}")
        tools.append({"type": "function", "function": function})
    return tools


def _named(name: object) -> Json:
    return {"type": "function", "function": {"name": text_of(name, "tool_choice.name")}}
