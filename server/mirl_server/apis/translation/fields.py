"""An API's fields in chat's words, and an error about chat's words back in the API's.

Every field of an API is in one table of `Fields`: its value is chat's, by chat's rules (`same`, `renamed`),
refused unless it asks for nothing, inert, or read by the API's own code. None is dropped.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_core.errors import MIRLError, RequestError

PLAIN = "leave it out, or ask the model's ':direct' name"
Refused = Mapping[str, tuple[tuple[object, ...], str]]
"""field: (values that ask for nothing, the remedy)"""
_MESSAGE = re.compile(r"messages\[\d+\](?:\.content\[\d+\])?")


@dataclass(frozen=True, slots=True)
class Fields:
    """Where each field of an API goes."""

    own: frozenset[str]
    """Read by the API's own code."""
    same: frozenset[str]
    """Chat has them under the same name, and decides about them."""
    renamed: Mapping[str, str]
    """Chat has them under another name."""
    refused: Refused
    inert: frozenset[str]

    def names(self) -> frozenset[str]:
        """Every field that has a place."""
        return self.own | self.same | self.renamed.keys() | self.refused.keys() | self.inert

    def in_chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Those fields of a body that are chat's, by chat's names.

        Raises:
            RequestError: a field is unknown, or asks for something that can't be given.
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
                raise RequestError(f"unknown field '{name[:64]}'; leave it out", param=name[:64])
        return chat


class Turns:
    """An API's turns as chat messages, and where each of them came from."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: dict[str, str] = {}
        """chat's messages and parts (`messages[1]`, `messages[1].content[0]`): their places in the API."""

    def add(self, message: dict[str, Any], where: str, parts: Sequence[str] = ()) -> None:
        """The next message; `parts` are the places of its content parts, where those were moved."""
        here = f"messages[{len(self.messages)}]"
        self.places |= {here: where} | {f"{here}.content[{j}]": place for j, place in enumerate(parts)}
        self.messages.append(message)


def check_refused(name: str, value: object, neutral: tuple[object, ...], remedy: str) -> None:
    """RequestError where a field asks for what can't be given."""
    if value is not None and value not in neutral:
        raise RequestError(f"{name} is not supported for gated requests; {remedy}", param=name)


def renamed_error(
    error: MIRLError, names: Mapping[str, str], places: Mapping[str, str], words: Mapping[str, str]
) -> MIRLError:
    """The same error with its field called as an API calls it.

    Args:
        names: chat's fields: the API's.
        places: of `Turns`.
        words: what remedies say in chat's words: the API's.
    """
    if error.param is None:
        return error
    root = re.split(r"[.\[]", error.param, maxsplit=1)[0]
    told = copy.copy(error)

    def place(found: re.Match[str]) -> str:
        message = found[0].split(".")[0]
        if found[0] in places:
            return places[found[0]]
        return places.get(message, message) + found[0].removeprefix(message)

    param, message = _MESSAGE.sub(place, error.param), _MESSAGE.sub(place, error.message)
    if param == error.param and root in names:
        param = names[root] + error.param.removeprefix(root)
        message = re.sub(rf"\b{root}\b", names[root], message, count=1)
    for chats, own in words.items():
        message = message.replace(chats, own)
    told.param, told.message, told.args = param, message, (message,)
    return told


def text_of(given: object, where: str) -> str:
    """A text; RequestError where it is none."""
    if not isinstance(given, str):
        raise RequestError(f"{where} must be text", param=where)
    return given


def object_of(given: object, where: str) -> dict[str, Any]:
    """An object; RequestError where it is none."""
    if not isinstance(given, dict):
        raise RequestError(f"{where} must be an object", param=where)
    return given
