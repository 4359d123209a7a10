"""What form an answer must have: JSON of a schema, or one of a few choices. Reasoning stays free.

The form goes to the engine as a structural tag in xgrammar's words, which is what vLLM takes: anything, then
the opening tag of the answer, then what the form allows, then the closing tag.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_core.answers import Extract
from mirl_core.config import Tags

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """One form. `json_schema` and `one_of` make it."""

    content: Json
    """The answer's format in xgrammar's words."""
    is_json: bool

    def after_description(self, tags: Tags) -> str:
        """The structural tag of a chain: it reasons as it likes, and must come to an answer of this form."""
        opening, closing = tags.answer
        answer = {"type": "tag", "begin": opening, "content": self.content, "end": closing}
        free = {"type": "any_text", "excludes": [opening]}
        return _structural_tag({"type": "sequence", "elements": [free, answer]})

    def alone(self) -> str:
        """The structural tag of an answer without anything around it: where there was no usable description,
        nothing tells the model of tags."""
        return _structural_tag(self.content)

    def read(self, text: str, tags: Tags | None, finished: bool) -> Extract:
        """A chain's reasoning and answer; None for an answer that was cut off.

        That includes JSON with the closing tag inside a string: the chain ended there.

        Args:
            tags: None where the text is `alone`.
        """
        reasoning, start = "", 0
        answer = text
        if tags is not None:
            before, opened, answer = text.partition(tags.answer[0])
            reasoning, start = _without(before, tags), len(before) + len(opened)
            answer = answer.removesuffix(tags.answer[1])
        start += len(answer) - len(answer.lstrip())
        answer = answer.strip()
        if not finished or not answer or (self.is_json and not _is_json(answer)):
            return Extract(reasoning, None)
        return Extract(reasoning, answer, start)


def json_schema(schema: Json | None) -> AnswerFormat:
    """JSON of a schema; None: any JSON object."""
    content = {"type": "json_schema", "json_schema": {"type": "object"} if schema is None else dict(schema)}
    return AnswerFormat(content, is_json=True)


def one_of(choices: Sequence[str]) -> AnswerFormat:
    """One of some texts, word for word."""
    texts = [{"type": "const_string", "value": choice} for choice in choices]
    return AnswerFormat({"type": "or", "elements": texts}, is_json=False)


def _structural_tag(content: Json) -> str:
    return json.dumps({"type": "structural_tag", "format": content}, ensure_ascii=False)


def _without(text: str, tags: Tags) -> str:
    for tag in (*tags.description, *tags.reasoning):
        text = text.replace(tag, "")
    return text.strip()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
