"""`tools`: chains call them, the vote compares calls, and turns with results pass through."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mirl_core.algorithm.answers.forms import Calls
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_server.handling.reading.tools import ToolChoice, read_tools
from tests.unit.server.harness import Build, Harness, client, events, question

MESSAGES: list[Any] = [question()]
SMALL = {"mirl": {"descriptions": 1, "keep": 1, "forks": 3, "early_stop": False}}
POINT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "point",
        "description": "Point at something.",
        "parameters": {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/place"}, "y": {"$ref": "#/$defs/place"}},
            "required": ["x", "y"],
            "$defs": {"place": {"type": "integer"}},
        },
    },
}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "wait"}}


def hermes(tools: Sequence[dict[str, Any]]) -> Callable[[str], Calls]:
    """A parser in place of vLLM's, for calls in <tool_call> tags."""
    assert tools

    def parse(text: str) -> Calls:
        calls = [json.loads(part.split("</tool_call>")[0]) for part in text.split("<tool_call>")[1:]]
        return [(call["name"], json.dumps(call["arguments"])) for call in calls]

    return parse


def chains(build: Build, *texts: str) -> Harness:
    harness = build(
        FakeEngine([FakeText("a</description>")], [FakeText(f"<think>hm</think>{text}") for text in texts])
    )
    harness.app.state.mirl = dataclasses.replace(harness.service, tool_parser=hermes)
    return harness


def call(x: int, y: int, layout: str = '{{"y": {y}, "x": {x}}}') -> str:
    return f'<tool_call>{{"name": "point", "arguments": {layout.format(x=x, y=y)}}}</tool_call>'


async def test_chains_vote_on_calls(build: Build) -> None:
    harness = chains(build, call(3, 3), call(1, 2), call(1, 2, '{{"x": {x},    "y": {y}.0}}'))
    completion = await client(harness).chat.completions.create(
        model="m", messages=MESSAGES, tools=[POINT], extra_body=SMALL
    )
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (made,) = choice.message.tool_calls
    assert made.type == "function"
    assert made.id.startswith("call_")
    assert made.function.name == "point"
    assert json.loads(made.function.arguments) == {"x": 1, "y": 2}
    assert completion.mirl["vote"]["share"] == pytest.approx(2 / 3)  # type: ignore[attr-defined]
    assert choice.message.reasoning == "a\n\nhm"  # type: ignore[attr-defined]


async def test_the_model_gets_its_tools(build: Build) -> None:
    harness = chains(build, call(1, 2))
    await harness.ask(tools=[POINT, OTHER], **SMALL)
    assert [render.tools for render in harness.engine.rendered if render.images] == [(POINT, OTHER)]
    await harness.ask(tools=[POINT], tool_choice="none", **SMALL)
    assert harness.engine.rendered[-1].tools == ()


