"""The real openai package against a real `mirl-serve`: what an application sees, streaming and not."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from mirl_client import Chain, Evidence, evidence
from tests.helpers.image_requests import image_part, image_question, small_fan_out
from tests.helpers.servers import NAME, RunningServer

MESSAGES = image_question()
TEXT: list[Any] = [{"role": "user", "content": "hello"}]


def evidence_of(response: Any) -> Evidence:
    details = evidence(response)
    assert details is not None
    return details


def representative_chain(details: Evidence) -> Chain:
    (chosen,) = [chain for chain in details.chains if chain.fork == details.representative.fork
                 and chain.description == details.representative.description]  # fmt: skip
    return chosen


def sampled(details: Evidence) -> int:
    return sum(stage.generated_tokens for stage in details.stages)


def test_both_names_are_listed(server: RunningServer) -> None:
    models = {model.id: model for model in server.client().models.list()}
    assert {NAME, f"{NAME}:direct"} <= set(models)
    assert models[NAME].object == "model"


@pytest.fixture(scope="module")
def answer(server: RunningServer) -> ChatCompletion:
    return server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, seed=1, max_tokens=150, extra_body=small_fan_out(token_mi=True)
    )


def test_a_gated_answer(answer: ChatCompletion) -> None:
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.model == NAME
    assert answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant"
    details = evidence_of(answer)
    chosen = representative_chain(details)
    assert choice.message.content == (chosen.answer or "")
    assert choice.finish_reason == chosen.finish_reason
    extra = choice.message.model_extra or {}
    assert extra["reasoning"] == extra["reasoning_content"]
    described = details.descriptions[details.representative.description or 0].text
    assert extra["reasoning"].startswith(f"{described}\n\n")


def test_its_evidence(answer: ChatCompletion) -> None:
    details = evidence_of(answer)
    assert [description.index for description in details.descriptions] == [0, 1, 2]
    for description in details.descriptions:
        assert description.kept == (description.reason is None)
        if description.mi is not None and description.token_mi is not None:
            assert sum(description.token_mi) == pytest.approx(description.mi, abs=1e-4)
    assert details.chains
    chosen = [chain for chain in details.chains if chain.fork == details.representative.fork
              and chain.description == details.representative.description]  # fmt: skip
    assert len(chosen) == 1
    assert answer.choices[0].message.content == (chosen[0].answer or "")


def test_usage_counts_every_sampled_token_once(answer: ChatCompletion) -> None:
    details, usage = evidence_of(answer), answer.usage
    assert usage is not None
    assert usage.completion_tokens == sampled(details)
    assert sampled(details) == sum(d.tokens for d in details.descriptions) + sum(
        c.tokens for c in details.chains
    )
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens < 150


@pytest.mark.parametrize(
    "text",
    [
        "Describe the image in one sentence.", "List everything you see, one thing a line.",
        "Read all text in the image.", "Tell a long story about it.", "Answer as JSON with the key digits.",
    ],
)  # fmt: skip
def test_free_form_answers_are_one_chain_s_text(server: RunningServer, text: str) -> None:
    response = server.client().chat.completions.create(
        model=NAME,
        messages=image_question(text),
        seed=2,
        max_tokens=300,
        extra_body=small_fan_out(early_stop=False),
    )
    answers = {chain.answer for chain in evidence_of(response).chains}
    assert answers != {None}, "no chain came to an answer"
    assert response.choices[0].message.content in answers


def test_a_stream(server: RunningServer) -> None:
    stream = server.client().chat.completions.create(
        model=NAME,
        messages=MESSAGES,
        seed=1,
        max_tokens=150,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=small_fan_out(),
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    stages = [
        (chunk.model_extra or {})["mirl"]["event"] for chunk in chunks if "mirl" in (chunk.model_extra or {})
    ]
    assert stages[0] == "started"
    assert stages.count("described") == 3
    assert stages[-1] == "finished"
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert set(finish[:-1]) == {None}
    records = [record for chunk in chunks if (record := evidence(chunk))]
    assert len(records) == 1
    assert finish[-1] == representative_chain(records[0]).finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == sampled(records[0])
    order = [key for chunk in chunks if chunk.choices for key in ("reasoning", "content")
             if getattr(chunk.choices[0].delta, key, None)]  # fmt: skip
    assert order == sorted(order, reverse=True)


def test_streamed_and_whole_are_the_same_answer(server: RunningServer, answer: ChatCompletion) -> None:
    # Serial requests with a seed repeat exactly.
    stream = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, seed=1, max_tokens=150, stream=True, extra_body=small_fan_out()
    )
    parts = [chunk.choices[0].delta for chunk in stream]
    assert "".join(part.content or "" for part in parts) == answer.choices[0].message.content
    reasoning = "".join(getattr(part, "reasoning", None) or "" for part in parts)
    assert reasoning == answer.choices[0].message.reasoning  # type: ignore[attr-defined]


def test_the_sdks_own_stream_helper(server: RunningServer, answer: ChatCompletion) -> None:
    with server.client().chat.completions.stream(
        model=NAME, messages=MESSAGES, seed=1, max_tokens=150, extra_body=small_fan_out()
    ) as stream:
        for _ in stream:
            pass
        # Not get_final_completion(): that raises where the answer was cut off, which untrained weights do.
        final = stream.current_completion_snapshot
    assert final.choices[0].message.content == answer.choices[0].message.content
    assert final.choices[0].finish_reason == answer.choices[0].finish_reason
    assert final.choices[0].message.role == "assistant"


async def test_the_async_client(server: RunningServer) -> None:
    async with server.async_client() as client:
        responses = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model=NAME,
                    messages=image_question(seed=seed),
                    seed=seed,
                    max_tokens=100,
                    extra_body=small_fan_out(),
                )
                for seed in range(4)
            )
        )
        stream = await client.chat.completions.create(
            model=NAME, messages=MESSAGES, max_tokens=100, stream=True, extra_body=small_fan_out()
        )
        chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    (record,) = [record for chunk in chunks if (record := evidence(chunk))]
    assert chunks[-1].choices[0].finish_reason == representative_chain(record).finish_reason
    assert len({response.id for response in responses}) == 4
    for response in responses:
        details = evidence_of(response)
        assert len(details.descriptions) == 3
        assert response.choices[0].message.content in {chain.answer or "" for chain in details.chains}


@pytest.mark.parametrize("messages", [MESSAGES, TEXT], ids=["picture", "text"])
def test_direct_is_plain_vllm(server: RunningServer, messages: list[Any]) -> None:
    client = server.client()
    response = client.chat.completions.create(
        model=f"{NAME}:direct", messages=messages, seed=1, max_tokens=5, n=2, logprobs=True
    )
    assert response.model == f"{NAME}:direct"
    assert len(response.choices) == 2
    spelled = [choice.logprobs.content for choice in response.choices if choice.logprobs]
    assert response.usage is not None
    assert sum(len(tokens or ()) for tokens in spelled) == response.usage.completion_tokens
    assert 2 <= response.usage.completion_tokens <= 10
    assert evidence(response) is None
    chunks = list(
        client.chat.completions.create(
            model=f"{NAME}:direct", messages=messages, max_tokens=5, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert {chunk.model for chunk in chunks} == {f"{NAME}:direct"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 5
    assert chunks[-1].usage.prompt_tokens == response.usage.prompt_tokens


def test_text_and_follow_ups_pass_through(server: RunningServer) -> None:
    client = server.client()
    follow_up = [*MESSAGES, {"role": "assistant", "content": "7"}, {"role": "user", "content": "sure?"}]
    for messages in (TEXT, follow_up):
        response = client.chat.completions.create(
            model=NAME, messages=messages, max_tokens=4, extra_body={"mirl": {"keep": 2}}
        )
        assert response.model == NAME
        assert evidence(response) is None


def test_several_pictures_earlier_turns_and_a_system_prompt(server: RunningServer) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        *image_question(seed=1),
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": [image_part(2), image_part(3), {"type": "text", "text": "And these?"}]},
    ]
    response = server.client().chat.completions.create(
        model=NAME, messages=messages, max_tokens=60, extra_body=small_fan_out()
    )
    assert response.usage is not None
    assert response.usage.prompt_tokens > 3 * 16
    assert len(evidence_of(response).descriptions) == 3


def test_every_honoured_field_is_taken(server: RunningServer) -> None:
    response = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, max_completion_tokens=60, temperature=0.8, top_p=0.95, seed=3,
        presence_penalty=0.1, frequency_penalty=0.1, stop=["###", "\n\n"], user="someone",
        metadata={"run": "1"}, n=1, logprobs=False,
        extra_body={**small_fan_out(), "top_k": 50, "min_p": 0.01, "repetition_penalty": 1.05, "priority": 0,
                    "chat_template_kwargs": {"colour": "red"}, "include_reasoning": False},
    )  # fmt: skip
    # Each by itself: test_honoured_fields.py.
    assert "reasoning" not in (response.choices[0].message.model_extra or {})
    details = evidence_of(response)
    tokens = {description.index: description.tokens for description in details.descriptions}
    assert len(tokens) == 3
    assert all(tokens[chain.description or 0] + chain.tokens <= 60 for chain in details.chains)


def test_temperature_zero_is_one_description_many_times(server: RunningServer) -> None:
    response = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, max_tokens=60, extra_body=small_fan_out()
    )
    assert len({description.text for description in evidence_of(response).descriptions}) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"mirl": {"kep": 2}}}, "mirl.kep"),
        ({"extra_body": {"mirl": {"descriptions": 1000}}}, "mirl.descriptions"),
        ({"extra_body": {"frobnicate": 1}}, "frobnicate"),
        ({"extra_body": {"priority": 3}}, "priority"),
        ({"n": 9}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}},
         "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tool_choice"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]},
         "messages[0].content[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_a_400_that_names_it(
    server: RunningServer, fields: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(
            **{"model": NAME, "messages": MESSAGES, "stream": stream, **fields}
        )
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_a_prompt_that_is_too_long_is_a_400(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(
            model=NAME, messages=image_question("word " * 4000), stream=True, extra_body=small_fan_out()
        )
    assert caught.value.status_code == 400
    # What clients know it by, and shorten the prompt.
    assert caught.value.code == "context_length_exceeded"


def test_unknown_models_are_a_404(server: RunningServer) -> None:
    for messages in (MESSAGES, TEXT):
        with pytest.raises(openai.NotFoundError):
            server.client().chat.completions.create(model="gpt-5", messages=messages)


def test_pictures_by_url_are_not_fetched_for_direct_either(server: RunningServer) -> None:
    url = {"type": "image_url", "image_url": {"url": f"{server.url}/health"}}
    with pytest.raises(openai.BadRequestError):
        server.client().chat.completions.create(
            model=f"{NAME}:direct", messages=[{"role": "user", "content": [url]}], max_tokens=2
        )


def test_a_deadline_is_a_504_or_a_partial_answer(server: RunningServer) -> None:
    client = server.client()
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=NAME, messages=MESSAGES, extra_body=small_fan_out(timeout=1e-4))
    assert caught.value.status_code == 504
    assert caught.value.param == "mirl.timeout"


@pytest.mark.parametrize("preset", ["steered", "triple", "fast"])
def test_steered_presets(server: RunningServer, preset: str) -> None:
    response = server.client().chat.completions.create(
        model=NAME, messages=MESSAGES, seed=1, max_tokens=150, extra_body={"mirl": {"preset": preset}}
    )
    details, usage = evidence_of(response), response.usage
    assert usage is not None
    assert usage.completion_tokens == sampled(details)
    decoded = [description for description in details.descriptions if description.decoding is not None]
    weights = [description.decoding.mi_weight for description in decoded if description.decoding is not None]
    assert weights == ([0.25] if preset == "fast" else [0.0, 0.5, 1.0])
    assert details.budget is not None
    assert (details.budget.decoded, details.budget.descriptions) == (
        len(decoded),
        8 if preset == "steered" else 0,
    )
    assert response.choices[0].message.content in {chain.answer for chain in details.chains}


def test_a_steered_stream_shows_what_steering_did(server: RunningServer) -> None:
    stream = server.client().chat.completions.create(
        model=NAME,
        messages=MESSAGES,
        seed=1,
        max_tokens=150,
        stream=True,
        extra_body={"mirl": {"preset": "steered", "descriptions": 2, "ahead": 0}},
    )
    events = [(chunk.model_extra or {}).get("mirl") or {} for chunk in stream]
    names = [event["event"] for event in events if event]
    assert names[:2] == ["started", "branched"]
    assert names[-1] == "finished"
    described = [event["description"] for event in events if event.get("event") == "described"]
    switches = [
        switch
        for description in described
        if "decoding" in description
        for switch in description["decoding"]["switches"]
    ]
    assert all(switch["drafted"] != switch["chosen"] for switch in switches)
    assert all(switch["gain"] is None or switch["gain"] > 0 for switch in switches)
    assert all(description["votes"] >= 1 for description in described)


def test_wrong_steering_is_a_400_that_names_the_option(server: RunningServer) -> None:
    for options, param in (
        ({"preset": "best"}, "mirl.preset"),
        ({"contrast": [0.5], "prior_votes": [1, 2]}, "mirl.prior_votes"),
        ({"preset": "steered", "descriptions": 60}, "mirl.descriptions"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            server.client().chat.completions.create(
                model=NAME, messages=MESSAGES, extra_body={"mirl": options}
            )
        assert caught.value.param == param
