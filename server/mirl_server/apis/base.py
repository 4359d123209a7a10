"""What an API is to the way through the gate: a body read into chat's words, a result told in its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi.responses import JSONResponse

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError
from mirl_server.apis.protocol import error_response
from mirl_server.apis.translation.fields import Turns, renamed_error
from mirl_server.handling.requests import ChatRequest, RemoteImage, read_request
from mirl_server.handling.service import Delegate, Service
from mirl_server.handling.streaming import ResponseWriter


class Api(ABC):
    """One request by one API.

    Args:
        body: the request's JSON, not validated.
    """

    operation: ClassVar[str]
    """What logs and traces call it."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body

    @abstractmethod
    def brings_image(self) -> bool:
        """Whether the newest message is a user's and carries an image, before anything is validated."""

    def remote_images(self) -> list[RemoteImage]:
        """Images by URL that the backend's own handler would fetch. None where it refuses to."""
        return []

    @abstractmethod
    def request(self) -> ChatRequest:
        """The body as a request of chat completions.

        Raises:
            RequestError: a field is unknown, wrong, or can't be honoured; `named` calls it as the API does.
        """

    @abstractmethod
    def voice(
        self, service: Service, asked: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        """How to answer it. `asked` is what `request` gave, `options` the knobs that it got."""

    @abstractmethod
    def delegate(self, service: Service) -> Delegate:
        """The backend's own handler of this API."""

    def named(self, error: MIRLError) -> MIRLError:
        """An error of this request, its field called as this API calls it."""
        return error

    @staticmethod
    def refusal(error: MIRLError) -> JSONResponse:
        """The response that a failed request gets."""
        return error_response(error)


class TranslatedApi(Api):
    """A request of an API with words of its own: read into chat's, its errors told in the API's again."""

    names: ClassVar[Mapping[str, str]]
    """chat's fields: the API's."""
    words: ClassVar[Mapping[str, str]]
    """What remedies say in chat's words: the API's."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        self._places: dict[str, str] | None = None

    @abstractmethod
    def chat_fields(self) -> dict[str, Any]:
        """What the body says beside its turns, as chat's fields.

        Raises:
            RequestError: in the API's words.
        """

    @abstractmethod
    def turns(self) -> Turns:
        """The body's turns as chat's messages.

        Raises:
            RequestError: in the API's words.
        """

    def request(self) -> ChatRequest:
        chat, turns = self.chat_fields(), self.turns()
        # From here on errors are in chat's words.
        self._places = turns.places
        return read_request(chat | {"messages": turns.messages})

    def named(self, error: MIRLError) -> MIRLError:
        return error if self._places is None else renamed_error(error, self.names, self._places, self.words)
