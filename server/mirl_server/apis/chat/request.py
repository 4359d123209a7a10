"""Requests of chat completions, whose fields are those of the gated request."""

from __future__ import annotations

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_server.apis.chat.response import ChatResponse, ChatWriter
from mirl_server.apis.evidence import budget_of
from mirl_server.handling.api import Api
from mirl_server.handling.reading.conversation import RemoteImage, brings_image, remote_images
from mirl_server.handling.reading.fields import read_request
from mirl_server.handling.reading.messages import fit_messages
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.handling.reading.tools import NamedChoice
from mirl_server.handling.service import BackendHandler, Service
from mirl_server.handling.streaming import ResponseWriter


class ChatApi(Api):
    """A request of chat completions."""

    operation = "chat"

    def brings_image(self) -> bool:
        return brings_image(self.body.get("messages"))

    def remote_images(self) -> list[RemoteImage]:
        return remote_images(self.body.get("messages"))

    def fit_to_backend(self, service: Service) -> None:
        super().fit_to_backend(service)
        fit_messages(self.body.get("messages"))

    def read_request(self) -> ChatRequest:
        return read_request(self.body)

    def writer(
        self, service: Service, request: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        response = ChatResponse.new(
            context.request_id,
            service.response_name(request.model),
            budget_of(options),
            named_tool=isinstance(request.tool_choice, NamedChoice),
            reasoning=request.include_reasoning is not False,
            reasoning_content=service.settings.reasoning_content,
            include_usage=service.force_usage
            or bool(request.stream_options and request.stream_options.include_usage),
        )
        return ChatWriter(response)

    def backend_handler(self, service: Service) -> BackendHandler:
        return service.delegate
