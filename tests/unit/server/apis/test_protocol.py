"""Errors have one status each; answers and chunks are what OpenAI's own models parse."""

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mirl_core import errors
from mirl_core.errors import BusyError, EngineDeadError, MIRLError, RateLimitError
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
from mirl_core.types import Chain, Description, Result, StageUsage, Vote
from mirl_server.apis.chat.response import ChatResponse
from mirl_server.http.errors import STATUSES, error_body, error_response

CHAIN = Chain(0, 1, "<think>so</think><answer>7</answer>", "so", "7", 5, "stop", score=0.5)
KEPT = Description(0, "a seven", (4, 5, 6), 2, -1.0, -3.0, 2.0, 1.0, kept=True, token_mi=(0.5, 1.5))
DROPPED = Description(1, "an eight", (4, 7), 2, -1.0, reason="gate")
RESULT = Result(
    content="7",
    reasoning="so",
    finish_reason="stop",
    representative=CHAIN,
    description=KEPT,
    descriptions=(KEPT, DROPPED),
    chains=(CHAIN,),
    vote=Vote("7", {"7": 1.0}, 1.0),
    confidence=1.0,
    margin=None,
    prompt_tokens=11,
    stages=(
        StageUsage("describe", 2, 5, 0, 0.1),
        StageUsage("score", 2, 0, 4, 0.1),
        StageUsage("fork", 1, 5),
    ),
    aggregation="majority",
    mi_weight=0.5,
)
ANSWER = ChatResponse(
    "chatcmpl-1", "m", 1, include_usage=True, budget={"descriptions": 2, "keep": 1, "forks": 1}
)


def leaves(kind: type[MIRLError] = MIRLError) -> list[type[MIRLError]]:
    return [one for child in kind.__subclasses__() for one in (child, *leaves(child))]


@pytest.mark.parametrize("kind", leaves())
def test_every_error_has_a_status_and_an_openai_body(kind: type[MIRLError]) -> None:
    response = error_response(kind("what is wrong", param="mirl.keep"))
    assert 400 <= response.status_code < 600
    error = error_body(kind("what is wrong", param="mirl.keep"))["error"]
    assert error["message"] == "what is wrong"
    assert error["param"] == "mirl.keep"
    assert isinstance(error["type"], str)
    assert set(error) == {"message", "type", "param", "code"}


def test_the_table_is_the_tree() -> None:
    assert set(STATUSES) == set(leaves())
    assert {kind.__name__ for kind in STATUSES} | {"MIRLError"} == set(errors.__all__)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("RequestError", 400), ("ImageError", 400), ("ModelNotFoundError", 404),
        ("RequestTooLargeError", 413), ("EngineError", 500), ("EngineDeadError", 503),
        ("DeadlineError", 504), ("ConfigError", 500), ("ServerError", 502),
        ("AuthenticationError", 401), ("BodyTimeoutError", 408), ("BusyError", 429), ("RateLimitError", 429),
        ("DrainingError", 503),
    ],
)  # fmt: skip
def test_statuses(name: str, status: int) -> None:
    assert error_response(getattr(errors, name)("x")).status_code == status


def test_who_is_to_wait_hears_how_long() -> None:
    assert error_response(BusyError("x", 2.1)).headers["retry-after"] == "3"
    assert error_response(RateLimitError("x", 0)).headers["retry-after"] == "1"
    assert error_response(EngineDeadError("x")).headers["retry-after"] == "5"
    assert "retry-after" not in error_response(BusyError("x")).headers


def test_a_completion_parses_as_openais() -> None:
    told = ANSWER.completion([RESULT])
    parsed = ChatCompletion.model_validate(told, strict=True)
    assert parsed.choices[0].message.content == "7"
    assert told["choices"][0]["message"]["reasoning"] == "a seven\n\nso"
    assert told["choices"][0]["message"]["reasoning_content"] == "a seven\n\nso"
    assert parsed.usage is not None
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens, parsed.usage.total_tokens) == (
        11,
        10,
        21,
    )
    assert told["mirl"]["descriptions"][0]["token_mi"] == [0.5, 1.5]
    assert told["mirl"]["descriptions"][0]["mi_per_token"] == 1.0
    assert "token_mi" not in told["mirl"]["descriptions"][1]
    assert told["mirl"]["representative"] == {"description": 0, "fork": 1}


def test_reasoning_can_be_left_out() -> None:
    assert (
        "reasoning"
        not in ChatResponse("i", "m", 1, reasoning=False).completion([RESULT])["choices"][0]["message"]
    )
    message = ChatResponse("i", "m", 1, reasoning_content=False).completion([RESULT])["choices"][0]["message"]
    assert "reasoning" in message
    assert "reasoning_content" not in message


@pytest.mark.parametrize(
    "event",
    [
        Started(11), Described(KEPT), Gated((KEPT, DROPPED)), FellBack("none usable"), ChainDone(CHAIN),
        Decided(RESULT.vote, CHAIN, 1), Decided(None, CHAIN, 0), Finished(RESULT),
    ],
    ids=lambda event: type(event).__name__,
)  # fmt: skip
def test_every_event_is_chunks_that_openai_parses(event: Event) -> None:
    chunks = ANSWER.chunks(0, event)
    assert chunks
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)


def test_a_stream_ends_with_reasoning_content_finish_usage() -> None:
    reasoning, content, finish = ANSWER.chunks(0, Finished(RESULT))
    used = ANSWER.usage_chunk([RESULT])
    assert reasoning["choices"][0]["delta"]["reasoning"] == "a seven\n\nso"
    assert content["choices"][0]["delta"] == {"content": "7"}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["mirl"]["vote"]["answer"] == "7"
    assert used["choices"] == []
    assert used["usage"]["completion_tokens"] == 10
