"""Chat completions and their chunks: OpenAI's schema with a `mirl` object."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mirl_core.errors import MIRLError
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import Event, Finished, Started
from mirl_core.types import ContentToken, Result
from mirl_server.apis.evidence import (
    Budget,
    Json,
    evidence,
    finish_reason,
    reasoning_texts,
    stage_event,
    started_json,
)
from mirl_server.handling.reading.tools import calls_json
from mirl_server.handling.streaming import DONE, KEEP_ALIVE, data
from mirl_server.http.errors import error_body


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """The fixed part of one response, and the JSON of its completion or its chunks."""

    id: str
    model: str
    """The model's name in the request."""
    created: int
    """Unix time in seconds."""
    reasoning: bool = True
    """Whether the message carries the reasoning."""
    reasoning_content: bool = True
    """Whether it carries the reasoning a second time, under the older name."""
    include_usage: bool = False
    """Whether a stream ends with its usage."""
    named_tool: bool = False
    """Whether the request named the tool to call: such an answer ends with `stop`, as OpenAI's does."""
    budget: Budget = field(default_factory=dict)

    @classmethod
    def new(cls, request_id: str, model: str, budget: Budget, **flags: bool) -> ChatResponse:
        """Return the response to a request, created now."""
        return cls(f"chatcmpl-{request_id}", model, int(time.time()), budget=budget, **flags)

    def completion(self, results: Sequence[Result]) -> Json:
        """Return the body of a response that does not stream, of one result per choice.

        The evidence of a single choice is the `mirl` object itself, that of several is its `choices`.
        """
        evidences = [evidence(result) for result in results]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self.choice(index, result) for index, result in enumerate(results)],
            "usage": usage_json(results),
            "mirl": {
                "budget": dict(self.budget),
                **(evidences[0] if len(evidences) == 1 else {"choices": evidences}),
            },
        }

    def choice(self, index: int, result: Result) -> Json:
        """Return a choice of a response that does not stream."""
        message = {
            "role": "assistant",
            "content": result.content,
            "refusal": None,
            **self._reasoning_fields(result),
        }
        if result.representative.calls:
            message |= {"content": None, "tool_calls": calls_json(result.content)}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs_json(result.content_tokens),
            "finish_reason": self._finish_reason(result),
        }

    def chunks(self, index: int, event: Event) -> list[Json]:
        """Return the chunks of an event of choice `index`."""
        if isinstance(event, Started):
            delta: Json = {"role": "assistant", "content": ""}
            return [self._chunk(index, delta, started_json(event, self.budget))]
        if not isinstance(event, Finished):
            return [self._chunk(index, {}, stage_event(event))]
        result = event.result
        reasoning = self._reasoning_fields(result)
        chunks = [self._chunk(index, reasoning)] if any(reasoning.values()) else []
        content: Json = {"content": result.content}
        if result.representative.calls:
            calls = calls_json(result.content)
            content = {"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]}
        chunks.append(self._chunk(index, content, logprobs=logprobs_json(result.content_tokens)))
        finished = {"event": "finished", "budget": dict(self.budget), **evidence(result)}
        chunks.append(self._chunk(index, {}, finished, self._finish_reason(result)))
        return chunks

    def usage_chunk(self, results: Sequence[Result]) -> Json:
        """Return a stream's last chunk, with the usage of all choices and none of them."""
        return {**self._frame([]), "usage": usage_json(results)}

    def _reasoning_fields(self, result: Result) -> Json:
        """Return the message's fields of description and reasoning."""
        if not self.reasoning:
            return {}
        text = "\n\n".join(reasoning_texts(result))
        return {"reasoning": text, **({"reasoning_content": text} if self.reasoning_content else {})}

    def _finish_reason(self, result: Result) -> str:
        calls = result.representative.calls and not self.named_tool
        return "tool_calls" if calls else finish_reason(result)

    def _chunk(
        self,
        index: int,
        delta: Json,
        mirl: Json | None = None,
        finish: str | None = None,
        logprobs: Json | None = None,
    ) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = self._frame([choice])
        return chunk if mirl is None else {**chunk, "mirl": mirl}

    def _frame(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


class ChatWriter:
    """The response writer of chat completions."""

    keep_alive = KEEP_ALIVE
    last_line = DONE

    def __init__(self, response: ChatResponse) -> None:
        self._response = response

    def whole(self, results: Sequence[Result]) -> Json:
        return self._response.completion(results)

    def lines(self, choice_event: ChoiceEvent) -> Iterable[str]:
        chunks = self._response.chunks(choice_event.index, choice_event.event)
        if choice_event.results is not None and self._response.include_usage:
            chunks.append(self._response.usage_chunk(choice_event.results))
        return map(data, chunks)

    def failure(self, error: MIRLError) -> Iterable[str]:
        return [data(error_body(error))]


def logprobs_json(tokens: Sequence[ContentToken] | None) -> Json | None:
    """Return a choice's `logprobs`, of the tokens of its content; None where the request asks for none."""
    if tokens is None:
        return None
    content = [
        {
            **_token_json(token.text, token.logprob),
            "top_logprobs": [_token_json(text, logprob) for text, logprob in token.likeliest],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token_json(text: str, logprob: float) -> dict[str, Any]:
    # JSON has no infinity; vLLM and OpenAI send -9999 too.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode(errors="replace"))}


def usage_json(results: Sequence[Result]) -> Json:
    """Return the usage: the prompt's tokens once for all choices, and every sampled token once."""
    prompt = results[0].prompt_tokens
    completion = sum(result.completion_tokens for result in results)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
