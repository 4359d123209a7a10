"""The interface of an API: a body read into a chat request, and results written in the API's own form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError
from mirl_server.handling.reading.conversation import RemoteImage
from mirl_server.handling.reading.fitting import fit_fields
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.service import BackendHandler, Service
from mirl_server.handling.streaming import ResponseWriter


class Api(ABC):
    """One request of one API.

    Args:
        body: the request's JSON, not validated.
    """

    operation: ClassVar[str]
    """The API's name in logs and traces."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body

    @abstractmethod
    def brings_image(self) -> bool:
        """Return whether the newest message is a user's and carries an image. Nothing is validated before."""

    def remote_images(self) -> list[RemoteImage]:
        """Return the images by URL that the backend's own handler would fetch; none where it fetches none."""
        return []

    def fit_to_backend(self, service: Service) -> None:
        """Change the body, in place, into the form in which the backend's handler takes what the gate takes.

        What the gate does not take stays as it is: the handler may know it.
        """
        fit_fields(self.body, service.max_model_len)

    @abstractmethod
    def read_request(self) -> ChatRequest:
        """Return the body as a request of chat completions.

        Raises:
            RequestError: a field is unknown, wrong, or can't be honoured; `rename_error` gives it the API's
                names.
        """

    @abstractmethod
    def writer(
        self, service: Service, request: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        """Return the writer of the response.

        Args:
            request: the request as `read_request` returns it.
            options: the options that the request runs with.
        """

    @abstractmethod
    def backend_handler(self, service: Service) -> BackendHandler:
        """Return the backend's own handler of this API.

        Raises:
            RequestError: the backend has none.
        """

    def rename_error(self, error: MIRLError) -> MIRLError:
        """Return an error of this request with its field under the API's name."""
        return error
