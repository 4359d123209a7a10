"""What an API is to the way through the gate: a body read into chat's words, a result told in its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from fastapi.responses import JSONResponse

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError
from mirl_server.protocol import error_response
from mirl_server.requests import ChatRequest, RemoteImage
from mirl_server.service import Delegate, Service
from mirl_server.streaming import Voice


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
    ) -> Voice:
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
