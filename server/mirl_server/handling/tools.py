"""`tools` and `tool_choice`: whether a gated answer may or must be calls of tools, and how it says them.

`required`, or a tool by name: every chain's answer is calls as JSON, by constraint. `auto`: chains call as
the model does it, and vLLM's own parser (`--enable-auto-tool-choice`, `--tool-call-parser`) finds the calls.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from mirl_core.algorithm.answers.forms import Calls, Form, FreeCalls, calls_of, read_calls
from mirl_core.errors import RequestError

MAX_CALLS = 16
"""Most calls in one constrained answer."""
ToolParser = Callable[[Sequence[dict[str, Any]]], Callable[[str], Calls]]
"""For a request's tools: what finds their calls in a chain's text."""


class Function(BaseModel):
    """What a tool does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""
    strict: bool | None = None


class Tool(BaseModel):
    """One tool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["function"]
    function: Function


class Name(BaseModel):
    """A function by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


class NamedChoice(BaseModel):
    """The one tool to call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["function"] = "function"
    function: Name


def _choice(given: object, read: ValidatorFunctionWrapHandler) -> Any:
    """One problem at the field itself, where a union has one for each of its members."""
    with suppress(ValidationError):
        return read(given)
    raise PydanticCustomError(
        "tool_choice", "Input should be 'none', 'auto', 'required', or a function of tools by its name"
    )


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedChoice, WrapValidator(_choice)]


def template_tools(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> list[dict[str, Any]]:
    """The tools that the model is told of: as they came, and none where it may call none."""
    return [] if choice == "none" else [tool.model_dump(exclude_unset=True) for tool in tools or ()]


def read_tools(
    tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool, parser: ToolParser | None
) -> Form | None:
    """The form of answers that tools ask for; None: they are not calls.

    Args:
        parallel: whether an answer may be several calls.
        parser: None on a server that can't find calls in text.

    Raises:
        RequestError: the choice is of no tool, or the server can't find calls.
    """
    functions = {tool.function.name: tool.function for tool in tools or ()}
    if choice in (None, "auto", "none"):
        if not functions or choice == "none":
            return None
        if parser is None:
            raise RequestError(
                "tool_choice 'auto' needs a server that was started with --enable-auto-tool-choice and "
                "--tool-call-parser; say 'required' or name a tool",
                param="tool_choice",
            )
        return FreeCalls(parser(template_tools(tools, choice)), None if parallel else 1)
    named = isinstance(choice, NamedChoice)
    chosen = [choice.function.name] if isinstance(choice, NamedChoice) else list(functions)
    if not chosen or any(name not in functions for name in chosen):
        raise RequestError("tool_choice must be of a tool in tools", param="tool_choice")
    schemas = {name: functions[name].parameters or {} for name in chosen}
    for name, schema in schemas.items():
        if not isinstance(schema.get("$defs", {}), dict):
            raise RequestError(f"$defs of the tool '{name[:64]}' must be an object", param="tools")
    return calls_of(schemas, MAX_CALLS if parallel and not named else 1)


def calls_json(answer: str) -> list[dict[str, Any]]:
    """A message's `tool_calls`, of an answer that is calls."""
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for name, arguments in read_calls(answer)
    ]
