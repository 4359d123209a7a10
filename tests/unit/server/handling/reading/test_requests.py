"""Nothing of a request is dropped: each field of vLLM's model and of OpenAI's call has its place."""

import inspect
import json
import re
from typing import Any

import pytest

from mirl_core.config import Limits
from mirl_core.errors import ImageError, RequestError
from mirl_server.handling.reading.conversation import brings_image, read_conversation
from mirl_server.handling.reading.fields import INERT, REFUSED, read_request
from mirl_server.handling.reading.openapi import request_schema
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.http.bodies import read_json
from mirl_server.media.images import Images
from tests.unit.server.harness import data_url, question

BODY: dict[str, Any] = {"messages": [question()]}


def openai_fields() -> set[str]:
    from openai.resources.chat.completions import AsyncCompletions

    transport = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    return set(inspect.signature(AsyncCompletions.create).parameters) - transport


def test_every_field_of_openais_call_has_its_place() -> None:
    placed = set(REFUSED) | set(INERT) | set(ChatRequest.model_fields)
    assert openai_fields() - placed == set()


def test_every_field_of_vllms_request_has_its_place() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    placed = set(REFUSED) | set(INERT) | set(ChatRequest.model_fields)
    assert set(ChatCompletionRequest.model_fields) - placed == set()


def test_vllms_defaults_ask_for_nothing() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    # A client that spells out every default of vLLM's must not be refused.
    spelled = ChatCompletionRequest(messages=BODY["messages"], model="m").model_dump(mode="json")
    request, silent = read_request({**spelled, **BODY}), read_request(BODY)
    assert request.sampling(0.7, 512) == silent.sampling(0.7, 512)
    # A reasoning that is left in is the default; the rest are names.
    said = {name for name, value in request.model_dump(exclude=set(BODY)).items() if value}
    # So are one answer, to call no tools, and to call several at once if any.
    assert said == {
        "model", "request_id", "include_reasoning", "n", "tool_choice", "parallel_tool_calls"
    }  # fmt: skip
    assert (request.n, request.tool_choice) == (1, "none")


def test_who_is_sent_to_the_plain_model_is_helped_there() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    sent = {name for name, (_, remedy) in REFUSED.items() if "or ask the model's ':direct' name" in remedy}
    assert sent
    assert sent - set(ChatCompletionRequest.model_fields) == set()


def test_places_do_not_overlap() -> None:
    assert not set(REFUSED) & set(INERT)
    assert not (set(REFUSED) | set(INERT)) & set(ChatRequest.model_fields)


ASKING: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    # field: values that ask for nothing, and values that come near them and do ask
    "add_generation_prompt": ((True,), (False,)),
    "add_special_tokens": ((False,), (True,)),
    "allowed_token_ids": ((), ([], [1])),
    "audio": ((), ({},)),
    "bad_words": (([],), (["a"],)),
    "best_of": ((1,), (2, 0)),
    "chat_template": ((), ("",)),
    "continue_final_message": ((False,), (True,)),
    "documents": (([],), ([{}],)),
    "early_stopping": ((False,), (True,)),
    "ec_transfer_params": ((), ({},)),
    "echo": ((False,), (True,)),
    "function_call": (("none",), ("auto", {"name": "f"})),
    "functions": (([],), ([{}],)),
    "ignore_eos": ((False,), (True,)),
    "include_stop_str_in_output": ((False,), (True,)),
    "kv_transfer_params": ((), ({},)),
    "length_penalty": ((1.0, 1), (1.01, 0)),
    "logit_bias": (({},), ({"1": 0},)),
    "logprob_token_ids": (([],), ([1],)),
    "media_io_kwargs": (({},), ({"a": 1},)),
    "min_tokens": ((0,), (1, 2, -1)),
    "mm_payload": (("tensors",), ("none",)),
    "mm_processor_kwargs": (({},), ({"a": 1},)),
    "modalities": ((["text"],), (["text", "audio"], [])),
    "moderation": ((), ("auto", False)),
    "prediction": ((), ({},)),
    "prompt_logprobs": ((), (0, 1)),
    "repetition_detection": ((), ({},)),
    "return_mm_kwargs": ((True,), (False,)),
    "return_prompt_text": ((False,), (True,)),
    "return_token_ids": ((False,), (True,)),
    "return_token_offsets": ((False,), (True,)),
    "return_tokens_as_token_ids": ((False,), (True,)),
    "routed_experts_prompt_start": ((0,), (1,)),
    "service_tier": (("auto", "default"), ("flex", "priority")),
    "skip_special_tokens": ((True,), (False,)),
    "spaces_between_special_tokens": ((True,), (False,)),
    "stop_token_ids": (([],), ([2],)),
    "store": ((False,), (True,)),
    "thinking_token_budget": ((), (0, 1)),
    "truncate_prompt_tokens": ((), (-1, 1)),
    "truncation_side": ((), ("left",)),
    "use_beam_search": ((False,), (True,)),
    "verbosity": (("medium",), ("low", "high")),
    "vllm_xargs": (({},), ({"a": 1},)),
    "watermarking": ((False,), (True,)),
    "web_search_options": ((), ({},)),
}


