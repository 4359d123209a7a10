"""Forms that an answer must or may have: JSON, one of a few choices, tool calls. Reasoning stays free.

A form that an answer must have goes to the engine as a structural tag of xgrammar, which vLLM takes: any
text, then the answer's opening tag, then the content that the form allows, then the closing tag.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mirl_core.algorithm.answers.extraction import Extract, locate, without_tags
from mirl_core.config import Tags
from mirl_core.engines.common.json_schemas import Definitions, self_contained

Json = Mapping[str, Any]
Calls = Sequence[tuple[str, str]]
"""Tool calls in order: the name, and the arguments as JSON text."""


class Form(Protocol):
    """A form of answers."""

    def after_description(self, tags: Tags) -> str | None:
        """Return the structural tag of a chain; None: chains are free."""
        ...

    def alone(self) -> str | None:
        """Return the structural tag of a bare answer; None: it is free.

        Used where no description was usable: the prompt then doesn't mention tags.
        """
        ...

    def read(self, text: str, tags: Tags, finished: bool, alone: bool) -> Extract:
        """Return a chain's reasoning and answer; the answer is None where it was cut off.

        Args:
            finished: the chain ended by itself, not at a length limit or an abort.
            alone: the chain was sampled under `alone()`.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A form that answers must have, made by `json_schema`, `one_of` or `calls_of`."""

    content: Json
    """The answer's format, as xgrammar's JSON."""
    is_json: bool
    calls: bool = False
    """Whether the JSON is tool calls."""

    def after_description(self, tags: Tags) -> str:
        opening, closing = tags.answer
        answer = {"type": "tag", "begin": opening, "content": self.content, "end": closing}
        # A closing tag in the reasoning would end the chain before its answer.
        free = {"type": "any_text", "excludes": [opening, closing]}
        return _structural_tag({"type": "sequence", "elements": [free, answer]})

    def alone(self) -> str:
        return _structural_tag(self.content)

    def each_call(self) -> dict[str, AnswerFormat]:
        """Return the form of a single call by the name of its tool; empty where answers are no calls."""
        if not self.calls:
            return {}
        schema = self.content["json_schema"]
        return {
            kind["properties"]["name"]["const"]: replace(
                self, content={**self.content, "json_schema": {**schema, "items": {"anyOf": [kind]}}}
            )
            for kind in schema["items"]["anyOf"]
        }

    def read(self, text: str, tags: Tags, finished: bool, alone: bool) -> Extract:
        """See `Form.read`. JSON with the closing tag inside a string is cut off: the chain ends there."""
        reasoning, start, answer = "", 0, text
        if not alone:
            before, opened, answer = text.partition(tags.answer[0])
            reasoning = without_tags(before, tags.description, tags.reasoning)
            start = len(before) + len(opened)
            answer = answer.removesuffix(tags.answer[1])
        if self.is_json:  # a choice is returned word for word, with its white space
            start += len(answer) - len(answer.lstrip())
            answer = answer.strip()
        if not finished or not answer or (self.is_json and not _is_json(answer)):
            return Extract(reasoning, None)
        return Extract(reasoning, answer, start, self.calls)


@dataclass(frozen=True, slots=True)
class FreeCalls:
    """A form that answers may have: tool calls in the model's own format.

    Args:
        parse: returns the calls in a text; no calls: the text is an ordinary answer.
        most: how many calls of one answer count; None: all.
    """

    parse: Callable[[str], Calls]
    most: int | None = None

    def after_description(self, tags: Tags) -> None:
        return None

    def alone(self) -> None:
        return None

    def read(self, text: str, tags: Tags, finished: bool, alone: bool) -> Extract:
        reasoning, _, body = text.rpartition(tags.reasoning[1])
        calls = self.parse(body)[: self.most] if finished else ()
        if not calls:
            return locate(text, tags, finished)
        answer = _dump([{"name": name, "arguments": arguments} for name, arguments in calls])
        return Extract(without_tags(reasoning, tags.description, tags.reasoning), answer, calls=True)


def json_schema(schema: Json | None) -> AnswerFormat:
    """Return the form of JSON that follows `schema`; None: any JSON object.

    Raises:
        RequestError: a reference in the schema leads nowhere or to another document.
    """
    content = {
        "type": "json_schema",
        "json_schema": {"type": "object"} if schema is None else self_contained(schema),
    }
    return AnswerFormat(content, is_json=True)


def one_of(choices: Sequence[str]) -> AnswerFormat:
    """Return the form of an answer that is one of `choices`, word for word."""
    texts = [{"type": "const_string", "value": choice} for choice in choices]
    return AnswerFormat({"type": "or", "elements": texts}, is_json=False)


def calls_of(tools: Mapping[str, Json], most: int) -> AnswerFormat:
    """Return the form of an answer that is tool calls as JSON, at least one.

    Args:
        tools: the schema of the arguments, by the tool's name.
        most: how many calls an answer may have.

    Raises:
        RequestError: as `json_schema`.
    """
    definitions = Definitions()
    kinds = []
    for name, parameters in tools.items():
        arguments = definitions.move(parameters, name)
        kinds.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": arguments or {"type": "object"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": most}
    if definitions.parts:
        schema["$defs"] = definitions.parts
    content = {"type": "json_schema", "json_schema": schema}
    return AnswerFormat(content, is_json=True, calls=True)


def read_calls(answer: str) -> list[tuple[str, str]]:
    """Return the calls in an answer that is tool calls: the name, and the arguments as JSON text."""
    return [
        (call["name"], call["arguments"] if isinstance(call["arguments"], str) else _dump(call["arguments"]))
        for call in json.loads(answer)
    ]


def _structural_tag(content: Json) -> str:
    return _dump({"type": "structural_tag", "format": content})


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
