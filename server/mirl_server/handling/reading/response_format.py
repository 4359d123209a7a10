"""`response_format`, and vLLM's `structured_outputs`: the form of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mirl_core.algorithm.answers.forms import AnswerFormat, Form, json_schema, one_of
from mirl_core.config import Tags
from mirl_core.engines.base import Engine
from mirl_core.errors import RequestError

MAX_BYTES = 65536
"""Largest form as JSON. The engine compiles a form before it samples, in a time that grows faster than the
form (5 s at this size, minutes at a megabyte), and the compilation can't be stopped."""


class JSONSchema(BaseModel):
    """A named schema, as OpenAI's clients send it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None


class StructuredOutputs(BaseModel):
    """The honoured part of vLLM's field: exactly one of the three."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    choice: (
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=256)] | None
    ) = None

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        values = [value for value in (self.json_, self.json_object, self.choice) if value is not None]
        if len(values) != 1:
            raise ValueError("exactly one of json, json_object and choice must be given")
        return self


async def read_format(
    response_format: ResponseFormat | None,
    structured: StructuredOutputs | None,
    calls: Form | None,
    engine: Engine,
    tags: Tags,
) -> Form | None:
    """Return the form of a request's answers, checked by the engine; None: free text.

    Args:
        calls: the form that the request's tools require.

    Raises:
        RequestError: the form is incomplete or wrong, or the engine can't constrain answers to it.
    """
    form: Form | None = None
    name = "response_format"
    if response_format is not None:
        with naming(name):
            form = _form_of(response_format)
    if structured is not None:
        if form is not None:
            raise RequestError(
                "response_format and structured_outputs say the same thing; give one", param=name
            )
        name = "structured_outputs"
        with naming(name):
            form = one_of(structured.choice) if structured.choice else json_schema(structured.json_)
    if calls is not None:
        if form is not None:
            raise RequestError(
                f"{name} and tools can't be asked for together; give one, or tool_choice 'none'", param=name
            )
        name, form = "tools", calls
    structure = None if form is None else form.after_description(tags)
    if structure is not None:
        _check_size(structure, name)
        with naming(name):
            await _check(form, structure, engine, tags)
    return form


async def _check(form: Form | None, structure: str, engine: Engine, tags: Tags) -> None:
    """Check a form by the engine; an error about one of several tools names the tool."""
    try:
        await engine.check_structure(structure)
    except RequestError:
        if isinstance(form, AnswerFormat):
            for name, call in form.each_call().items():
                with naming("tools", f"{parameters_of(name)}: "):
                    await engine.check_structure(call.after_description(tags))
        raise


def parameters_of(tool: str) -> str:
    """Return what an error calls the schema of a tool's arguments."""
    return f"the parameters of '{tool[:64]}'"


def _form_of(response_format: ResponseFormat) -> AnswerFormat | None:
    if response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return json_schema(None)
    if response_format.json_schema is None or response_format.json_schema.schema_ is None:
        raise RequestError("response_format.json_schema.schema is missing", param="response_format")
    return json_schema(response_format.json_schema.schema_)


@contextmanager
def naming(field: str, part: str = "") -> Iterator[None]:
    """Name the field in an error of a form that the block raises without one.

    Args:
        part: what of the field is wrong, where it holds several things.
    """
    try:
        yield
    except RequestError as error:
        if error.param is not None:
            raise
        raise RequestError(f"{field}: {part}{error.message}", param=field) from error


def constrains_tools(body: Mapping[str, Any]) -> bool:
    """Return whether a body of any API holds answers to the schemas of its tools."""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return kind not in (None, "auto", "none")


def check_sizes(body: Mapping[str, Any]) -> None:
    """Raise RequestError where a form is over the limit; for bodies of any API that the backend reads."""
    names = ["response_format", "structured_outputs", "text", "output_config"]
    if constrains_tools(body):
        names.append("tools")
    for name in names:
        if body.get(name):
            _check_size(json.dumps(body[name]), name)


def _check_size(form: str, name: str) -> None:
    if len(form) > MAX_BYTES:
        raise RequestError(
            f"{name} is {len(form)} bytes of JSON; at most {MAX_BYTES} can be held to: send a smaller schema",
            param=name,
        )