def test_every_refused_field_is_tried() -> None:
    assert set(ASKING) == set(REFUSED)


@pytest.mark.parametrize("name", sorted(ASKING))
def test_refused_fields_say_so_and_their_neutral_values_pass(name: str) -> None:
    neutral, asking = ASKING[name]
    for value in ("asks for something", *asking):
        with pytest.raises(RequestError, match=f"^{name} is not supported for gated requests; ") as caught:
            read_request({**BODY, name: value})
        assert caught.value.param == name
    for value in (None, *neutral):
        assert read_request({**BODY, name: value}) == read_request(BODY)


@pytest.mark.parametrize("name", sorted(INERT))
def test_inert_fields_pass(name: str) -> None:
    assert read_request({**BODY, name: "x"}) == read_request(BODY)


def test_nulls_are_as_good_as_nothing() -> None:
    nulls = dict.fromkeys(set(ChatRequest.model_fields) - {"messages"})
    assert read_request({**BODY, **nulls}) == read_request(BODY)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("temperature", -0.1, "temperature"),
        ("temperature", 2.1, "temperature"),
        ("temperature", "hot", "temperature"),
        ("top_p", 0, "top_p"),
        ("top_p", 1.5, "top_p"),
        ("top_k", -2, "top_k"),
        ("min_p", 2, "min_p"),
        ("max_tokens", 0, "max_tokens"),
        ("max_completion_tokens", -1, "max_completion_tokens"),
        ("presence_penalty", 3, "presence_penalty"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("repetition_penalty", 5e-324, "repetition_penalty"),
        ("repetition_penalty", 1e31, "repetition_penalty"),
        ("seed", 2**63, "seed"),
        ("stop", "", "stop"),
        ("stop", ["a"] * 17, "stop"),
        ("stop", 3, "stop.str"),
        ("top_logprobs", 2, "top_logprobs"),
        ("top_logprobs", 21, "top_logprobs"),
        ("logprobs", "yes please", "logprobs"),
        ("n", 0, "n"),
        ("reasoning_effort", "heroic", "reasoning_effort"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("stream", "maybe", "stream"),
        ("messages", [], "messages"),
        ("messages", "hi", "messages"),
        ("mirl", 3, "mirl"),
        ("frobnicate", 1, "frobnicate"),
        ("chat_template_kwargs", {"chat_template": "{{ x }}"}, "chat_template_kwargs.chat_template"),
    ],
)
def test_wrong_values_are_named(field: str, value: object, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_request({**BODY, field: value})
    assert caught.value.param == param


@pytest.mark.parametrize("options", [{}, {"include_usage": None}, {"include_obfuscation": None}])
def test_stream_options_that_ask_for_nothing(options: dict[str, Any]) -> None:
    assert read_request({**BODY, "stream_options": options}).stream is None


@pytest.mark.parametrize("options", [{"continuous_usage_stats": True}, {"include_obfuscation": True}])
def test_stream_options_that_are_not_honoured(options: dict[str, bool]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        read_request({**BODY, "stream": True, "stream_options": options})


def test_sampling_takes_the_requests_values_and_the_models_else() -> None:
    silent = read_request(BODY).sampling(0.7, 100)
    assert (silent.temperature, silent.max_tokens, silent.top_p, silent.seed) == (0.7, 100, 1.0, None)
    fields = {
        "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3, "stop": "END", "seed": 0, "max_tokens": 7,
        "max_completion_tokens": 9,
    }  # fmt: skip
    said = read_request({**BODY, **fields}).sampling(0.7, 100)
    assert (said.temperature, said.top_p, said.top_k, said.min_p) == (0, 0.5, 0, 0.1)
    assert (said.repetition_penalty, said.presence_penalty, said.frequency_penalty) == (1.1, 0.2, 0.3)
    assert (said.stop, said.seed, said.max_tokens) == (("END",), 0, 9)
    assert read_request({**BODY, "max_tokens": 1000}).sampling(1, 100).max_tokens == 100


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_logprobs_are_requested_by_number(fields: dict[str, Any], top: int | None) -> None:
    assert read_request({**BODY, **fields}).sampling(1, 100).top_logprobs == top


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'{"a": NaN}', b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"null"],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_not_objects(body: bytes) -> None:
    with pytest.raises(RequestError):
        read_json(body)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_bodies_in_every_encoding_of_json(encoding: str) -> None:
    assert read_json('{"é": [1, "𝄞"]}'.encode(encoding)) == {"é": [1, "𝄞"]}


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf", b"\xef\xbb\xbf[]", b"\xff\xfe{", b"\xff\xfe\x00\xd8", b"\xef\xbb{}"]
)
def test_a_mark_alone_is_no_object(body: bytes) -> None:
    with pytest.raises(RequestError):
        read_json(body)


@pytest.mark.parametrize(
    ("messages", "brought"),
    [
        ([question()], True),
        ([{"role": "system", "content": "s"}, question()], True),
        ([question(), {"role": "assistant", "content": "7"}, {"role": "user", "content": "sure?"}], False),
        ([question(), {"role": "assistant", "content": "7"}], False),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], False),
        ([{"role": "user", "content": [{"type": "image", "image": "x"}]}], True),
        ([{"role": "user", "content": [{"image_url": "x"}]}], True),
        ([{"role": "tool", "content": [{"type": "image_url"}]}], False),
        ([{"role": "user", "content": None}], False),
        ([], False),
        ("hello", False),
        ([3], False),
        (None, False),
    ],
)
def test_what_brings_an_image(messages: object, brought: bool) -> None:
    assert brings_image(messages) is brought


