"""What form an answer must or may have: JSON, one of a few choices, calls of tools. Reasoning stays free.

What it must have goes to the engine as a structural tag in xgrammar's words, which is what vLLM takes:
anything, then the opening tag of the answer, then what the form allows, then the closing tag.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mirl_core.algorithm.answers import Extract, locate
from mirl_core.config import Tags

Json = Mapping[str, Any]
Calls = Sequence[tuple[str, str]]
"""Tool calls in order: the name, and the arguments as JSON text."""


class Form(Protocol):
    """A form of answers."""

    def after_description(self, tags: Tags) -> str | None:
        """The structural tag of a chain; None: chains are free."""
        ...

    def alone(self) -> str | None:
        """The structural tag of an answer without anything around it: where there was no usable description,
        nothing tells the model of tags. None: it is free."""
        ...

    def read(self, text: str, tags: Tags, finished: bool, alone: bool) -> Extract:
        """A chain's reasoning and answer; None for an answer that was cut off.

        Args:
            finished: the chain ended by itself.
            alone: it was sampled by `alone`.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A form that answers must have. `json_schema`, `one_of` and `calls_of` make it."""

    content: Json
    """The answer's format in xgrammar's words."""
    is_json: bool
    calls: bool = False
    """Whether the JSON is tool calls."""

    def after_description(self, tags: Tags) -> str:
        opening, closing = tags.answer
        answer = {"type": "tag", "begin": opening, "content": self.content, "end": closing}
        free = {"type": "any_text", "excludes": [opening]}
        return _structural_tag({"type": "sequence", "elements": [free, answer]})

    def alone(self) -> str:
        return _structural_tag(self.content)

    def read(self, text: str, tags: Tags, finished: bool, alone: bool) -> Extract:
        """As in the protocol. JSON with the closing tag inside a string is cut off: the chain ends there."""
        reasoning, start, answer = "", 0, text
        if not alone:
            before, opened, answer = text.partition(tags.answer[0])
            reasoning, start = _without_tags(before, tags), len(before) + len(opened)
            answer = answer.removesuffix(tags.answer[1])
        start += len(answer) - len(answer.lstrip())
        answer = answer.strip()
        if not finished or not answer or (self.is_json and not _is_json(answer)):
            return Extract(reasoning, None)
        return Extract(reasoning, answer, start, self.calls)


@dataclass(frozen=True, slots=True)
class FreeCalls:
    """Answers may be tool calls, in the model's own words for them.

    Args:
        parse: finds the calls in a text; none: the text is an ordinary answer.
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
        told = [{"name": name, "arguments": arguments} for name, arguments in calls]
        answer = json.dumps(told, ensure_ascii=False)
        return Extract(_without_tags(reasoning, tags), answer, calls=True)


def json_schema(schema: Json | None) -> AnswerFormat:
    """JSON of a schema; None: any JSON object."""
    content = {"type": "json_schema", "json_schema": {"type": "object"} if schema is None else dict(schema)}
    return AnswerFormat(content, is_json=True)


def one_of(choices: Sequence[str]) -> AnswerFormat:
    """One of some texts, word for word."""
    texts = [{"type": "const_string", "value": choice} for choice in choices]
    return AnswerFormat({"type": "or", "elements": texts}, is_json=False)


def calls_of(tools: Mapping[str, Json], most: int) -> AnswerFormat:
    """At least one call of tools, as JSON.

    Args:
        tools: the schema of the arguments by the tool's name.
        most: how many calls there may be.
    """
    definitions: dict[str, Any] = {}
    kinds = []
    for name, parameters in tools.items():
        # What a schema refers to is looked up at the root.
        definitions |= parameters.get("$defs", {})
        arguments = {key: value for key, value in parameters.items() if key != "$defs"}
        kinds.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": arguments or {"type": "object"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": most}
    content = {"type": "json_schema", "json_schema": schema | ({"$defs": definitions} if definitions else {})}
    return AnswerFormat(content, is_json=True, calls=True)


def read_calls(answer: str) -> list[tuple[str, str]]:
    """The calls in an answer that is calls."""
    return [
        (one["name"], one["arguments"] if isinstance(one["arguments"], str) else _dump(one["arguments"]))
        for one in json.loads(answer)
    ]


def _structural_tag(content: Json) -> str:
    return _dump({"type": "structural_tag", "format": content})


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _without_tags(text: str, tags: Tags) -> str:
    for tag in (*tags.description, *tags.reasoning):
        text = text.replace(tag, "")
    return text.strip()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
