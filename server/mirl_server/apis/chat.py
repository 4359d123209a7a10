"""The API of chat completions, whose words are the ones that everything here is told in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError
from mirl_core.events import Event
from mirl_core.types import Result
from mirl_server.apis.base import Api
from mirl_server.protocol import Answer, error_body
from mirl_server.requests import ChatRequest, RemoteImage, brings_image, read_request, remote_images
from mirl_server.service import Delegate, Service
from mirl_server.streaming import DONE, KEEP_ALIVE, Voice, data


class ChatVoice:
    """Chat completions and their chunks."""

    silence = KEEP_ALIVE
    end = DONE

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def whole(self, result: Result) -> dict[str, Any]:
        return self._answer.completion(result)

    def lines(self, event: Event) -> Iterable[str]:
        return map(data, self._answer.chunks(event))

    def failure(self, error: MIRLError) -> Iterable[str]:
        return [data(error_body(error))]


class ChatApi(Api):
    """A request of chat completions."""

    def brings_image(self) -> bool:
        return brings_image(self.body.get("messages"))

    def remote_images(self) -> list[RemoteImage]:
        return remote_images(self.body.get("messages"))

    def request(self) -> ChatRequest:
        return read_request(self.body)

    def voice(self, service: Service, asked: ChatRequest, context: RequestContext) -> Voice:
        answer = Answer.new(
            context.request_id,
            asked.model or service.names[0],
            reasoning=asked.include_reasoning is not False,
            reasoning_content=service.settings.reasoning_content,
            include_usage=service.force_usage
            or bool(asked.stream_options and asked.stream_options.include_usage),
        )
        return ChatVoice(answer)

    def delegate(self, service: Service) -> Delegate:
        return service.delegate
