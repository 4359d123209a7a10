"""The API of chat completions, whose words are the ones that everything here is told in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import MIRLError
from mirl_core.types import Result
from mirl_server.apis.base import Api
from mirl_server.apis.protocol import Answer, budget, error_body
from mirl_server.handling.choices import IndexedEvent, Results
from mirl_server.handling.requests import (
    ChatRequest,
    RemoteImage,
    brings_image,
    read_request,
    remote_images,
)
from mirl_server.handling.service import Delegate, Service
from mirl_server.handling.streaming import DONE, KEEP_ALIVE, ResponseWriter, data
from mirl_server.handling.tools import NamedChoice


class ChatWriter:
    """Chat completions and their chunks."""

    silence = KEEP_ALIVE
    end = DONE

    def __init__(self, answer: Answer, n: int) -> None:
        self._answer = answer
        self._results = Results(n)

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        return self._answer.completion(results)

    def lines(self, told: IndexedEvent) -> Iterable[str]:
        self._results.note(*told)
        chunks = self._answer.chunks(*told)
        if self._results.complete and self._answer.include_usage:
            chunks.append(self._answer.usage_chunk(self._results.in_order))
        return map(data, chunks)

    def failure(self, error: MIRLError) -> Iterable[str]:
        return [data(error_body(error))]


class ChatApi(Api):
    """A request of chat completions."""

    operation = "chat"

    def brings_image(self) -> bool:
        return brings_image(self.body.get("messages"))

    def remote_images(self) -> list[RemoteImage]:
        return remote_images(self.body.get("messages"))

    def request(self) -> ChatRequest:
        return read_request(self.body)

    def voice(
        self, service: Service, asked: ChatRequest, options: MIRLOptions, context: RequestContext
    ) -> ResponseWriter:
        answer = Answer.new(
            context.request_id,
            asked.model or service.names[0],
            budget(options),
            named_tool=isinstance(asked.tool_choice, NamedChoice),
            reasoning=asked.include_reasoning is not False,
            reasoning_content=service.settings.reasoning_content,
            include_usage=service.force_usage
            or bool(asked.stream_options and asked.stream_options.include_usage),
        )
        return ChatWriter(answer, asked.n or 1)

    def delegate(self, service: Service) -> Delegate:
        return service.delegate
