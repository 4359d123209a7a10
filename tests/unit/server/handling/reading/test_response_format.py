"""`response_format`: answers are JSON, descriptions and reasoning stay free, the vote compares values."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import RequestError
from tests.unit.server.harness import Build, Harness, client, events, question

MESSAGES: list[Any] = [question()]
SMALL = {"mirl": {"descriptions": 1, "keep": 1, "forks": 3, "early_stop": False}}
OBJECT = {"type": "json_object"}


class Seen(BaseModel):
    digit: int
    colour: Literal["red", "blue"]


def chains(*contents: str) -> FakeEngine:
    script = [FakeText(f"<think>hm</think><answer>{content}</answer>") for content in contents]
    return FakeEngine([FakeText("a red seven</description>")], script)


async def test_the_vote_compares_values_and_content_is_verbatim(build: Build) -> None:
    harness = build(
        chains('{"digit":8,"colour":"red"}', '{"digit": 7, "colour": "red"}', '{"colour":"red","digit":7.0}')
    )
    answer = (await harness.ask(response_format=OBJECT, **SMALL)).json()
    content = answer["choices"][0]["message"]["content"]
    assert content in ('{"digit": 7, "colour": "red"}', '{"colour":"red","digit":7.0}')
    assert answer["mirl"]["vote"]["share"] == pytest.approx(2 / 3)
    assert json.loads(answer["mirl"]["vote"]["answer"]) == {"digit": 7, "colour": "red"}
    assert answer["mirl"]["chains"][0]["answer"] == '{"digit":8,"colour":"red"}'
    assert answer["choices"][0]["message"]["reasoning"] == "a red seven\n\nhm"


async def test_the_sdks_parse_gives_an_object(build: Build) -> None:
    harness = build(chains('{"digit": 7, "colour": "red"}'))
    completion = await client(harness).chat.completions.parse(
        model="m", messages=MESSAGES, response_format=Seen, extra_body=SMALL
    )
    assert completion.choices[0].message.parsed == Seen(digit=7, colour="red")
    (fork,) = harness.engine.of_kind("fork")
    assert fork.sampling is not None
    tag = json.loads(fork.sampling.structure or "")["format"]["elements"][1]
    assert tag["content"]["json_schema"]["properties"]["digit"]["type"] == "integer"
    assert (tag["begin"], tag["end"]) == ("<answer>", "</answer>")


async def test_only_answers_are_held_to_it(build: Build) -> None:
    harness = build(chains("{}"))
    await harness.ask(response_format=OBJECT, **SMALL)
    held = {call.kind: call.sampling.structure is not None for call in harness.engine.calls if call.sampling}
    assert held == {"describe": False, "fork": True}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_no_json_has_no_vote(build: Build, stream: bool) -> None:
    harness = build(chains('{"a": "', '{"a": 1}', "seven"))
    response = await harness.ask(response_format=OBJECT, stream=stream, **SMALL)
    if stream:
        content = "".join(
            choice["delta"].get("content", "") for chunk in events(response) for choice in chunk["choices"]
        )
    else:
        content = response.json()["choices"][0]["message"]["content"]
        assert response.json()["mirl"]["vote"]["share"] == 1.0
        assert response.json()["mirl"]["calibrated"] is False
    assert content == '{"a": 1}'


@pytest.mark.parametrize("stream", [False, True])
async def test_no_calibration_holds_for_answers_of_a_form(build: Build, stream: bool) -> None:
    options = MIRLOptions(**SMALL["mirl"])
    calibration = Calibration(intercept=-1, vote_share=3, distinct_share=0)
    model = ModelSettings(instruction="", options=options, calibration=calibration)

    async def confidence(**fields: Any) -> tuple[bool, float]:
        harness = build(chains('{"a": 1}'), model=model)
        response = await harness.ask({"model": "m", "messages": [question()], "stream": stream, **fields})
        evidence = events(response)[-1]["mirl"] if stream else response.json()["mirl"]
        return evidence["calibrated"], evidence["confidence"]

    # The logit is -1 + 3 times the whole vote.
    assert await confidence() == (True, pytest.approx(1 / (1 + math.exp(-2))))
    assert await confidence(response_format={"type": "text"}) == (True, pytest.approx(1 / (1 + math.exp(-2))))
    assert await confidence(response_format=OBJECT) == (False, 1.0)
    assert await confidence(structured_outputs={"choice": ['{"a": 1}']}) == (False, 1.0)


async def test_without_a_usable_description_the_whole_answer_is_json(build: Build) -> None:
    engine = FakeEngine([FakeText("no end", finish_reason="length")], plain=[FakeText('{"a": 1}')])
    answer = (await build(engine).ask(response_format=OBJECT, **SMALL)).json()
    assert answer["mirl"]["fallback"]
    assert answer["choices"][0]["message"]["content"] == '{"a": 1}'
    (plain,) = engine.of_kind("plain")
    assert plain.sampling is not None
    assert json.loads(plain.sampling.structure or "")["format"]["type"] == "json_schema"
    assert plain.sampling.stop == ()


async def test_each_choice_and_its_tokens(build: Build) -> None:
    harness = build(chains('{"a": 1}'))
    answer = (await harness.ask(response_format=OBJECT, n=2, logprobs=True, **SMALL)).json()
    for choice in answer["choices"]:
        spelled = "".join(token["token"] for token in choice["logprobs"]["content"])
        assert spelled == choice["message"]["content"] == '{"a": 1}'


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "structural_tag", "format": {}}, "response_format.type"),
        ({"type": "json_schema"}, "response_format"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format"),
        ({"type": "json_schema", "json_schema": {"schema": 3}}, "response_format.json_schema.schema"),
        ({"type": "json_object", "frob": 1}, "response_format.frob"),
        ("json", "response_format"),
    ],
)
async def test_wrong_forms_are_named(server: Harness, form: Any, param: str) -> None:
    response = await server.ask(response_format=form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert server.engine.calls == []


async def test_an_engine_that_cannot_is_a_400_before_sampling(build: Build) -> None:
    harness = build(FakeEngine(fail_at={"structure": RequestError("answers can't be constrained here")}))
    with pytest.raises(
        openai.BadRequestError, match="response_format: answers can't be constrained"
    ) as caught:
        await client(harness).chat.completions.create(
            model="m", messages=MESSAGES, response_format={"type": "json_object"}, extra_body=SMALL
        )
    assert caught.value.param == "response_format"
    assert harness.engine.calls == []
    assert (await harness.ask(response_format={"type": "text"})).status_code == 200


async def test_vllms_own_words(build: Build) -> None:
    harness = build(chains("red", "blue", "red"))
    answer = (await harness.ask(structured_outputs={"choice": ["red", "blue"]}, **SMALL)).json()
    assert answer["choices"][0]["message"]["content"] == "red"
    for form in ({"json": {"type": "object"}}, {"json_object": True}):
        await build(chains("{}")).ask(structured_outputs=form)
    for wrong in ({}, {"regex": "a+"}, {"choice": []}, {"json_object": True, "choice": ["a"]}):
        response = await harness.ask(structured_outputs=wrong)
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("structured_outputs")
    both = await harness.ask(structured_outputs={"json_object": True}, response_format=OBJECT)
    assert both.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize("model", ["m", "m:direct"])
async def test_forms_that_would_keep_the_engine_compiling_are_refused(build: Build, model: str) -> None:
    harness = build(chains("{}"))
    schema = {"enum": [str(number) for number in range(10_000)]}
    function = {"name": "point", "parameters": {"type": "object", "properties": {"at": schema}}}
    forms: list[tuple[str, dict[str, Any]]] = [
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
        ("structured_outputs", {"structured_outputs": {"json": schema}}),
        ("tools", {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}),
    ]
    for param, fields in forms:
        response = await harness.ask(model=model, **{**SMALL, "mirl": None}, **fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert "smaller schema" in response.json()["error"]["message"]
    assert not harness.engine.calls
    assert not harness.handed
    # Tools that nothing is held to may be many.
    free = {"tools": forms[2][1]["tools"], "tool_choice": "auto"}
    assert (await harness.ask(model="m:direct", mirl=None, **free)).status_code == 200


@pytest.mark.parametrize("stop", ["e", ["x", "blue"], "red"])
async def test_a_stop_that_would_cut_a_choice_is_refused(build: Build, stop: str | list[str]) -> None:
    harness = build(chains("red"))
    response = await harness.ask(structured_outputs={"choice": ["red", "blue"]}, stop=stop, **SMALL)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "structured_outputs"
    assert "in stop would cut the choice" in error["message"]