async def test_a_chain_may_answer_instead(build: Build) -> None:
    harness = chains(build, "<answer>7</answer>", call(1, 2), "<answer>7</answer>")
    choice = (await harness.ask(tools=[POINT], **SMALL)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("7", "stop")
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(("parallel", "count"), [(None, 2), (True, 2), (False, 1)])
async def test_several_calls_at_once(build: Build, parallel: bool | None, count: int) -> None:
    harness = chains(build, call(1, 2) + call(3, 4))
    answer = (await harness.ask(tools=[POINT], parallel_tool_calls=parallel, logprobs=True, **SMALL)).json()
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert [json.loads(made["function"]["arguments"])["x"] for made in calls] == [1, 3][:count]
    assert answer["choices"][0]["logprobs"]["content"] == []


async def test_the_sdk_puts_a_stream_of_calls_together(build: Build) -> None:
    harness = chains(build, call(1, 2) + call(3, 4))
    async with client(harness).chat.completions.stream(
        model="m", messages=MESSAGES, tools=[POINT], extra_body=SMALL
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert [json.loads(made.function.arguments)["x"] for made in choice.message.tool_calls] == [1, 3]
    assert not choice.message.content


@pytest.mark.parametrize(
    ("choice", "ending", "names"),
    [
        ("required", "tool_calls", ["point", "wait"]),
        ({"type": "function", "function": {"name": "point"}}, "stop", ["point"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_calls_by_constraint_need_no_parser(
    build: Build, choice: Any, ending: str, names: list[str], stream: bool
) -> None:
    text = '<answer>[{"name": "point", "arguments": {"x": 1, "y": 2}}]</answer>'
    harness = chains(build, text)
    harness.app.state.mirl = dataclasses.replace(harness.service, tool_parser=None)
    response = await harness.ask(tools=[POINT, OTHER], tool_choice=choice, stream=stream, **SMALL)
    if stream:
        deltas = [part for chunk in events(response) for part in chunk["choices"]]
        (calls,) = [part["delta"]["tool_calls"] for part in deltas if "tool_calls" in part["delta"]]
        assert calls[0]["index"] == 0
        assert [part["finish_reason"] for part in deltas][-1] == ending
    else:
        whole = response.json()["choices"][0]
        calls = whole["message"]["tool_calls"]
        assert (whole["message"]["content"], whole["finish_reason"]) == (None, ending)
    assert [(made["function"]["name"], json.loads(made["function"]["arguments"])) for made in calls] == [
        ("point", {"x": 1, "y": 2})
    ]
    (fork,) = harness.engine.of_kind("fork")
    assert fork.sampling is not None
    schema = json.loads(fork.sampling.structure or "")["format"]["elements"][1]["content"]["json_schema"]
    assert [kind["properties"]["name"]["const"] for kind in schema["items"]["anyOf"]] == names
    assert schema["$defs"] == {"place": {"type": "integer"}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "point"}}])
def test_xgrammar_takes_the_constraint(choice: Any) -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string

    from mirl_core.config import Tags
    from mirl_core.engines.vllm.structure import check_structure
    from mirl_server.handling.reading.request import ChatRequest

    chat_request = ChatRequest(messages=MESSAGES, tools=[POINT, OTHER], tool_choice=choice)
    form = read_tools(chat_request.tools, chat_request.tool_choice, True, None)
    assert form is not None
    tag = form.after_description(Tags())
    assert tag is not None
    check_structure(tag, "xgrammar")
    grammar = Grammar.from_structural_tag(tag)
    good = '<think>so</think><answer>[{"name": "point", "arguments": {"x": 1, "y": 2}}]</answer>'
    assert _is_grammar_accept_string(grammar, good)
    assert not _is_grammar_accept_string(grammar, good.replace("1", '"one"'))
    assert not _is_grammar_accept_string(grammar, good.replace("point", "paint"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [POINT], "tool_choice": "must"}, "tool_choice"),
        (
            {"tools": [POINT], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": "point"}, "tools"),
        ({"tools": [POINT], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_wrong_tools_are_named(build: Build, fields: dict[str, Any], param: str) -> None:
    harness = chains(build, call(1, 2))
    response = await harness.ask(**fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert harness.engine.calls == []


async def test_definitions_that_are_none_are_refused(build: Build) -> None:
    function = {"name": "point", "parameters": {"type": "object", "$defs": [1]}}
    response = await build().ask(tools=[{"type": "function", "function": function}], tool_choice="required")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")


async def test_auto_needs_a_parser(server: Harness) -> None:
    for choice in (None, "auto"):
        response = await server.ask(tools=[POINT], tool_choice=choice)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tool_choice")
        assert "--tool-call-parser" in response.json()["error"]["message"]
    assert (await server.ask(tools=[POINT], tool_choice="none")).status_code == 200
    assert (await server.ask(tools=[], tool_choice="auto")).status_code == 200


async def test_a_turn_with_a_result_passes_through(server: Harness) -> None:
    made = {"id": "1", "type": "function", "function": {"name": "point", "arguments": "{}"}}
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    ]
    await server.ask({"model": "m", "messages": turns, "tools": [POINT]})
    assert server.handed[0]["tools"] == [POINT]


def test_vllms_own_parser_finds_calls() -> None:
    from argparse import Namespace
    from types import SimpleNamespace

    from mirl_server.vllm.tool_parsers import find_tool_parser, marker_tokens

    tokenizer = SimpleNamespace(
        get_vocab=lambda: {"<tool_call>": 1, "</tool_call>": 2},
        encode=lambda text, **_: [1],
        decode=lambda ids, **_: "<tool_call>",
        all_special_tokens=["<tool_call>", "</tool_call>", "<eos>"],
    )
    args = Namespace(enable_auto_tool_choice=True, tool_call_parser="hermes")
    parser = find_tool_parser(args, tokenizer)
    assert parser is not None
    parse = parser([POINT])
    assert parse("just 7") == ()
    (parsed,) = parse("Let me see. " + call(1, 2))
    assert (parsed[0], json.loads(parsed[1])) == ("point", {"x": 1, "y": 2})
    assert list(parse("<tool_call>{broken")) == []
    assert set(marker_tokens(args, tokenizer)) == {"<tool_call>", "</tool_call>"}
    assert (
        find_tool_parser(Namespace(enable_auto_tool_choice=False, tool_call_parser=None), tokenizer) is None
    )


def test_what_a_parser_fails_on_is_no_call_and_not_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from argparse import Namespace

    from mirl_server.vllm import tool_parsers

    class Failing:
        def __init__(self, *_: object) -> None: ...

        def extract_tool_calls(self, text: str, _: object) -> None:
            raise ValueError(f"can't parse {text!r}")

    monkeypatch.setattr(tool_parsers.ToolParserManager, "get_tool_parser", lambda _: Failing)
    args = Namespace(enable_auto_tool_choice=True, tool_call_parser="failing")
    parser = tool_parsers.find_tool_parser(args, None)
    assert parser is not None
    assert parser([POINT])("the picture shows a secret") == ()
    assert "ValueError at " in caplog.text
    assert "secret" not in caplog.text


def test_choices_are_those_of_openai() -> None:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(ToolChoice)
    for choice in ("none", "auto", "required"):
        assert adapter.validate_python(choice) == choice
