"""The engine on real vLLM: what the protocol promises, seen from outside and in vLLM's own gauges."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from vllm.v1.metrics.loggers import PrometheusStatLogger

from mirl_core.engines.base import Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.vllm import score as _vllm_score
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.errors import EngineDeadError, EngineError, RequestError
from mirl_core.types import Conversation

# What this goes on from repeats itself until the context is full: half a minute for 16 branches. From the
# prompt alone the bundled model ends within 50 tokens, so that an abort would have nothing to do.
ENDLESS = Sampling(max_tokens=1500, temperature=0.2, frequency_penalty=-2.0)
REPEATED = "red " * 60


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def question(image: Image.Image | None, text: str = "How many red digits are there?") -> Conversation:
    image_part = [] if image is None else [{"type": "image", "image": image}]
    return Conversation(({"role": "user", "content": [*image_part, {"type": "text", "text": text}]},))


def context(name: str = "", **kwargs: Any) -> RequestContext:
    return RequestContext(name or uuid.uuid4().hex, **kwargs)


async def sample(
    engine: VLLMEngine, rendered: Rendered, n: int, sampling: Sampling, suffix: tuple[int, ...] = ()
) -> list[Sample]:
    samples = [s async for s in engine.generate(rendered, suffix, n, sampling, context())]
    return sorted(samples, key=lambda s: s.index)


async def requests_in_engine(engine: VLLMEngine) -> float:
    """vLLM's own count of running and waiting requests, as of a step that has just ended."""
    rendered = await engine.render(question(None), context())
    await sample(engine, rendered, 1, Sampling(max_tokens=1))
    # This engine's own gauges: in the registry they are replaced when a second engine starts.
    loggers = engine.client.logger_manager.stat_loggers
    (gauges,) = [logger for logger in loggers if isinstance(logger, PrometheusStatLogger)]
    running, waiting = gauges.gauge_scheduler_running, gauges.gauge_scheduler_waiting
    return float(sum(gauge._value.get() for gauge in (*running.values(), *waiting.values())))


async def runs(engine: VLLMEngine) -> None:
    """Wait until the engine works on something."""
    async with asyncio.timeout(30):
        while not await requests_in_engine(engine):
            pass


async def test_samples_are_whole(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(picture(0)), context())
    samples = await sample(vllm_engine, rendered, 8, Sampling(max_tokens=24, seed=3))
    assert [s.index for s in samples] == list(range(8))
    for s in samples:
        assert len(s.logprobs) == len(s.token_ids) <= 24
        assert all(value <= 0 for value in s.logprobs)
        # Cut inside a character, one shows the broken byte and the other leaves it out.
        assert s.text == vllm_engine.decode(s.token_ids).rstrip("\ufffd")
        assert s.finish_reason == ("length" if len(s.token_ids) == 24 else "stop")
    assert len({s.token_ids for s in samples}) > 1, "every branch has its own seed"


async def test_prompt_is_counted_as_the_model_sees_it(vllm_engine: VLLMEngine) -> None:
    conversation = question(picture(0))
    with_image = await vllm_engine.render(conversation, context())
    without = await vllm_engine.render(conversation.with_images(None), context())
    assert with_image.prompt_tokens > without.prompt_tokens > 0
    assert with_image.prompt_tokens == len(with_image.inputs.token_ids)


async def test_tags_are_tokens_that_survive_decoding(vllm_engine: VLLMEngine) -> None:
    text = "<description>3 red</description><think>3</think><answer>3</answer>"
    assert vllm_engine.decode(vllm_engine.encode(text)) == text
    assert len(vllm_engine.encode("</description>")) == 1


async def test_text_ends_with_the_stop_string(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(picture(0)), context())
    (free,) = await sample(vllm_engine, rendered, 1, Sampling(max_tokens=20, temperature=0))
    stop = vllm_engine.decode(free.token_ids[3:5])
    (stopped,) = await sample(vllm_engine, rendered, 1, Sampling(max_tokens=20, temperature=0, stop=(stop,)))
    assert stopped.text.endswith(stop)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


