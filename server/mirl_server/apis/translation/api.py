"""An API whose requests are translated into chat's fields, and whose errors are translated back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from mirl_core.errors import MIRLError
from mirl_server.apis.translation.fields import Turns, renamed_error
from mirl_server.handling.api import Api
from mirl_server.handling.reading.fields import read_request
from mirl_server.handling.reading.request import ChatRequest


class TranslatedApi(Api):
    """One request of an API with fields of its own."""

    field_names: ClassVar[Mapping[str, str]]
    """The API's field by chat's field."""
    remedy_words: ClassVar[Mapping[str, str]]
    """The API's words by chat's words, in remedies."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        self._paths: dict[str, str] | None = None

    @abstractmethod
    def chat_fields(self) -> dict[str, Any]:
        """Return the body's fields, except its turns, as chat's fields.

        Raises:
            RequestError: with the API's names.
        """

    @abstractmethod
    def turns(self) -> Turns:
        """Return the body's turns as chat's messages.

        Raises:
            RequestError: with the API's names.
        """

    def read_request(self) -> ChatRequest:
        chat, turns = self.chat_fields(), self.turns()
        # Errors of `read_request` and of everything after it have chat's names.
        self._paths = turns.paths
        return read_request(chat | {"messages": turns.messages})

    def rename_error(self, error: MIRLError) -> MIRLError:
        if self._paths is None:
            return error
        return renamed_error(error, self.field_names, self._paths, self.remedy_words)
