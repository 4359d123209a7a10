"""The synchronous client against recorded shapes, and what it shares with the asynchronous one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

from mirl_client import (
    AsyncMirl,
    Branched,
    Decided,
    Described,
    FellBack,
    Finished,
    Mirl,
    NotMIRLError,
    Started,
    TextDelta,
)
from mirl_client.cli.attempts import full_answers_tokens, majority
from mirl_client.requests import api_url, gated_model
from mirl_client.tokens import _byte_table, token_texts
from tests.unit.clients.cli.evidence_cases import GATED, evidence_of
from tests.unit.clients.stub import Stub
from tests.unit.server.harness import png


def test_both_clients_have_the_same_calls() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        members = inspect.getmembers(client, inspect.isfunction)
        return {name: list(inspect.signature(value).parameters) for name, value in members if name[0] != "_"}

    assert calls(Mirl) == calls(AsyncMirl)
    assert inspect.signature(Mirl).parameters.keys() == inspect.signature(AsyncMirl).parameters.keys()


@pytest.mark.parametrize("method", ["ask", "stream", "describe", "score"])
def test_a_setting_that_a_method_does_not_have_is_pythons_own_error(method: str) -> None:
    unknown = {"seed": 1} if method == "score" else {"sed": 1}
    texts = ["a dog"] if method == "score" else []
    stub = Stub()
    with stub.client() as client, pytest.raises(TypeError) as error:
        list(getattr(client, method)(png(), "?", *texts, **unknown))
    (name,) = unknown
    assert str(error.value) == f"{method}() got an unexpected keyword argument '{name}'"
    assert stub.requests == []


def test_a_steered_stream_in_the_servers_order_without_unknown_events() -> None:
    stub = Stub()
    with stub.client() as client:
        events = list(client.stream(png(), "how many?", preset="steered"))
        answer = client.ask(png(), "how many?", preset="steered")
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        "Started", *["Described"] * 6, "Branched", *["ChainDone"] * 2, "Decided", "ChainDone",
        "TextDelta", "TextDelta", "Finished",
    ]  # fmt: skip
    started, described, branched = events[0], events[1], events[7]
    assert isinstance(started, Started)
    assert started.budget is not None
    assert (started.prompt_tokens, started.budget.descriptions) == (70, 5)
    assert isinstance(described, Described)
    assert described.description.decoding is not None
    assert [switch.chosen for switch in described.description.decoding.switches] == [" 4", " 13"]
    assert branched == Branched(descriptions=0, chains=3)
    decided = events[10]
    assert isinstance(decided, Decided)
    assert decided.outstanding == 1
    assert events[-3:-1] == [TextDelta(reasoning="limes 6, apples 18\n\n6 + 18 = 24"), TextDelta("24")]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.answer.evidence == answer.evidence
    assert (finished.answer.text, finished.answer.reasoning) == (answer.text, answer.reasoning)
    # The names are looked up once.
    assert [path for path, _ in stub.requests].count("/v1/models") == 1


def test_a_stream_that_breaks_off_is_an_error() -> None:
    stub = Stub(broken_stream=True)
    with stub.client() as client:
        events = client.stream(png(), "how many?")
        assert isinstance(next(events), Started)
        with pytest.raises(openai.APIError, match="the engine has died"):
            next(events)


def broken_response() -> httpx.Response:
    def content() -> Iterator[bytes]:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "toy", "choices": []}
        yield f"data: {json.dumps(chunk | {'mirl': {'event': 'fell_back', 'reason': 'empty'}})}\n\n".encode()
        raise httpx.ReadError("reset by peer")

    return httpx.Response(200, content=content(), headers={"content-type": "text/event-stream"})


def test_a_connection_that_breaks_during_a_stream_is_the_sdks_error() -> None:
    with Stub(failure=broken_response()).client(model="toy") as client:
        events = client.stream(png(), "how many?")
        assert next(events) == FellBack("empty")
        with pytest.raises(openai.APIConnectionError):
            next(events)


def test_a_stream_that_ends_early_is_an_error() -> None:
    response = httpx.Response(200, text="data: [DONE]\n\n", headers={"content-type": "text/event-stream"})
    with Stub(failure=response).client(model="toy") as client, pytest.raises(NotMIRLError, match="complete"):
        list(client.stream(png(), "how many?"))


def test_another_form_of_an_answer_is_an_error() -> None:
    stub = Stub(failure=httpx.Response(200, json={"data": [{"text": "a dog"}]}))
    with stub.client(model="toy") as client:
        with pytest.raises(NotMIRLError, match="scores have another form"):
            client.score(png(), "?", "a dog")
        with pytest.raises(NotMIRLError, match="descriptions have another form"):
            client.describe(png(), "?")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIRL_BASE_URL", raising=False)
    assert api_url(None) == "http://127.0.0.1:8000/v1"
    monkeypatch.setenv("MIRL_BASE_URL", "https://host/mirl/")
    assert api_url(None) == "https://host/mirl/v1"
    assert api_url("http://host:1/v1/") == "http://host:1/v1"
    for wrong in ("host:8000", "ftp://host", "http://"):
        with pytest.raises(ValueError, match="address"):
            api_url(wrong)


def test_the_first_gated_name_is_used() -> None:
    assert gated_model(["adapter", "b", "b:direct", "a", "a:direct"]) == "b"
    with pytest.raises(NotMIRLError):
        gated_model(["gpt", "a:direct"])


@given(st.text(max_size=12))
@settings(max_examples=50)
def test_byte_level_tokens_spell_their_text(text: str) -> None:
    characters = {byte: character for character, byte in _byte_table().items()}
    strings = [characters[byte] for byte in text.encode()]
    texts = token_texts(strings, text)
    if strings:
        assert texts is not None
        assert "".join(texts) == text
        assert len(texts) == len(strings)


def test_tokens_of_both_kinds_of_vocabulary() -> None:
    assert token_texts(["17", "Ġapples", "Ċ"], "17 apples\n") == ["17", " apples", "\n"]
    assert token_texts(["Ã", "©"], "é") == ["", "é"]
    assert token_texts(["▁two", "▁dogs", "<0xC3>", "<0xA9>"], "two dogsé") == ["two", " dogs", "", "é"]
    assert token_texts(["an", "other"], "different") is None


def choice(content: str | None, finish_reason: str = "stop") -> Choice:
    message = ChatCompletionMessage(role="assistant", content=content)
    return Choice.model_construct(index=0, finish_reason=finish_reason, message=message)


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        ([choice("9"), choice("3"), choice("3"), choice("9")], "9"),
        ([choice("5"), choice("30"), choice(" 30.0 ")], "30"),
        ([choice("B"), choice("Yes."), choice("yes")], "Yes."),
        ([choice(None), choice("4", "length"), choice("4", "length"), choice("6")], "6"),
        ([choice(None), choice(" "), choice("7", "length")], None),
        ([choice("Infinity"), choice("infinity"), choice("NaN")], "Infinity"),
    ],
)
def test_votes_on_the_client(choices: list[Choice], answer: str | None) -> None:
    assert majority(choices) == answer


def test_full_answers_are_estimated_from_complete_descriptions_and_chains() -> None:
    assert full_answers_tokens(GATED) == 16 * (9 + 40)
    assert full_answers_tokens(evidence_of((), (), 0)) is None