async def test_alternatives_change_nothing_but_the_confidence(vllm_engine: VLLMEngine) -> None:
    """Same samples with and without; the tag is one token, so vLLM stops by it and detokenizes nothing."""
    rendered = await vllm_engine.render(question(picture(0)), context())
    opening = vllm_engine.encode("<description>")
    sampling = Sampling(max_tokens=60, seed=5, stop=("</description>",))
    plain = await sample(vllm_engine, rendered, 6, sampling, opening)
    sure = await sample(vllm_engine, rendered, 6, replace(sampling, alternatives=20), opening)
    assert [replace(s, confidence=()) for s in sure] == plain
    assert any(s.text.endswith("</description>") for s in sure)
    for s in sure:
        assert len(s.confidence) == len(s.token_ids)
        assert all(0 < value < 100 for value in s.confidence)


async def test_more_alternatives_than_vllm_gives_are_refused(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(None), context())
    with pytest.raises(RequestError, match="21"):
        await sample(vllm_engine, rendered, 1, Sampling(max_tokens=2, alternatives=21))


async def test_seeds_repeat(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(picture(1)), context())
    first, again, other = [
        await sample(vllm_engine, rendered, 1, Sampling(max_tokens=16, seed=seed)) for seed in (5, 5, 6)
    ]
    assert first[0].token_ids == again[0].token_ids != other[0].token_ids


async def test_score_is_what_sampling_said(vllm_engine: VLLMEngine) -> None:
    """Raw on both sides: neither temperature, top-p, penalties nor bans show in the values."""
    rendered = await vllm_engine.render(question(picture(2)), context())
    hot = Sampling(max_tokens=24, temperature=1.5, top_p=0.9, repetition_penalty=1.2, seed=1)
    samples = await sample(vllm_engine, rendered, 6, hot)
    scores = await vllm_engine.score(rendered, [s.token_ids for s in samples], context())
    assert max(np.abs(np.subtract(a, s.logprobs)).max() for a, s in zip(scores, samples, strict=True)) < 0.05


async def test_score_does_not_depend_on_the_batch(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(None), context())
    suffixes = [vllm_engine.encode(f"<description>{i} red digits</description>") for i in range(6)]
    together = await vllm_engine.score(rendered, [*suffixes, suffixes[0], ()], context())
    assert together[6] == together[0]
    assert together[7] == ()
    narrow = VLLMEngine(vllm_engine.client, score_batch_tokens=1)
    alone = await narrow.score(rendered, suffixes, context())
    for a, b, suffix in zip(together, alone, suffixes, strict=False):
        assert len(a) == len(suffix)
        assert np.allclose(a, b, atol=0.05)


