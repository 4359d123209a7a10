"""Answers and chunks are what OpenAI's own models parse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

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
from mirl_core.types import ContentToken, FinishReason
from mirl_server.apis.chat.response import ChatResponse, logprobs_json
from mirl_server.apis.evidence import finish_reason
from tests.unit.server.apis.result_cases import ANSWER, CHAIN, DROPPED, KEPT, RESULT


def test_a_completion_parses_as_openais() -> None:
    completion = ANSWER.completion([RESULT])
    parsed = ChatCompletion.model_validate(completion, strict=True)
    assert parsed.choices[0].message.content == "7"
    assert completion["choices"][0]["message"]["reasoning"] == "a seven\n\nso"
    assert completion["choices"][0]["message"]["reasoning_content"] == "a seven\n\nso"
    assert parsed.usage is not None
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens, parsed.usage.total_tokens) == (
        11,
        10,
        21,
    )
    assert completion["mirl"]["descriptions"][0]["token_mi"] == [0.5, 1.5]
    assert completion["mirl"]["descriptions"][0]["mi_per_token"] == 1.0
    assert completion["mirl"]["descriptions"][0]["token_texts"] == ["a", " seven"]
    assert completion["mirl"]["descriptions"][0]["token_pmi"] == [0.25, 1.25]
    assert not {"token_mi", "token_pmi", "token_texts"} & completion["mirl"]["descriptions"][1].keys()
    assert completion["mirl"]["representative"] == {"description": 0, "fork": 1}


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
        Started(11), Described(KEPT, 3), Gated((KEPT, DROPPED)), FellBack("none usable"), ChainDone(CHAIN),
        Decided(RESULT.vote, CHAIN, 1), Decided(None, CHAIN, 0), Finished(RESULT),
    ],
    ids=lambda event: type(event).__name__,
)  # fmt: skip
def test_every_event_is_chunks_that_openai_parses(event: Event) -> None:
    chunks = ANSWER.chunks(0, event)
    assert chunks
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)


DESCRIBED = {
    "index": 0, "text": "a seven", "tokens": 3, "mi": 2.0, "mi_per_token": 1.0, "score": 1.0,
    "kept": True, "reason": None, "token_mi": [0.5, 1.5], "token_pmi": [0.25, 1.25],
    "token_texts": ["a", " seven"],
}  # fmt: skip
REJECTED = {
    "index": 1, "text": "an eight", "tokens": 2, "mi": None, "mi_per_token": None, "score": None,
    "kept": False, "reason": "gate",
}  # fmt: skip
CHAINED = {
    "description": 0, "fork": 1, "answer": "7", "tokens": 5, "finish_reason": "stop",
    "votes": 1,
}  # fmt: skip
VOTED = {"answer": "7", "counts": {"7": 1.0}, "share": 1.0}
EVIDENCE = {
    "descriptions": [DESCRIBED, REJECTED],
    "chains": [CHAINED],
    "representative": {"description": 0, "fork": 1},
    "vote": VOTED,
    "confidence": 1.0,
    "calibrated": False,
    "uncalibrated": None,
    "warnings": [],
    "margin": None,
    "mi_weight": 0.5,
    "aggregation": "majority",
    "partial": False,
    "fallback": None,
    "stages": [
        {"stage": "describe", "sequences": 2, "generated_tokens": 5, "scored_tokens": 0, "seconds": 0.1},
        {"stage": "score", "sequences": 2, "generated_tokens": 0, "scored_tokens": 4, "seconds": 0.1},
        {"stage": "fork", "sequences": 1, "generated_tokens": 5, "scored_tokens": 0, "seconds": 0.0},
    ],
}
BUDGET = {"descriptions": 2, "keep": 1, "forks": 1}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Started(11), {"event": "started", "prompt_tokens": 11, "budget": BUDGET}),
        (Described(KEPT, 3), {"event": "described", "description": DESCRIBED}),
        (Gated((KEPT, DROPPED), 0.5),
         {"event": "gated", "descriptions": [DESCRIBED, REJECTED], "mi_weight": 0.5}),
        (FellBack("none usable"), {"event": "fell_back", "reason": "none usable"}),
        (ChainDone(CHAIN), {"event": "chain", "chain": CHAINED}),
        (Decided(RESULT.vote, CHAIN, 3),
         {"event": "decided", "vote": VOTED, "representative": {"description": 0, "fork": 1},
          "outstanding": 3}),
        (Decided(None, CHAIN, 0),
         {"event": "decided", "vote": None, "representative": {"description": 0, "fork": 1},
          "outstanding": 0}),
        (Finished(RESULT), {"event": "finished", "budget": BUDGET, **EVIDENCE}),
    ],
    ids=lambda value: value.get("event") if isinstance(value, dict) else "",
)  # fmt: skip
def test_events_by_their_names_and_fields(event: Event, expected: dict[str, Any]) -> None:
    last = ANSWER.chunks(2, event)[-1]
    assert last["mirl"] == expected
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    assert {name: last[name] for name in frame} == frame
    (choice,) = last["choices"]
    assert (choice["index"], choice["logprobs"]) == (2, None)
    assert choice["delta"] == ({"role": "assistant", "content": ""} if isinstance(event, Started) else {})
    assert choice["finish_reason"] == ("stop" if isinstance(event, Finished) else None)


@pytest.mark.parametrize(("ended", "reason"), [("stop", "stop"), ("length", "length"), ("abort", "length")])
@pytest.mark.parametrize("named", [False, True])
def test_how_a_choice_ends(ended: FinishReason, reason: str, named: bool) -> None:
    result = replace(RESULT, finish_reason=ended)
    answer = replace(ANSWER, named_tool=named)
    assert finish_reason(result) == answer._finish_reason(result) == reason
    assert answer.chunks(0, Finished(result))[-1]["choices"][0]["finish_reason"] == reason
    called = replace(result, representative=replace(CHAIN, calls=True))
    assert answer._finish_reason(called) == (reason if named else "tool_calls")


def test_a_completion_field_by_field() -> None:
    completion = ANSWER.completion([RESULT])
    assert completion.pop("mirl") == {"budget": BUDGET, **EVIDENCE}
    message = {
        "role": "assistant", "content": "7", "refusal": None,
        "reasoning": "a seven\n\nso", "reasoning_content": "a seven\n\nso",
    }  # fmt: skip
    assert completion == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 10, "total_tokens": 21},
    }  # fmt: skip
    several = ANSWER.completion([RESULT, RESULT])
    assert several["mirl"] == {"budget": BUDGET, "choices": [EVIDENCE, EVIDENCE]}
    assert [choice["index"] for choice in several["choices"]] == [0, 1]
    assert several["usage"] == {"prompt_tokens": 11, "completion_tokens": 20, "total_tokens": 31}
    fallen = replace(RESULT, description=None, reasoning="")
    assert ANSWER._reasoning_fields(fallen) == {"reasoning": "", "reasoning_content": ""}
    assert len(ANSWER.chunks(0, Finished(fallen))) == 2


def test_tokens_as_json() -> None:
    tokens = (
        ContentToken(1, "é", -0.5, (("é", -0.5), ("x", -math.inf))),
        ContentToken(2, "\ud800", -10_000.0),
    )
    assert logprobs_json(tokens) == {
        "content": [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169],
             "top_logprobs": [{"token": "é", "logprob": -0.5, "bytes": [195, 169]},
                              {"token": "x", "logprob": -9999.0, "bytes": [120]}]},
            {"token": "\ud800", "logprob": -9999.0, "bytes": [63], "top_logprobs": []},
        ],
        "refusal": None,
    }  # fmt: skip
    assert logprobs_json(None) is None


def test_an_answer_is_named_after_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirl_server.apis.chat.response.time.time", lambda: 12.9)
    made = ChatResponse.new("r", "m", BUDGET, include_usage=True)
    assert made == ChatResponse("chatcmpl-r", "m", 12, include_usage=True, budget=BUDGET)
    assert (ChatResponse("i", "m", 1).reasoning, ChatResponse("i", "m", 1).include_usage) == (True, False)


def test_a_stream_ends_with_reasoning_content_finish_usage() -> None:
    reasoning, content, finish = ANSWER.chunks(0, Finished(RESULT))
    used = ANSWER.usage_chunk([RESULT])
    assert reasoning["choices"][0]["delta"]["reasoning"] == "a seven\n\nso"
    assert content["choices"][0]["delta"] == {"content": "7"}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["mirl"]["vote"]["answer"] == "7"
    assert used["choices"] == []
    assert used["usage"]["completion_tokens"] == 10
