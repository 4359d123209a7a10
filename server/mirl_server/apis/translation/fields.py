"""The fields of an API as chat's fields, and an error about chat's fields as an error about the API's.

Every field of an API is in one table of `Fields`: chat reads its value (`same`, `renamed`), it is refused
unless it asks for nothing (`refused`), ignored (`inert`), or read by the API's own code (`own`). None is
dropped.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_core.errors import MIRLError, RequestError
from mirl_server.handling.reading.fields import Refusals, check_refused, unknown_field

_MESSAGE_PATH = re.compile(r"messages\[\d+\](?:\.content\[\d+\])?")


@dataclass(frozen=True, slots=True)
class Fields:
    """How each field of an API is read."""

    own: frozenset[str]
    """Read by the API's own code."""
    same: frozenset[str]
    """Read by chat, under the same name."""
    renamed: Mapping[str, str]
    """Read by chat, under another name."""
    refused: Refusals
    inert: frozenset[str]
    """Ignored."""

    def names(self) -> frozenset[str]:
        """Return every known field."""
        return self.own | self.same | self.renamed.keys() | self.refused.keys() | self.inert

    def in_chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a body that chat reads, under chat's names.

        Raises:
            RequestError: a field is unknown, or asks for something that can't be honoured.
        """
        chat = {}
        for name, value in body.items():
            if name in self.refused:
                check_refused(name, value, *self.refused[name])
            elif name in self.same:
                chat[name] = value
            elif name in self.renamed:
                chat[self.renamed[name]] = value
            elif name not in self.own and name not in self.inert:
                raise unknown_field(name)
        return chat


class Turns:
    """An API's turns as chat messages, and the path of each in the API's body."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.paths: dict[str, str] = {}
        """The API's path by the path of a chat message or part (`messages[1]`, `messages[1].content[0]`)."""

    def add(self, message: dict[str, Any], path: str, part_paths: Sequence[str] = ()) -> None:
        """Append a message.

        Args:
            path: of the turn in the API's body.
            part_paths: of the message's content parts, where their numbers differ from the API's.
        """
        chat_path = f"messages[{len(self.messages)}]"
        self.paths |= {chat_path: path}
        self.paths |= {f"{chat_path}.content[{j}]": part_path for j, part_path in enumerate(part_paths)}
        self.messages.append(message)


def renamed_error(
    error: MIRLError, names: Mapping[str, str], paths: Mapping[str, str], words: Mapping[str, str]
) -> MIRLError:
    """Return an error about a chat field as an error about the API's field.

    Args:
        names: the API's field by chat's field.
        paths: of `Turns`.
        words: the API's words by chat's words, in remedies.
    """
    if error.param is None:
        return error
    root = re.split(r"[.\[]", error.param, maxsplit=1)[0]
    renamed = copy.copy(error)

    def api_path(match: re.Match[str]) -> str:
        path = match[0]
        if path in paths:
            return paths[path]
        message_path = path.split(".")[0]
        return paths.get(message_path, message_path) + path.removeprefix(message_path)

    param, message = _MESSAGE_PATH.sub(api_path, error.param), _MESSAGE_PATH.sub(api_path, error.message)
    if param == error.param and root in names:
        param = names[root] + error.param.removeprefix(root)
        message = re.sub(rf"\b{root}\b", names[root], message, count=1)
    for chat_words, api_words in words.items():
        message = message.replace(chat_words, api_words)
    renamed.param, renamed.message, renamed.args = param, message, (message,)
    return renamed


def text_of(value: object, path: str) -> str:
    """Return a value that must be text; raise RequestError for `path` where it is not."""
    if not isinstance(value, str):
        raise RequestError(f"{path} must be text", param=path)
    return value


def object_of(value: object, path: str) -> dict[str, Any]:
    """Return a value that must be an object; raise RequestError for `path` where it is not."""
    if not isinstance(value, dict):
        raise RequestError(f"{path} must be an object", param=path)
    return value