async def test_score_of_a_long_prompt_goes_through_the_cache(
    vllm_engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values; also for suffixes that share their beginning, or were sampled before."""
    rendered = await vllm_engine.render(question(picture(2), "Count. " * 100), context())
    assert rendered.prompt_tokens >= _vllm_score.LONG_PROMPT
    beginning = vllm_engine.encode("one two three four five six seven eight nine " * 8)
    suffixes = [beginning[:40], (*beginning, 20), (*beginning, 21, 22), (30, 31), (32,)]
    sampled = await sample(vllm_engine, rendered, 2, Sampling(max_tokens=80, seed=1))
    suffixes += [s.token_ids for s in sampled]
    cached = await vllm_engine.score(rendered, suffixes, context())
    monkeypatch.setattr(_vllm_score, "LONG_PROMPT", 10**9)
    plain = await vllm_engine.score(rendered, suffixes, context())
    for a, b, suffix in zip(cached, plain, suffixes, strict=True):
        assert len(a) == len(suffix)
        assert np.allclose(a, b, atol=0.05)


async def test_placeholders_are_never_sampled(vllm_engine: VLLMEngine) -> None:
    image_token = vllm_engine.client.model_config.hf_config.image_token_id
    rendered = await vllm_engine.render(question(picture(3)), context())
    samples = await sample(vllm_engine, rendered, 100, Sampling(max_tokens=100, temperature=2.0, seed=1))
    assert sum(len(s.token_ids) for s in samples) > 1000
    assert all(image_token not in s.token_ids for s in samples)


async def test_images_are_processed_once(vllm_engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One preprocessing and one pass of the vision encoder, whatever N, k and m."""
    client = vllm_engine.client
    processor = client.renderer.get_mm_processor().info.get_hf_processor().image_processor
    processed = 0
    plain = type(processor).preprocess

    def counted(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal processed
        processed += 1
        return plain(self, images, *args, **kwargs)

    monkeypatch.setattr(type(processor), "preprocess", counted)
    (before,) = await client.collective_rpc("encoded_images")
    conversation = question(picture(4))
    rendered = await vllm_engine.render(conversation, context())
    assert processed == 1
    text_only = await vllm_engine.render(conversation.with_images(None), context())
    opening = vllm_engine.encode("<description>")
    samples = await sample(vllm_engine, rendered, 10, Sampling(max_tokens=8, seed=1), opening)
    suffixes = [opening + s.token_ids for s in samples]
    await vllm_engine.score(text_only, suffixes, context())
    for suffix in suffixes[:6]:
        await sample(vllm_engine, rendered, 2, Sampling(max_tokens=8, seed=1), suffix)
    (after,) = await client.collective_rpc("encoded_images")
    assert processed == 1
    assert after - before == 1
    # The same picture in another request: preprocessed at most once more.
    await vllm_engine.render(conversation, context())
    assert processed <= 2


async def test_forks_outlive_every_cache(vllm_engine: VLLMEngine) -> None:
    """A rendering keeps its images: forking it works after vLLM has forgotten them."""
    sampling = Sampling(max_tokens=12, temperature=0)
    rendered = await vllm_engine.render(question(picture(5)), context())
    first = await sample(vllm_engine, rendered, 1, sampling)
    await vllm_engine.client.reset_mm_cache()
    await vllm_engine.client.reset_encoder_cache()
    await vllm_engine.client.reset_prefix_cache()
    again = await sample(vllm_engine, rendered, 3, sampling)
    assert [s.token_ids for s in again] == [first[0].token_ids] * 3
    # A second rendering of a picture that vLLM only remembers by reference keeps its own copy too.
    second = await vllm_engine.render(question(picture(5)), context())
    await vllm_engine.client.reset_mm_cache()
    await vllm_engine.client.reset_encoder_cache()
    await vllm_engine.client.reset_prefix_cache()
    assert (await sample(vllm_engine, second, 1, sampling))[0].token_ids == first[0].token_ids


async def test_abort_yields_what_was_sampled(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(picture(6)), context())
    suffix = vllm_engine.encode(REPEATED)
    stream = vllm_engine.generate(rendered, suffix, 16, ENDLESS, context("to-abort"))
    first = asyncio.ensure_future(anext(stream))
    await runs(vllm_engine)
    await vllm_engine.abort("to-abort")
    async with asyncio.timeout(5):
        samples = [await first, *[s async for s in stream]]
    assert sorted(s.index for s in samples) == list(range(16))
    assert {s.finish_reason for s in samples} == {"abort"}
    assert any(s.token_ids for s in samples)
    assert all(len(s.logprobs) == len(s.token_ids) for s in samples)
    assert await requests_in_engine(vllm_engine) == 0
    await vllm_engine.abort("never-heard-of")


async def test_abort_before_the_first_token(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(picture(6)), context())
    suffix = vllm_engine.encode(REPEATED)
    stream = vllm_engine.generate(rendered, suffix, 4, ENDLESS, context("at-once"))
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await vllm_engine.abort("at-once")
    async with asyncio.timeout(5):
        samples = [await first, *[s async for s in stream]]
    assert [s.finish_reason for s in samples] == ["abort"] * 4
    assert await requests_in_engine(vllm_engine) == 0


@pytest.mark.parametrize("how", ["aclose", "cancel"])
async def test_closing_stops_the_engine(vllm_engine: VLLMEngine, how: str) -> None:
    rendered = await vllm_engine.render(question(picture(7)), context())
    # A stream is closed between two samples: about two thirds of these end by themselves, the others go on.
    suffix = () if how == "aclose" else vllm_engine.encode(REPEATED)
    sampling = replace(ENDLESS, temperature=1.5, seed=1) if how == "aclose" else ENDLESS
    stream = vllm_engine.generate(rendered, suffix, 32, sampling, context())
    reader = asyncio.ensure_future(anext(stream))
    if how == "cancel":
        await runs(vllm_engine)
        assert reader.cancel()
        await asyncio.wait([reader])
    else:
        await reader
        assert await requests_in_engine(vllm_engine) > 0
        await stream.aclose()
    assert await requests_in_engine(vllm_engine) == 0


async def test_prompts_that_do_not_fit(vllm_engine: VLLMEngine) -> None:
    with pytest.raises(RequestError) as caught:
        await vllm_engine.render(question(picture(8), "red " * 5000), context())
    assert caught.value.param == "messages"
    rendered = await vllm_engine.render(question(None), context())
    room = vllm_engine.max_model_len - rendered.prompt_tokens
    (full,) = await sample(vllm_engine, rendered, 1, Sampling(max_tokens=8), (10,) * room)
    assert (full.token_ids, full.finish_reason) == ((), "length")
    with pytest.raises(RequestError):
        await vllm_engine.score(rendered, [(10,) * room], context())


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "hologram", "hologram": "x"}]},
        {"content": "nobody says this"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "no-such-scheme://x"}}]},
    ],
)
async def test_refused_conversations(vllm_engine: VLLMEngine, message: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        await vllm_engine.render(Conversation((message,)), context())
    assert caught.value.param == "messages"


async def test_refused_settings(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(None), context())
    with pytest.raises(RequestError):
        await sample(vllm_engine, rendered, 1, Sampling(max_tokens=4, top_p=7.0))
    with pytest.raises(RequestError):
        await sample(vllm_engine, rendered, 1, Sampling(max_tokens=4), (10**9,))


async def test_one_call_per_request_id(vllm_engine: VLLMEngine) -> None:
    rendered = await vllm_engine.render(question(None), context())
    first = vllm_engine.generate(rendered, (), 2, Sampling(max_tokens=40), context("twice"))
    reader = asyncio.ensure_future(anext(first))
    await asyncio.sleep(0)
    with pytest.raises(EngineError, match="already"):
        await anext(vllm_engine.generate(rendered, (), 1, Sampling(max_tokens=40), context("twice")))
    await reader
    await first.aclose()


async def test_context_reaches_vllm(vllm_engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, dict[str, Any]]] = []
    plain = vllm_engine.client.generate

    def recorded(prompt: Any, params: Any, request_id: str, **kwargs: Any) -> AsyncIterator[Any]:
        seen.append((prompt, kwargs))
        result: AsyncIterator[Any] = plain(prompt, params, request_id, **kwargs)
        return result

    monkeypatch.setattr(vllm_engine.client, "generate", recorded)
    rendered = await vllm_engine.render(question(picture(9)), context())
    tenant = context(cache_salt="tenant-1", priority=3, trace_headers=(("traceparent", "00-1-2-01"),))
    async for _ in vllm_engine.generate(rendered, (), 2, Sampling(max_tokens=2), tenant):
        pass
    await vllm_engine.score(rendered, [(10, 11)], tenant)
    assert len(seen) == 3
    for prompt, kwargs in seen:
        assert prompt["cache_salt"] == "tenant-1"
        assert kwargs["priority"] == 3
        assert kwargs["trace_headers"] == {"traceparent": "00-1-2-01"}


