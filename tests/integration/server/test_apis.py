"""The Responses and the Anthropic API, describing, and one model by name, on a real `mirl-serve`."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest
from anthropic import Anthropic
from openai.types.responses import Response

from mirl_client import evidence
from tests.helpers.image_requests import image_part, image_question, small_fan_out
from tests.helpers.servers import NAME, RunningServer
from tests.helpers.waiting import wait_until
from tests.load.raw import connect

URL = image_part()["image_url"]["url"]
INPUT: list[Any] = [
    {"role": "user", "content": [
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "input_text", "text": "What is the sum of all digits?"},
    ]}
]  # fmt: skip
MESSAGES: list[Any] = [
    {"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": URL.split(",")[1]}},
        {"type": "text", "text": "What is the sum of all digits?"},
    ]}
]  # fmt: skip
# The largest fan-out that the server allows, so that the work lasts for seconds whatever the weights say.
LONG = {"descriptions": 32, "keep": 32, "forks": 16, "gate": "none", "early_stop": False}
# Without chains, the descriptions themselves must outlast the look at the gauges of a busy server.
LONG_DESCRIPTIONS = {"descriptions": 32, "description_tokens": 900, "early_stop": False}


def anthropic_client(server: RunningServer) -> Anthropic:
    made = Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)
    return server.clients.enter_context(made)


def test_the_three_apis_give_one_answer(server: RunningServer) -> None:
    # Serial requests with a seed repeat exactly, and the three ask for the same.
    chat = server.client().chat.completions.create(
        model=NAME, messages=image_question(), seed=1, max_tokens=150, extra_body=small_fan_out()
    )
    responses = server.client().responses.create(
        model=NAME, input=INPUT, max_output_tokens=150, extra_body={**small_fan_out(), "seed": 1}
    )
    messages = anthropic_client(server).messages.create(
        model=NAME, messages=MESSAGES, max_tokens=150, extra_body={**small_fan_out(), "seed": 1}
    )
    content = chat.choices[0].message.content
    assert responses.output_text == content
    assert messages.content[-1].type == "text"
    assert messages.content[-1].text == content
    assert chat.usage is not None
    assert responses.usage is not None
    tokens = (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert (responses.usage.input_tokens, responses.usage.output_tokens) == tokens
    assert (messages.usage.input_tokens, messages.usage.output_tokens) == tokens
    texts = []
    for answer in (chat, responses, messages):
        details = evidence(answer)
        assert details is not None
        texts.append([description.text for description in details.descriptions])
    assert len(texts[0]) == 3
    assert texts[0] == texts[1] == texts[2]


def test_streams(server: RunningServer) -> None:
    body: dict[str, Any] = {**small_fan_out(), "seed": 1}
    final: Response | None = None
    with server.client().responses.stream(
        model=NAME, input=INPUT, max_output_tokens=150, extra_body=body
    ) as events:
        for event in events:
            # Untrained weights may be cut off: that response is incomplete, not failed.
            if event.type in ("response.completed", "response.incomplete"):
                final = event.response
    assert final is not None
    assert evidence(final) is not None
    with anthropic_client(server).messages.stream(
        model=NAME, messages=MESSAGES, max_tokens=150, extra_body=body
    ) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == final.output_text
    assert message.stop_reason in ("end_turn", "max_tokens")


@pytest.mark.parametrize("name", [NAME, f"{NAME}:direct"])
def test_text_is_vllms_own(server: RunningServer, name: str) -> None:
    response = server.client().responses.create(model=name, input="hello", max_output_tokens=5)
    assert (response.model, evidence(response)) == (name, None)
    message = anthropic_client(server).messages.create(
        model=name, messages=[{"role": "user", "content": "hello"}], max_tokens=5
    )
    assert (message.model, evidence(message)) == (name, None)
    streamed = list(
        server.client().responses.create(model=name, input="hi", max_output_tokens=5, stream=True)
    )
    assert streamed[0].type == "response.created"
    assert streamed[0].response.model == name
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    with anthropic_client(server).messages.create(
        model=name, messages=messages, max_tokens=5, stream=True
    ) as stream:
        started = next(iter(stream))
    assert started.type == "message_start"
    assert started.message.model == name


TRAJECTORY = "<description>two dots</description><think>1</think><answer>2</answer>"


@pytest.mark.parametrize("name", [NAME, f"{NAME}:direct"])
def test_trajectories_of_vllms_own_answers_are_split(server: RunningServer, name: str) -> None:
    request: dict[str, Any] = {
        "model": name,
        "messages": [{"role": "user", "content": "And now?"}],
        "extra_body": {"structured_outputs": {"choice": [TRAJECTORY]}},
    }
    message = server.client().chat.completions.create(**request).choices[0].message
    assert message.content == "2"
    assert message.to_dict()["reasoning"] == "two dots\n\n1"
    chunks = list(server.client().chat.completions.create(**request, stream=True))
    deltas = [chunk.choices[0].delta.to_dict() for chunk in chunks if chunk.choices]
    assert "".join(str(delta.get("content") or "") for delta in deltas) == "2"
    assert "".join(str(delta.get("reasoning") or "") for delta in deltas) == "two dots\n\n1"


def test_an_image_to_direct_is_vllms_own(server: RunningServer) -> None:
    name = f"{NAME}:direct"
    response = server.client().responses.create(model=name, input=INPUT, max_output_tokens=5)
    assert (response.model, evidence(response)) == (name, None)
    message = anthropic_client(server).messages.create(model=name, messages=MESSAGES, max_tokens=5)
    assert (message.model, evidence(message)) == (name, None)
    assert message.usage.input_tokens > 16


def test_wrong_requests_to_the_backend_are_its_400(server: RunningServer) -> None:
    for path, body in (
        ("/v1/responses", {"input": 3}),
        ("/v1/messages", {"messages": "hi", "max_tokens": 3}),
    ):
        response = httpx.post(f"{server.url}{path}", json={"model": NAME, **body}, timeout=60)
        assert response.status_code == 400
        assert response.json()["error"]["message"]


def test_gated_refusals_name_the_field(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().responses.create(model=NAME, input=INPUT, previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
    with pytest.raises(anthropic.BadRequestError, match="budget_tokens"):
        anthropic_client(server).messages.create(
            model=NAME, messages=MESSAGES, max_tokens=2000,
            thinking={"type": "enabled", "budget_tokens": 1024},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": INPUT, "mirl": LONG}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 500, "mirl": LONG}),
        ("/v1/mirl/describe", {"messages": image_question(), "mirl": LONG_DESCRIPTIONS}),
    ],
)
def test_a_dropped_request_frees_the_engine(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    wait_until(lambda: server.sequences() == 0, 20)
    with connect(server, {"model": NAME, "temperature": 2.0, **body}, path):
        wait_until(lambda: server.sequences() > 16, 20)
    assert wait_until(lambda: server.sequences() == 0, 5) < 2


def test_describe_is_the_first_half_of_an_answer(server: RunningServer) -> None:
    body = {"model": NAME, "messages": image_question(), "seed": 1, "max_tokens": 150, **small_fan_out()}
    described = httpx.post(f"{server.url}/v1/mirl/describe", json=body, timeout=60).json()
    answered = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    texts = [description["text"] for description in described["data"]]
    assert texts == [description["text"] for description in answered["mirl"]["descriptions"]]
    assert sum(description["kept"] for description in described["data"]) <= 2
    assert described["usage"]["completion_tokens"] == sum(
        description["tokens"] for description in described["data"]
    )


def test_one_model_by_its_name(server: RunningServer) -> None:
    client = server.client()
    for name in (NAME, f"{NAME}:direct"):
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/serves-this")
