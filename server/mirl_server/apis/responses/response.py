"""Response objects of the Responses API and their events.

Output items: `reasoning`, whose summary has the description and the reasoning, then `message`, or a
`function_call` for each call of an answer that is calls. There is always one choice. A stream carries the
`mirl` objects of events on `response.in_progress`, a type that every client knows; the evidence is the
response's `mirl`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

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
from mirl_server.handling.streaming import KEEP_ALIVE, data
from mirl_server.http.errors import error_body

_ECHOED = ("instructions", "max_output_tokens", "metadata", "reasoning", "safety_identifier", "user")


class ResponsesWriter:
    """The response writer of one request.

    Args:
        body: the request, valid.
        temperature, top_p: of the request's sampling.
        reasoning: whether the answer carries its reasoning.
        budget: of the request.
        rename_error: returns an error with its field under the API's name.
    """

    keep_alive = KEEP_ALIVE
    last_line = ""

    def __init__(
        self,
        body: Mapping[str, Any],
        request_id: str,
        model: str,
        *,
        temperature: float,
        top_p: float,
        reasoning: bool,
        budget: Budget,
        rename_error: Callable[[MIRLError], MIRLError],
    ) -> None:
        self._id = request_id
        self._reasoning = reasoning
        self._budget = budget
        self._rename_error = rename_error
        self._sequence = 0
        self._response: Json = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            **{name: body.get(name) for name in _ECHOED},
            "max_tool_calls": None,
            "model": model,
            "output": [],
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "temperature": temperature,
            "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_logprobs": 0,
            "top_p": top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def whole(self, results: Sequence[Result]) -> Json:
        (result,) = results
        return self._ended(result, self._output(result))

    def _ended(self, result: Result, output: list[Json]) -> Json:
        whole = finish_reason(result) == "stop"
        return {
            **self._response,
            "status": "completed" if whole else "incomplete",
            "completed_at": int(time.time()) if whole else None,
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": output,
            "usage": _usage(result),
            "mirl": {"budget": dict(self._budget), **evidence(result)},
        }

    def lines(self, choice_event: ChoiceEvent) -> Iterable[str]:
        event = choice_event.event
        if isinstance(event, Started):
            yield self._event("response.created", response=self._response)
            started = started_json(event, self._budget)
            yield self._event("response.in_progress", response=self._response, mirl=started)
        elif not isinstance(event, Finished):
            yield self._event("response.in_progress", response=self._response, mirl=stage_event(event))
        else:
            writers = {
                "reasoning": self._reasoning_events,
                "message": self._message_events,
                "function_call": self._function_call_events,
            }
            output = self._output(event.result)
            for index, item in enumerate(output):
                yield from writers[item["type"]](index, item)
            whole = self._ended(event.result, output)
            yield self._event(f"response.{whole['status']}", response=whole)

    def failure(self, error: MIRLError) -> Iterable[str]:
        fields = error_body(self._rename_error(error))["error"]
        yield self._event("error", code=fields["code"], message=fields["message"], param=fields["param"])
        # The API's only code for errors that are not the request's fault.
        failed = {"code": "server_error", "message": fields["message"]}
        yield self._event("response.failed", response={**self._response, "status": "failed", "error": failed})

    def _output(self, result: Result) -> list[Json]:
        # A chain that was cut makes its message incomplete, not its description.
        status = "completed" if finish_reason(result) == "stop" else "incomplete"
        summary = [{"type": "summary_text", "text": text} for text in reasoning_texts(result)]
        items: list[Json] = []
        if self._reasoning and summary:
            items.append(
                {"type": "reasoning", "id": f"rs_{self._id}", "summary": summary, "status": "completed"}
            )
        if result.representative.calls:
            calls = enumerate(calls_json(result.content))
            return [*items, *(self._call(number, call) for number, call in calls)]
        text = {"type": "output_text", "text": result.content, "annotations": [], "logprobs": []}
        items.append(
            {
                "type": "message",
                "id": f"msg_{self._id}",
                "role": "assistant",
                "status": status,
                "content": [text],
            }
        )
        return items

    def _call(self, number: int, call: Json) -> Json:
        return {
            "type": "function_call",
            "id": f"fc_{number}_{self._id}",
            "call_id": call["id"],
            **call["function"],
            "status": "completed",
        }

    def _function_call_events(self, index: int, item: Json) -> Iterator[str]:
        position = {"item_id": item["id"], "output_index": index}
        arguments, name = item["arguments"], item["name"]
        empty = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=empty)
        yield self._event("response.function_call_arguments.delta", **position, delta=arguments)
        yield self._event("response.function_call_arguments.done", **position, name=name, arguments=arguments)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _reasoning_events(self, index: int, item: Json) -> Iterator[str]:
        position = {"item_id": item["id"], "output_index": index}
        empty = {**item, "summary": [], "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=empty)
        for number, part in enumerate(item["summary"]):
            part_position = {**position, "summary_index": number}
            yield self._event(
                "response.reasoning_summary_part.added", **part_position, part={**part, "text": ""}
            )
            yield self._event("response.reasoning_summary_text.delta", **part_position, delta=part["text"])
            yield self._event("response.reasoning_summary_text.done", **part_position, text=part["text"])
            yield self._event("response.reasoning_summary_part.done", **part_position, part=part)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _message_events(self, index: int, item: Json) -> Iterator[str]:
        part_position = {"item_id": item["id"], "output_index": index, "content_index": 0}
        (part,) = item["content"]
        empty = {**item, "content": [], "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=empty)
        yield self._event("response.content_part.added", **part_position, part={**part, "text": ""})
        if part["text"]:
            yield self._event("response.output_text.delta", **part_position, delta=part["text"], logprobs=[])
        yield self._event("response.output_text.done", **part_position, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **part_position, part=part)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **fields: Any) -> str:
        line = data({"type": kind, "sequence_number": self._sequence, **fields}, kind)
        self._sequence += 1
        return line


def _usage(result: Result) -> Json:
    prompt, completion = result.prompt_tokens, result.completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        # All sampled tokens but those of the returned chain.
        "output_tokens_details": {"reasoning_tokens": completion - result.representative.tokens},
        "total_tokens": prompt + completion,
    }
