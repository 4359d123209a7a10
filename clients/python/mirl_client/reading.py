"""Responses read into the client's results: completions, streams, and MIRL's own endpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ValidationError

from mirl_client.answers import Answer, Cost, Descriptions, Message, Score, Scores
from mirl_client.errors import NotMIRLError
from mirl_client.events import (
    Branched,
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Finished,
    Gated,
    Started,
    TextDelta,
)
from mirl_client.evidence import (
    Budget,
    Chain,
    Description,
    Evidence,
    Representative,
    Stage,
    Vote,
    evidence,
)

Model = TypeVar("Model", bound=BaseModel)


class Clock:
    """Measures the seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since it was made."""
        return time.perf_counter() - self._start


def answer_of(response: ChatCompletion, messages: Sequence[Message], clock: Clock) -> Answer:
    """Return the answer of a completion.

    Raises:
        NotMIRLError: the completion has no choice, or evidence of another form.
    """
    if not response.choices:
        raise NotMIRLError("the server's answer has no choice")
    choice = response.choices[0]
    return _answer(
        choice.message.content or "",
        _text(choice.message, "reasoning") or _text(choice.message, "reasoning_content"),
        response.model,
        choice.finish_reason,
        _evidence(response),
        response.usage,
        messages,
        clock,
    )


class StreamReader:
    """Reads the chunks of one streamed answer into events."""

    def __init__(self, messages: Sequence[Message], clock: Clock) -> None:
        self._messages = messages
        self._clock = clock
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._model = ""
        self._finish_reason: str | None = None
        self._evidence: Evidence | None = None
        self._usage: CompletionUsage | None = None

    def read(self, chunk: ChatCompletionChunk) -> Iterator[Event]:
        """Yield the events of a chunk; those of a newer server that are unknown here are left out."""
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        stage = getattr(chunk, "mirl", None)
        if isinstance(stage, Mapping):
            if stage.get("event") == "finished":
                self._evidence = _evidence(chunk)
            elif (event := stage_event(stage)) is not None:
                yield event
        for choice in chunk.choices:
            self._finish_reason = choice.finish_reason or self._finish_reason
            text = choice.delta.content or ""
            reasoning = _text(choice.delta, "reasoning") or _text(choice.delta, "reasoning_content")
            if text or reasoning:
                self._text.append(text)
                self._reasoning.append(reasoning)
                yield TextDelta(text, reasoning)

    def finished(self) -> Finished:
        """Return the last event.

        Raises:
            NotMIRLError: the stream ended before its answer did.
        """
        if self._finish_reason is None:
            raise NotMIRLError("the stream ended before the answer was complete")
        return Finished(
            _answer(
                "".join(self._text),
                "".join(self._reasoning),
                self._model,
                self._finish_reason,
                self._evidence,
                self._usage,
                self._messages,
                self._clock,
            )
        )


def stage_event(fields: Mapping[str, Any]) -> Event | None:
    """Return a stage event from its JSON; None for `finished` and for events of another name.

    Raises:
        NotMIRLError: the event lacks a field, or has a value of another type.
    """
    try:
        return _stage_event(fields)
    except (KeyError, TypeError, ValidationError) as error:
        raise NotMIRLError(f"the server's event '{fields.get('event')}' has another form") from error


def _stage_event(fields: Mapping[str, Any]) -> Event | None:
    match fields.get("event"):
        case "started":
            budget = fields.get("budget")
            return Started(fields["prompt_tokens"], Budget.model_validate(budget) if budget else None)
        case "described":
            return Described(Description.model_validate(fields["description"]))
        case "gated":
            return Gated(_all(Description, fields["descriptions"]), fields.get("mi_weight"))
        case "fell_back":
            return FellBack(fields["reason"])
        case "branched":
            return Branched(fields["descriptions"], fields["chains"])
        case "chain":
            return ChainDone(Chain.model_validate(fields["chain"]))
        case "decided":
            vote = fields["vote"]
            return Decided(
                None if vote is None else Vote.model_validate(vote),
                Representative.model_validate(fields["representative"]),
                fields["outstanding"],
            )
    return None


def descriptions_of(body: object, clock: Clock) -> Descriptions:
    """Return the result of `/v1/mirl/describe`.

    Raises:
        NotMIRLError: the body has another form.
    """
    try:
        fields = _mapping(body)
        stages = _all(Stage, fields["stages"])
        return Descriptions(
            _all(Description, fields["data"]),
            fields["mi_weight"],
            fields["model"],
            _cost_of(fields["usage"], stages, clock),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise NotMIRLError("the server's descriptions have another form") from error


def scores_of(body: object, clock: Clock) -> Scores:
    """Return the result of `/v1/mirl/score`.

    Raises:
        NotMIRLError: the body has another form.
    """
    try:
        fields = _mapping(body)
        scores = _all(Score, fields["data"])
        return Scores(scores, fields["mi_weight"], fields["model"], _cost_of(fields["usage"], (), clock))
    except (KeyError, TypeError, ValidationError) as error:
        raise NotMIRLError("the server's scores have another form") from error


def _answer(
    text: str,
    reasoning: str,
    model: str,
    finish_reason: str | None,
    details: Evidence | None,
    usage: CompletionUsage | None,
    messages: Sequence[Message],
    clock: Clock,
) -> Answer:
    stages = details.stages if details else ()
    cost = Cost(
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else sum(stage.generated_tokens for stage in stages),
        sum(stage.scored_tokens for stage in stages),
        clock.seconds(),
        stages,
    )
    conversation = (*messages, {"role": "assistant", "content": text})
    return Answer(text, reasoning, model, finish_reason, cost, details, conversation)


def _evidence(response: object) -> Evidence | None:
    try:
        return evidence(response)
    except ValidationError as error:
        raise NotMIRLError("the server's evidence has another form") from error


def _cost_of(usage: Mapping[str, int], stages: tuple[Stage, ...], clock: Clock) -> Cost:
    return Cost(
        usage["prompt_tokens"], usage["completion_tokens"], usage["scored_tokens"], clock.seconds(), stages
    )


def _all(model: type[Model], values: Sequence[Any]) -> tuple[Model, ...]:
    return tuple(model.model_validate(value) for value in values)


def _mapping(body: object) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise TypeError("not an object")
    return body


def _text(message: object, name: str) -> str:
    """Return a field that the openai package may not declare; empty where it is missing."""
    value = getattr(message, name, None)
    return value if isinstance(value, str) else ""
