"""`tools` and `tool_choice`: whether a gated answer may or must be tool calls, and in which form.

`required`, or a tool by name: constrained sampling makes every chain's answer calls as JSON. `auto`: chains
call in the model's own format, and vLLM's parser (`--enable-auto-tool-choice`, `--tool-call-parser`) extracts
the calls.
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
from mirl_core.engines.common.json_schemas import self_contained
from mirl_core.errors import RequestError
from mirl_server.handling.reading.response_format import naming, parameters_of

MAX_CALLS = 16
"""Most calls in one constrained answer."""
ToolParser = Callable[[Sequence[dict[str, Any]]], Callable[[str], Calls]]
"""Takes a request's tools; returns the parser of their calls in a chain's text."""


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""
    strict: bool | None = None


class Tool(BaseModel):
    """A tool: a function."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


class NamedChoice(BaseModel):
    """The tool that must be called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["function"] = "function"
    function: FunctionName


def _read_choice(value: object, read: ValidatorFunctionWrapHandler) -> Any:
    """Raise one error for the field, where a union raises one for each of its members."""
    with suppress(ValidationError):
        return read(value)
    raise PydanticCustomError(
        "tool_choice", "Input should be 'none', 'auto', 'required', or a function of tools by its name"
    )


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedChoice, WrapValidator(_read_choice)]


def template_tools(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> list[dict[str, Any]]:
    """Return the tools for the chat template, unchanged; none where the model may call none."""
    return [] if choice == "none" else [tool.model_dump(exclude_unset=True) for tool in tools or ()]


def read_tools(
    tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool, parser: ToolParser | None
) -> Form | None:
    """Return the form of answers that are tool calls; None: answers are text.

    Args:
        parallel: whether an answer may be several calls.
        parser: None on a server that can't parse calls in text.

    Raises:
        RequestError: the choice names no tool, or the server can't parse calls.
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
        raise RequestError("tool_choice needs a tool: name one of tools, or say 'none'", param="tool_choice")
    schemas = {name: functions[name].parameters or {} for name in chosen}
    for name, schema in schemas.items():
        with naming("tools", f"{parameters_of(name)}: "):
            self_contained(schema, name)
    return calls_of(schemas, MAX_CALLS if parallel and not named else 1)


def calls_json(answer: str) -> list[dict[str, Any]]:
    """Return a message's `tool_calls`, from an answer that is calls."""
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for name, arguments in read_calls(answer)
    ]
