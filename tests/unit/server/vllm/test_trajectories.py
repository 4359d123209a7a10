"""The parser that vLLM's own handlers get: a model's trajectories in plain and follow-up answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mirl_core.config import Tags

TEXT = "<description>two dots</description>\n<think>1 + 1</think><answer>2</answer>"
TAGS = Tags()


class Tokenizer:
    all_special_tokens = ("<s>",)


@pytest.fixture
def request_() -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(messages=[{"role": "user", "content": "?"}])


def split_handlers(tokenizer: Any = Tokenizer, **parsers: Any) -> SimpleNamespace:
    """Return an app's state after `split_answers`, with handlers of these parsers."""
    from mirl_server.vllm.trajectories import split_answers

    state = SimpleNamespace(
        openai_serving_chat=SimpleNamespace(parser_cls=parsers.get("chat")),
        openai_serving_responses=SimpleNamespace(parser=parsers.get("responses")),
        anthropic_serving_messages=None,
        online_renderer=SimpleNamespace(parser=None),
    )
    split_answers(state, TAGS, tokenizer)  # type: ignore[arg-type]
    return state


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_whole_answers_are_split(api: str, request_: Any) -> None:
    state = split_handlers()
    handler = state.openai_serving_chat.parser_cls if api == "chat" else state.openai_serving_responses.parser
    for text, reasoning, content in (
        (TEXT, "two dots\n\n1 + 1", "2"),
        ("<think>1 +", "1 +", None),
        ("Hello.", None, "Hello."),
        ("", None, ""),
    ):
        *split, calls = handler(Tokenizer(), None).parse(text, request_)
        assert split == [reasoning, content]
        assert not calls


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize("wanted", [True, False])
def test_streams_are_split(size: int, wanted: bool, request_: Any) -> None:
    request_.include_reasoning = wanted
    parser = split_handlers().openai_serving_chat.parser_cls(Tokenizer(), None)
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    deltas = [
        parser.parse_delta(piece, [1], request_, [7], finished=number == len(pieces))
        for number, piece in enumerate(pieces, 1)
    ]
    said = [delta for delta in deltas if delta is not None]
    assert "".join(delta.reasoning or "" for delta in said) == ("two dots\n\n1 + 1" if wanted else "")
    assert "".join(delta.content or "" for delta in said) == "2"


def test_what_is_held_back_comes_with_the_last_delta(request_: Any) -> None:
    parser = split_handlers().openai_serving_chat.parser_cls(Tokenizer(), None)
    assert parser.parse_delta("<descr", [1], request_, [7], finished=False) is None
    assert parser.parse_delta("", [], request_, [7], finished=True).content == "<descr"


def test_tool_calls_are_read_in_the_content(request_: Any) -> None:
    from vllm.parser import ParserManager

    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    request = request_.model_copy(update={"tools": tools, "tool_choice": "auto"})
    chosen = ParserManager.get_parser(tool_parser_name="pythonic", enable_auto_tools=True)
    parser = split_handlers(chat=chosen).openai_serving_chat.parser_cls(Tokenizer(), tools)
    text = "<think>sum</think><answer>[add(a=1)]</answer>"
    reasoning, content, calls = parser.parse(text, request, enable_auto_tools=True)
    assert (reasoning, content) == ("sum", None)
    assert [(call.name, call.arguments) for call in calls] == [("add", '{"a": 1}')]


def test_an_operators_reasoning_parser_stays() -> None:
    from vllm.parser.abstract_parser import DelegatingParser
    from vllm.reasoning.identity_reasoning_parser import IdentityReasoningParser

    chosen = type("Chosen", (DelegatingParser,), {"reasoning_parser_cls": IdentityReasoningParser})
    assert split_handlers(chat=chosen).openai_serving_chat.parser_cls is chosen


def test_tags_that_are_special_tokens_stay_in_the_text(request_: Any) -> None:
    assert split_handlers().online_renderer.parser is None
    special = SimpleNamespace(all_special_tokens=["<think>"])
    parser = split_handlers(special).online_renderer.parser
    assert parser.always_adjust_request
    assert request_.skip_special_tokens
    assert not parser(special, None).adjust_request(request_).skip_special_tokens
