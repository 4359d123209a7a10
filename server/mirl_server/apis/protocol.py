"""What the server says: the OpenAI schema with a `mirl` object, and one table from errors to statuses.

A failure never comes as a 200: every leaf of `mirl_core.errors` has a status here, and a test covers each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from mirl_core.config import MIRLOptions
from mirl_core.errors import (
    AuthenticationError,
    BodyTimeoutError,
    BusyError,
    ConfigError,
    ContextLengthError,
    DeadlineError,
    DrainingError,
    EngineDeadError,
    EngineError,
    ImageError,
    MIRLError,
    ModelNotFoundError,
    RateLimitError,
    RequestError,
    RequestTooLargeError,
    ServerError,
    TrainingError,
)
from mirl_core.pipeline.events import (
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Finished,
    Gated,
    Started,
)
from mirl_core.types import Chain, ContentToken, Description, Result, StageUsage, Vote
from mirl_server.handling.tools import calls_json

Json = dict[str, Any]

STATUSES: Mapping[type[MIRLError], tuple[int, str, str | None]] = {
    # error: (status, error.type, error.code)
    RequestError: (400, "invalid_request_error", None),
    ImageError: (400, "invalid_request_error", "invalid_image"),
    ContextLengthError: (400, "invalid_request_error", "context_length_exceeded"),
    ModelNotFoundError: (404, "invalid_request_error", "model_not_found"),
    RequestTooLargeError: (413, "invalid_request_error", "request_too_large"),
    BodyTimeoutError: (408, "timeout_error", "request_timeout"),
    AuthenticationError: (401, "invalid_request_error", "invalid_api_key"),
    BusyError: (429, "rate_limit_error", "overloaded"),
    RateLimitError: (429, "rate_limit_error", "rate_limit_exceeded"),
    DrainingError: (503, "server_error", "draining"),
    ConfigError: (500, "server_error", "misconfigured"),
    EngineError: (500, "server_error", "engine_error"),
    EngineDeadError: (503, "server_error", "engine_dead"),
    DeadlineError: (504, "timeout_error", "deadline_exceeded"),
    # No server raises it; the table covers the tree.
    ServerError: (502, "server_error", "bad_gateway"),
    TrainingError: (500, "server_error", "training_failed"),
}


def error_status(error: MIRLError) -> int:
    """The HTTP status of an error."""
    return STATUSES[type(error)][0]


def error_body(error: MIRLError) -> Json:
    """The OpenAI error object of an error."""
    _, kind, code = STATUSES[type(error)]
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def error_response(error: MIRLError) -> JSONResponse:
    """The response that a failed request gets."""
    status = error_status(error)
    headers: dict[str, str] = {}
    if isinstance(error, BusyError) and error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    elif status == 503:
        # It means a restart of the engine, or of the server: by then a client may try again.
        headers["Retry-After"] = "5"
    elif isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is fixed about one response: id, model as asked for, time, and what to leave out."""

    id: str
    model: str
    created: int
    reasoning: bool = True
    """Whether the message carries the reasoning."""
    reasoning_content: bool = True
    """Whether it carries it a second time under the older name."""
    include_usage: bool = False
    named_tool: bool = False
    """Whether the request named the tool to call: such an answer ends with `stop`, as OpenAI has it."""
    budget: Mapping[str, int] = field(default_factory=dict)
    """N, k and m that the request got, whoever chose them."""

    @classmethod
    def new(cls, request_id: str, model: str, budget: Mapping[str, int], **what: bool) -> Answer:
        return cls(f"chatcmpl-{request_id}", model, int(time.time()), budget=budget, **what)

    def completion(self, results: Sequence[Result]) -> Json:
        """The whole response of a request that does not stream, of one result per choice.

        The evidence of a single choice is the `mirl` object itself, that of several its `choices`.
        """
        told = [evidence(result) for result in results]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self.choice(index, result) for index, result in enumerate(results)],
            "usage": usage(*results),
            "mirl": {"budget": dict(self.budget), **(told[0] if len(told) == 1 else {"choices": told})},
        }

    def choice(self, index: int, result: Result) -> Json:
        """One choice of a response that does not stream."""
        message = {"role": "assistant", "content": result.content, "refusal": None, **self.thinking(result)}
        if result.representative.calls:
            message |= {"content": None, "tool_calls": calls_json(result.content)}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs_json(result.content_tokens),
            "finish_reason": self.finish(result),
        }

    def finish(self, result: Result) -> str:
        """A choice's finish reason."""
        called = result.representative.calls and not self.named_tool
        return "tool_calls" if called else finish_reason(result)

    def thinking(self, result: Result) -> Json:
        """The message's fields that hold description and reasoning."""
        if not self.reasoning:
            return {}
        described = result.description.text if result.description else ""
        text = "\n\n".join(part for part in (described, result.reasoning) if part)
        return {"reasoning": text, **({"reasoning_content": text} if self.reasoning_content else {})}

    def chunk(
        self,
        index: int,
        delta: Json,
        mirl: Json | None = None,
        finish: str | None = None,
        logprobs: Json | None = None,
    ) -> Json:
        """One chunk of a stream, about choice `index`."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = self._frame([choice])
        return chunk if mirl is None else {**chunk, "mirl": mirl}

    def chunks(self, index: int, event: Event) -> list[Json]:
        """The chunks that tell one event of choice `index`."""
        if isinstance(event, Started):
            first: Json = {"role": "assistant", "content": ""}
            begun = {"event": "started", "prompt_tokens": event.prompt_tokens, "budget": dict(self.budget)}
            return [self.chunk(index, first, begun)]
        if not isinstance(event, Finished):
            return [self.chunk(index, {}, stage_event(event))]
        result = event.result
        thinking = self.thinking(result)
        chunks = [self.chunk(index, thinking)] if any(thinking.values()) else []
        logprobs = logprobs_json(result.content_tokens)
        said: Json = {"content": result.content}
        if result.representative.calls:
            calls = calls_json(result.content)
            said = {"tool_calls": [{"index": place, **call} for place, call in enumerate(calls)]}
        chunks.append(self.chunk(index, said, logprobs=logprobs))
        ending = {"event": "finished", "budget": dict(self.budget), **evidence(result)}
        chunks.append(self.chunk(index, {}, ending, self.finish(result)))
        return chunks

    def usage_chunk(self, results: Sequence[Result]) -> Json:
        """The last chunk of a stream that tells its usage: of all choices, so there is none in it."""
        return {**self._frame([]), "usage": usage(*results)}

    def _frame(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def finish_reason(result: Result) -> str:
    """The chain's finish reason in OpenAI's words; a chain that the deadline cut is as cut as a long one."""
    return "stop" if result.finish_reason == "stop" else "length"


def logprobs_json(tokens: Sequence[ContentToken] | None) -> Json | None:
    """A choice's `logprobs`: the tokens of its content; None where they weren't asked for."""
    if tokens is None:
        return None
    content = [
        {
            **_token_json(one.text, one.logprob),
            "top_logprobs": [_token_json(text, logprob) for text, logprob in one.likeliest],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def _token_json(text: str, logprob: float) -> Json:
    # JSON has no infinity; this is what vLLM and OpenAI say instead.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode(errors="replace"))}


def budget(options: MIRLOptions) -> dict[str, int]:
    """N, k and m of a request, by the names of their knobs."""
    return {"descriptions": options.descriptions, "keep": options.keep, "forks": options.forks}


def usage(*results: Result) -> Json:
    """Prompt tokens once, whatever the number of choices; completion tokens every sampled token once."""
    prompt = results[0].prompt_tokens
    completion = sum(result.completion_tokens for result in results)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def evidence(result: Result) -> Json:
    """The `mirl` object of a response."""
    representative = result.representative
    return {
        "descriptions": [description_json(description) for description in result.descriptions],
        "chains": [chain_json(chain) for chain in result.chains],
        "representative": {"description": representative.description, "fork": representative.fork},
        "vote": vote_json(result.vote),
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "margin": result.margin,
        "mi_weight": result.mi_weight,
        "aggregation": result.aggregation,
        "partial": result.partial,
        "fallback": result.fallback,
        "stages": [stage_json(stage) for stage in result.stages],
    }


def stage_json(stage: StageUsage) -> Json:
    """What one stage cost."""
    return {
        "stage": stage.stage,
        "sequences": stage.sequences,
        "generated_tokens": stage.generated_tokens,
        "scored_tokens": stage.scored_tokens,
        "seconds": round(stage.seconds, 6),
    }


def description_json(description: Description) -> Json:
    """One description; MI in nats."""
    told = {
        "index": description.index,
        "text": description.text,
        "tokens": len(description.token_ids),
        "mi": description.mi,
        "mi_per_token": description.mi_per_token,
        "score": description.score,
        "kept": description.kept,
        "reason": description.reason,
    }
    return told if description.token_mi is None else {**told, "token_mi": list(description.token_mi)}


def chain_json(chain: Chain) -> Json:
    """One chain and its vote."""
    return {
        "description": chain.description,
        "fork": chain.fork,
        "answer": chain.answer,
        "tokens": chain.tokens,
        "finish_reason": chain.finish_reason,
    }


def vote_json(vote: Vote | None) -> Json | None:
    """The vote, where answers cluster."""
    return None if vote is None else {"answer": vote.answer, "counts": dict(vote.counts), "share": vote.share}


def stage_event(event: Described | Gated | FellBack | ChainDone | Decided) -> Json:
    """A stage event as the `mirl` field of a chunk."""
    if isinstance(event, Described):
        return {"event": "described", "description": description_json(event.description)}
    if isinstance(event, Gated):
        descriptions = [description_json(one) for one in event.descriptions]
        return {"event": "gated", "descriptions": descriptions, "mi_weight": event.mi_weight}
    if isinstance(event, FellBack):
        return {"event": "fell_back", "reason": event.reason}
    if isinstance(event, ChainDone):
        return {"event": "chain", "chain": chain_json(event.chain)}
    chosen = {"description": event.representative.description, "fork": event.representative.fork}
    return {
        "event": "decided",
        "vote": vote_json(event.vote),
        "representative": chosen,
        "outstanding": event.outstanding,
    }
