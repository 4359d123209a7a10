"""Chat mode: what is requested of chat completions, what is read from them, what can't be served."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from mirl_core.engines.base import RequestContext
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.errors import ConfigError, EngineError, RequestError
from mirl_core.types import Conversation
from tests.unit.engines.remote.remote_cases import (
    CONTEXT,
    GENERATE,
    SHOWN,
    TEXT,
    FakeRequest,
    FakeServers,
    Letters,
    good_server,
    refusal,
    samples,
)

CHAT = "/v1/chat/completions"
PROMPT = [1, 2, 3]
PAIR = 300


class Merging(Letters):
    """Letters whose server merges `ab`."""

    @staticmethod
    def merged(text: str) -> list[int]:
        ids = [ord(letter) for letter in text]
        at = text.find("ab")
        return ids if at < 0 else [*ids[:at], PAIR, *ids[at + 2 :]]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join("ab" if token == PAIR else super(Merging, self).decode([token]) for token in ids)


def logprobs(text: str, hot: bool = False, ranked: int = 1) -> dict[str, Any]:
    tops = [{"token": f"token_id:{98 + rank}", "logprob": -0.5 - rank} for rank in range(ranked)]
    content = [{"token": f"token_id:{ord(letter)}", "logprob": -1.0, "top_logprobs": tops} for letter in text]
    if hot:
        content[0]["top_logprobs"] = [{"token": "token_id:98", "logprob": -3.0}]
    return {"content": content}


def complete(
    text: str = "xy",
    merge: Callable[[str], list[int]] | None = None,
    *,
    token_ids: bool = True,
    prompt_logprobs: bool = True,
) -> Callable[[FakeRequest], Any]:
    """Answers chat completions as vLLM does, or as a server that knows less."""

    def answer(request: FakeRequest) -> Any:
        body = request.body
        if not token_ids and "return_token_ids" in body:
            return refusal(400, "unknown field return_token_ids")
        last = body["messages"][-1]
        suffix = last["content"] if last["role"] == "assistant" else ""
        ids = [*PROMPT, *(merge(suffix) if merge else (ord(letter) for letter in suffix))]
        said = text[: body["max_tokens"]]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "length",
            "logprobs": logprobs(said, ranked=max(1, body.get("top_logprobs", 1))),
        }
        result: dict[str, Any] = {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}
        if token_ids:
            choice["token_ids"] = [ord(letter) for letter in said]
            result["prompt_token_ids"] = ids
        else:
            for position, letter in zip(choice["logprobs"]["content"], said, strict=True):
                position["token"] = letter
        if prompt_logprobs and body.get("prompt_logprobs") is not None:
            result["prompt_logprobs"] = [
                None,
                *(
                    {str(token): {"logprob": -0.1 * at}} | {"9": {"logprob": -0.05}}
                    for at, token in enumerate(ids[1:], 1)
                ),
            ]
        return result

    return answer


def chat_server(answer: Any, *, routes: bool = False) -> FakeServers:
    fake = good_server()
    fake.answers[CHAT] = answer
    if not routes:
        fake.answers[GENERATE] = refusal(403, "Restart vllm serve with --enable-scale-out")
    return fake


async def start(fake: FakeServers, mode: Any = "chat") -> RemoteEngine:
    return await RemoteEngine.start(["http://one"], transport=httpx.MockTransport(fake), mode=mode)


async def test_auto_falls_to_chat_and_says_so(letters: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    remote = await start(chat_server(complete()), "auto")
    assert not remote.token_exact
    assert remote.scores
    assert "--enable-scale-out" in (remote.inexact_reason or "")
    assert "not token-exact" in caplog.text
    await remote.close()
    for missing in (httpx.Response(404, json={"detail": "Not Found"}), refusal(404, "x", "NotFoundError")):
        fake = chat_server(complete())
        fake.answers[GENERATE] = missing
        remote = await start(fake, "auto")
        assert not remote.token_exact
        await remote.close()
    remote = await start(chat_server(complete(), routes=True), "auto")
    assert remote.token_exact
    assert remote.deviation is None
    await remote.close()


async def test_a_sample_goes_on_with_the_suffix(letters: list[str]) -> None:
    fake = chat_server(complete())
    remote = await start(fake)
    context = RequestContext("id", cache_salt="salt", priority=2, trace_headers=(("traceparent", "00-1"),))
    rendered = await remote.render(TEXT, context)
    assert rendered.prompt_tokens == 3
    drawn = [
        sample
        async for sample in remote.generate(
            rendered, remote.encode("<d>"), 2, _sampling(seed=1, stop=("y",), alternatives=2), context
        )
    ]
    assert [sample.text for sample in drawn] == ["xy"] * 2
    assert drawn[0].token_ids == (120, 121)
    assert drawn[0].confidence == (1.0, 1.0)
    bodies = fake.bodies(CHAT)[-2:]
    seeds = {body.pop("seed") for body in bodies}
    assert len(seeds) == 2
    assert bodies[0] == {
        "model": "the-model",
        "messages": [
            {"role": "user", "content": "How many?"},
            {"role": "assistant", "content": "<d>"},
        ],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "max_tokens": 4,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [ord("y")],
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"7": -100.0},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "cache_salt": bodies[0]["cache_salt"],
        "priority": 2,
    }
    assert fake.requests[-1].headers["traceparent"] == "00-1"
    with pytest.raises(RequestError, match="19"):
        await samples(remote, rendered, alternatives=20)
    await remote.close()


async def test_images_go_by_name_once_a_server_has_them(letters: list[str]) -> None:
    fake = chat_server(complete())
    remote = await start(fake)
    rendered = await remote.render(SHOWN, CONTEXT)
    await samples(remote, rendered)
    whole, named = (body["messages"][0]["content"][0] for body in fake.bodies(CHAT)[-2:])
    assert whole["image_url"]["url"].startswith("data:image/png;base64,")
    assert named == {"type": "image_url", "image_url": None, "uuid": whole["uuid"]}
    forgot = [refusal(400, "Cache miss"), complete()]
    fake.answers[CHAT] = lambda request: answer(request) if callable(answer := forgot.pop(0)) else answer
    assert len(await samples(remote, rendered)) == 1
    assert fake.bodies(CHAT)[-1]["messages"][0]["content"][0] == whole
    await remote.close()


async def test_scores_are_of_the_tokens_if_the_server_reads_the_same(letters: list[str]) -> None:
    remote = await start(chat_server(complete()))
    rendered = await remote.render(TEXT, CONTEXT)
    assert await remote.score(rendered, [(97, 98), (), (99,)], CONTEXT) == [
        pytest.approx((-0.3, -0.4)),
        (),
        pytest.approx((-0.3,)),
    ]
    (top,) = await remote.score_likeliest(rendered, (97, 98), 1, 20, CONTEXT)
    assert top == {98: pytest.approx(-0.4), 9: -0.05}
    assert remote.deviation is not None
    assert (remote.deviation.suffixes, remote.deviation.exact) == (3, 3)
    await remote.close()


async def test_scores_are_divided_where_the_server_reads_other_tokens(
    letters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirl_core.engines.remote import checks

    monkeypatch.setattr(checks, "load_tokenizer", lambda _: (Merging(), frozenset()))
    remote = await start(chat_server(complete(merge=Merging.merged)))
    rendered = await remote.render(TEXT, CONTEXT)
    suffix = tuple(map(ord, "cabd"))
    (scores,) = await remote.score(rendered, [suffix], CONTEXT)
    # c: −0.3; ab: −0.4, half each; d: −0.5.
    assert scores == pytest.approx((-0.3, -0.2, -0.2, -0.5))
    likeliest = await remote.score_likeliest(rendered, suffix, 0, 20, CONTEXT)
    assert [sorted(top) for top in likeliest] == [[9, 99], [97], [98], [9, 100]]
    assert remote.deviation is not None
    assert (remote.deviation.suffixes, remote.deviation.exact) == (2, 0)
    await remote.close()


async def test_other_servers_serve_what_needs_no_prompt_log_probabilities(letters: list[str]) -> None:
    fake = chat_server(complete(token_ids=False, prompt_logprobs=False))
    remote = await start(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    assert rendered.prompt_tokens == 3
    assert not remote.scores
    (sample,) = await samples(remote, rendered, stop=("y",))
    assert (sample.text, sample.finish_reason) == ("xy", "stop")
    assert sample.logprobs == (-1.0, -1.0)
    body = fake.bodies(CHAT)[-1]
    assert not {"top_k", "min_p", "repetition_penalty", "stop", "return_token_ids", "logit_bias"} & set(body)
    for call in (
        remote.score(rendered, [(97,)], CONTEXT),
        remote.score_likeliest(rendered, (97,), 0, 20, CONTEXT),
    ):
        with pytest.raises(RequestError, match="mi_weight 0") as caught:
            await call
        assert caught.value.param == "mirl.mi_weight"
    with pytest.raises(RequestError, match="vLLM") as caught:
        await remote.check_structure("{}")
    assert caught.value.param == "response_format"
    await remote.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: {"choices": [{"message": {}, "logprobs": None}]}, "no log-probabilities"),
        (refusal(401, "who?"), "who"),
        (refusal(400, "no chat template"), "no chat template"),
        (
            lambda request: (
                complete()(request)
                | {
                    "choices": [
                        {"token_ids": [1], "logprobs": logprobs("x", hot=request.body["temperature"] > 1.0)}
                    ]
                }
            ),
            "raw_logprobs",
        ),
    ],
)
async def test_servers_that_chat_mode_cannot_use(letters: list[str], answer: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        await start(chat_server(answer))


async def test_a_mirl_server_is_used_without_its_gate(letters: list[str]) -> None:
    fake = chat_server(complete())
    cards = fake.answers["/v1/models"]["data"]
    cards.append({**cards[1], "id": "the-model:direct", "parent": "the-model"})
    remote = await start(fake)
    await samples(remote, await remote.render(TEXT, CONTEXT))
    assert {body["model"] for body in fake.bodies(CHAT)} == {"the-model:direct"}
    assert remote.profile.model.name == "the-model"
    await remote.close()


async def test_abort_ends_the_requests(letters: list[str]) -> None:
    import asyncio

    fake = chat_server(complete())
    remote = await start(fake)
    rendered = await remote.render(TEXT, CONTEXT)

    async def never(_: FakeRequest) -> Any:
        await asyncio.sleep(600)

    fake.answers[CHAT] = never
    stream = remote.generate(rendered, (), 3, _sampling(), CONTEXT)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    await remote.abort("id")
    drawn = [await reader, *[sample async for sample in stream]]
    assert [sample.finish_reason for sample in drawn] == ["abort"] * 3
    assert remote.servers[0].in_flight == 0
    await remote.close()


async def test_nonsense_is_an_engine_error(letters: list[str]) -> None:
    fake = chat_server(complete())
    remote = await start(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    answers: Sequence[Any] = ({}, {"choices": []}, {"choices": [{"finish_reason": "error"}]})
    for answer in answers:
        fake.answers[CHAT] = answer
        with pytest.raises(EngineError):
            await samples(remote, rendered)
        with pytest.raises(EngineError):
            await remote.score(rendered, [(97,)], CONTEXT)
    await remote.close()


async def test_a_position_without_likeliest_tokens_is_an_engine_error(letters: list[str]) -> None:
    def without(request: FakeRequest) -> Any:
        answer = complete()(request)
        answer["choices"][0]["logprobs"]["content"][1]["top_logprobs"] = []
        return answer

    fake = chat_server(complete())
    remote = await start(fake)
    rendered = await remote.render(TEXT, CONTEXT)
    fake.answers[CHAT] = without
    with pytest.raises(EngineError, match="another form"):
        await samples(remote, rendered, alternatives=2)
    assert [sample.text for sample in await samples(remote, rendered)] == ["xy"]
    await remote.close()


async def test_the_last_message_goes_on_where_the_conversation_says_so(letters: list[str]) -> None:
    fake = chat_server(complete())
    remote = await start(fake)
    messages = (*TEXT.messages, {"role": "assistant", "content": "It is"})
    options = {"add_generation_prompt": False, "continue_final_message": True}
    rendered = await remote.render(Conversation(messages, options), CONTEXT)
    [_ async for _ in remote.generate(rendered, remote.encode(" a"), 1, _sampling(), CONTEXT)]
    assert fake.bodies(CHAT)[-1]["messages"][-1] == {"role": "assistant", "content": "It is a"}
    await remote.close()


def _sampling(**how: Any) -> Any:
    from mirl_core.engines.base import Sampling

    return Sampling(**{"max_tokens": 4, **how})
