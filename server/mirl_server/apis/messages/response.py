"""Messages of the Anthropic API and their events.

Content blocks: `thinking` with the description and the reasoning, then `text`, or a `tool_use` for each call
of an answer that is calls. There is always one choice. A stream carries the `mirl` objects of events on
`ping`, which clients skip, and the evidence on `message_delta`; a whole message carries the evidence as its
`mirl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mirl_core.algorithm import answers
from mirl_core.config import Tags
from mirl_core.errors import MIRLError
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import Finished, Started
from mirl_core.types import Result
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
from mirl_server.handling.streaming import data
from mirl_server.http.errors import messages_error


class MessagesWriter:
    """The response writer of one request.

    Args:
        reasoning: whether the answer has a thinking block.
        stops: the client's stop sequences.
        tags: the model's.
        budget: of the request.
        rename_error: returns an error with its field under the API's name.
    """

    keep_alive = data({"type": "ping"}, "ping")
    last_line = ""

    def __init__(
        self,
        request_id: str,
        model: str,
        *,
        reasoning: bool,
        stops: tuple[str, ...],
        tags: Tags,
        budget: Budget,
        rename_error: Callable[[MIRLError], MIRLError],
    ) -> None:
        self._message: Json = {
            "id": f"msg_{request_id}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._reasoning = reasoning
        self._stops = stops
        self._tags = tags
        self._budget = budget
        self._rename_error = rename_error

    def whole(self, results: Sequence[Result]) -> Json:
        (result,) = results
        return {
            **self._message,
            "content": self._content(result),
            **self._stop(result),
            "usage": _usage(result.prompt_tokens, result.completion_tokens),
            "mirl": self._evidence(result),
        }

    def lines(self, choice_event: ChoiceEvent) -> Iterable[str]:
        event = choice_event.event
        if isinstance(event, Started):
            yield _event("message_start", message={**self._message, "usage": _usage(event.prompt_tokens, 0)})
            started = started_json(event, self._budget)
            yield _event("ping", mirl=started)
        elif not isinstance(event, Finished):
            yield _event("ping", mirl=stage_event(event))
        else:
            yield from self._finished(event.result)

    def failure(self, error: MIRLError) -> Iterable[str]:
        yield data(messages_error(self._rename_error(error)), "error")

    def _finished(self, result: Result) -> Iterator[str]:
        for index, block in enumerate(self._content(result)):
            # A block's content is in the field named by its type, except a call's input.
            kind = "input" if block["type"] == "tool_use" else block["type"]
            empty = {**block, kind: {} if kind == "input" else ""}
            yield _event("content_block_start", index=index, content_block=empty)
            if kind == "input":
                text = json.dumps(block[kind], ensure_ascii=False)
                delta = {"type": "input_json_delta", "partial_json": text}
            else:
                delta = {"type": f"{kind}_delta", kind: block[kind]}
            if block[kind] or kind == "input":
                yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
        usage = _usage(result.prompt_tokens, result.completion_tokens)
        yield _event("message_delta", delta=self._stop(result), usage=usage, mirl=self._evidence(result))
        yield _event("message_stop")

    def _content(self, result: Result) -> list[Json]:
        thinking = "\n\n".join(reasoning_texts(result))
        blocks: list[Json] = []
        if self._reasoning and thinking:
            # The signature is empty: the server does not check thinking blocks that come back.
            blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if result.representative.calls:
            return [*blocks, *map(_tool_use, calls_json(result.content))]
        return [*blocks, {"type": "text", "text": result.content}]

    def _evidence(self, result: Result) -> Json:
        return {"budget": dict(self._budget), **evidence(result)}

    def _stop(self, result: Result) -> Json:
        if finish_reason(result) != "stop":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if result.representative.calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        stopped = self._stopped_by(result)
        return {"stop_reason": "stop_sequence" if stopped else "end_turn", "stop_sequence": stopped}

    def _stopped_by(self, result: Result) -> str | None:
        """Return the client's stop sequence that cut the answer."""
        chain = result.representative
        _, uncut = answers.extract(chain.text, self._tags, chain.finish_reason == "stop")
        if chain.answer is None or uncut is None:
            return None
        rest = uncut.removeprefix(chain.answer)
        return next((stop for stop in self._stops if rest.startswith(stop)), None)


def _tool_use(call: Json) -> Json:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": function["name"],
        "input": _input(function["arguments"]),
    }


def _input(arguments: str) -> Json:
    """Return a call's arguments as an object, even where the model wrote none."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _usage(prompt: int, sampled: int) -> Json:
    return {"input_tokens": prompt, "output_tokens": sampled}


def _event(kind: str, **fields: Any) -> str:
    return data({"type": kind, **fields}, kind)