async def conversation(*messages: dict[str, Any], **limits: int) -> Any:
    return await read_conversation(read_request({"messages": list(messages)}), Images(Limits(**limits)))


async def test_images_of_all_turns_are_decoded_in_order() -> None:
    earlier = question(url=data_url("blue"))
    answer = {"role": "assistant", "content": "7"}
    read = await conversation(
        {"role": "system", "content": "s"}, earlier, answer, question(url=data_url("red"))
    )
    assert [image.getpixel((0, 0)) for image in read.images] == [(0, 0, 255), (255, 0, 0)]
    assert read.brings_image
    assert read.messages[0] == {"role": "system", "content": "s"}
    assert read.messages[3]["content"][1] == {"type": "text", "text": "which digit?"}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "wizard", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "image", "image": "x"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "video_url", "video_url": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"image_url": "x"}]}, "messages[0].content[0]"),
    ],
)
async def test_malformed_messages_are_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        await conversation(message, question())
    assert caught.value.param == param


async def test_tool_calls_that_are_no_list_are_named() -> None:
    with pytest.raises(RequestError, match=r"^messages\[0\].tool_calls must be a list$") as caught:
        await conversation({"role": "assistant", "tool_calls": {"a": 1}}, question())
    assert caught.value.param == "messages[0].tool_calls"


async def test_a_bad_image_is_named() -> None:
    with pytest.raises(ImageError) as caught:
        await conversation(question(), {"role": "assistant", "content": "7"}, question(url="http://x/y.png"))
    assert caught.value.param == "messages[2].content[0]"


async def test_a_tool_turn_keeps_its_fields() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    read = await conversation(
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        question(),
    )
    assert read.messages[1]["tool_calls"] == calls
    assert read.messages[2]["tool_call_id"] == "1"


def test_the_schema_refers_to_its_own_definitions_alone() -> None:
    schema = request_schema()
    references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema)))
    assert {"#/$defs/InputMessage", "#/$defs/MIRLOptions"} <= references
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}
    assert "descriptions" in schema["$defs"]["MIRLOptions"]["properties"]