async def test_health(vllm_engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    await vllm_engine.health()
    assert not vllm_engine.client.errored
    monkeypatch.setattr(type(vllm_engine.client), "errored", True)
    with pytest.raises(EngineDeadError):
        await vllm_engine.health()


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
async def test_death_is_reported(bundled_model: Path) -> None:
    """The engine's process is killed under a running request: everything says so from then on."""
    engine = await VLLMEngine.start(str(bundled_model))
    rendered = await engine.render(question(picture(1)), context())
    stream = engine.generate(rendered, engine.encode(REPEATED), 4, ENDLESS, context())
    reader = asyncio.ensure_future(anext(stream))
    await runs(engine)
    for process in engine.client.engine_core.resources.engine_manager.processes:
        process.kill()
    with pytest.raises(EngineDeadError):
        await reader
    with pytest.raises(EngineDeadError):
        await engine.health()
    with pytest.raises(EngineDeadError):
        await sample(engine, rendered, 1, Sampling(max_tokens=4))
    with pytest.raises(EngineDeadError):
        await engine.score(rendered, [(10, 11)], context())
    await engine.close()
    with pytest.raises(EngineDeadError):
        await engine.health()


async def test_flood_of_seeded_image_requests(vllm_engine: VLLMEngine) -> None:
    """200 at once, each with a picture and a seed: with chunked prefill these kill vLLM's CPU engine."""

    async def seeded_sample(number: int) -> Sample:
        rendered = await vllm_engine.render(question(picture(1000 + number)), context())
        sampling = Sampling(max_tokens=8 + number % 9, seed=number)
        return (await sample(vllm_engine, rendered, 1, sampling))[0]

    samples = await asyncio.gather(*[seeded_sample(number) for number in range(200)])
    assert all(s.finish_reason in ("stop", "length") for s in samples)
    await vllm_engine.health()
    assert await requests_in_engine(vllm_engine) == 0
