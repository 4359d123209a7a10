"""What the Responses API says: response objects and their events.

Output items: `reasoning`, whose summary has the description and the reasoning, then `message`, or a
`function_call` for each call of an answer that is calls. There is always one choice. An event's `mirl` rides
on `response.in_progress`, a type that every client knows; the evidence is the response's `mirl`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mirl_core.errors import MIRLError
from mirl_core.pipeline.events import Finished, Started
from mirl_core.types import Result
from mirl_server.apis.protocol import Json, error_body, evidence, finish_reason, stage_event
from mirl_server.handling.choices import IndexedEvent
from mirl_server.handling.streaming import KEEP_ALIVE, data
from mirl_server.handling.tools import calls_json

_ECHOED = ("instructions", "max_output_tokens", "metadata", "reasoning", "safety_identifier", "user")


class ResponsesWriter:
    """The answer to one request.

    Args:
        body: the request, valid.
        temperature, top_p: what it is sampled with.
        reasoning: whether the answer carries its reasoning.
        budget: N, k and m that the request got.
        named: an error with its field called as the API calls it.
    """

    silence = KEEP_ALIVE
    end = ""

    def __init__(
        self,
        body: Mapping[str, Any],
        request_id: str,
        model: str,
        *,
        temperature: float,
        top_p: float,
        reasoning: bool,
        budget: Mapping[str, int],
        named: Callable[[MIRLError], MIRLError],
    ) -> None:
        self._id = request_id
        self._reasoning = reasoning
        self._budget = dict(budget)
        self._named = named
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
            "mirl": {"budget": self._budget, **evidence(result)},
        }

    def lines(self, told: IndexedEvent) -> Iterable[str]:
        _, event = told
        if isinstance(event, Started):
            yield self._event("response.created", response=self._response)
            begun = {"event": "started", "prompt_tokens": event.prompt_tokens, "budget": self._budget}
            yield self._event("response.in_progress", response=self._response, mirl=begun)
        elif not isinstance(event, Finished):
            yield self._event("response.in_progress", response=self._response, mirl=stage_event(event))
        else:
            tell = {
                "reasoning": self._reasoning_item,
                "message": self._message,
                "function_call": self._function_call,
            }
            output = self._output(event.result)
            for index, item in enumerate(output):
                yield from tell[item["type"]](index, item)
            whole = self._ended(event.result, output)
            yield self._event(f"response.{whole['status']}", response=whole)

    def failure(self, error: MIRLError) -> Iterable[str]:
        told = error_body(self._named(error))["error"]
        yield self._event("error", code=told["code"], message=told["message"], param=told["param"])
        # The API's own list of codes has one for whatever is not the request's fault.
        failed = {"code": "server_error", "message": told["message"]}
        yield self._event("response.failed", response={**self._response, "status": "failed", "error": failed})

    def _output(self, result: Result) -> list[Json]:
        # A chain that was cut short makes its message incomplete, not the description that it rests on.
        status = "completed" if finish_reason(result) == "stop" else "incomplete"
        texts = (result.description.text if result.description else "", result.reasoning)
        summary = [{"type": "summary_text", "text": text} for text in texts if text]
        items: list[Json] = []
        if self._reasoning and summary:
            items.append(
                {"type": "reasoning", "id": f"rs_{self._id}", "summary": summary, "status": "completed"}
            )
        if result.representative.calls:
            calls = enumerate(calls_json(result.content))
            return [*items, *(self._call(place, one) for place, one in calls)]
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

    def _call(self, place: int, call: Json) -> Json:
        return {
            "type": "function_call",
            "id": f"fc_{place}_{self._id}",
            "call_id": call["id"],
            **call["function"],
            "status": "completed",
        }

    def _function_call(self, index: int, item: Json) -> Iterator[str]:
        at = {"item_id": item["id"], "output_index": index}
        arguments, name = item["arguments"], item["name"]
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.function_call_arguments.delta", **at, delta=arguments)
        yield self._event("response.function_call_arguments.done", **at, name=name, arguments=arguments)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _reasoning_item(self, index: int, item: Json) -> Iterator[str]:
        at = {"item_id": item["id"], "output_index": index}
        begun = {**item, "summary": [], "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        for number, part in enumerate(item["summary"]):
            here = {**at, "summary_index": number}
            yield self._event("response.reasoning_summary_part.added", **here, part={**part, "text": ""})
            yield self._event("response.reasoning_summary_text.delta", **here, delta=part["text"])
            yield self._event("response.reasoning_summary_text.done", **here, text=part["text"])
            yield self._event("response.reasoning_summary_part.done", **here, part=part)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _message(self, index: int, item: Json) -> Iterator[str]:
        here = {"item_id": item["id"], "output_index": index, "content_index": 0}
        (part,) = item["content"]
        begun = {**item, "content": [], "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.content_part.added", **here, part={**part, "text": ""})
        if part["text"]:
            yield self._event("response.output_text.delta", **here, delta=part["text"], logprobs=[])
        yield self._event("response.output_text.done", **here, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **here, part=part)
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
        # Whatever was sampled beside the chain that is returned.
        "output_tokens_details": {"reasoning_tokens": completion - result.representative.tokens},
        "total_tokens": prompt + completion,
    }
