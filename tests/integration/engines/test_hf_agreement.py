"""vLLM and transformers give the same mutual information for the same descriptions, and keep one protocol."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling
from mirl_core.engines.common.scoring import LONG_PROMPT
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.engines.vllm import score as _vllm_score
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.errors import EngineDeadError, EngineError, RequestError
from mirl_core.pipeline.events import Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation
from tests.integration.engines.contrast_cases import lock_step
from tests.integration.engines.likeliest_cases import check_likeliest
from tests.integration.engines.pipeline_cases import picture, settings

DESCRIPTIONS = (Path(__file__).parents[2] / "fixtures" / "descriptions.txt").read_text().splitlines()
PIXELS = np.random.default_rng(11).integers(0, 256, (64, 64, 3), dtype=np.uint8)
QUESTION = Conversation(
    (
        {
            "role": "user",
            "content": [
                {"type": "image", "image": Image.fromarray(PIXELS)},
                {"type": "text", "text": "What is the sum of the red digits?"},
            ],
        },
    )
)


def context(name: str = "") -> RequestContext:
    return RequestContext(name or uuid.uuid4().hex)


async def terms(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """log p(d | I, q) and log p(d | q) of each description; nats; shapes (50,)."""
    suffixes = [engine.encode(f"<description>{text}</description>") for text in DESCRIPTIONS]
    sums = []
    for conversation in (QUESTION, QUESTION.with_images(None)):
        rendered = await engine.render(conversation, context())
        scores = await engine.score(rendered, suffixes, context())
        sums.append(np.array([sum(score) for score in scores]))
    return sums[0], sums[1]


async def differences(first: Engine, second: Engine) -> np.ndarray:
    """How far the two engines' MI of each description is apart; nats; shape (50,)."""
    (seen, blind), (other_seen, other_blind) = await terms(first), await terms(second)
    assert len(seen) == 50
    apart: np.ndarray = np.abs((seen - blind) - (other_seen - other_blind))
    return apart


async def sample(engine: Engine, rendered: Rendered, n: int, sampling: Sampling) -> list[Sample]:
    samples = [s async for s in engine.generate(rendered, (), n, sampling, context())]
    return sorted(samples, key=lambda s: s.index)


async def test_mi_agrees_in_float32(hf: HFEngine, vllm_float32: VLLMEngine) -> None:
    apart = await differences(hf, vllm_float32)
    print(f"largest difference of MI over 50 descriptions, float32: {apart.max():.2e} nats")
    assert apart.max() <= 1e-4


async def test_mi_agrees_in_bfloat16(bundled_model: Path, vllm_engine: VLLMEngine) -> None:
    """The weights' own type: what a user gets. Rounding, which grows with a description's length."""
    engine = await HFEngine.start(str(bundled_model), dtype=torch.bfloat16)
    apart = await differences(engine, vllm_engine)
    await engine.close()
    tokens = [len(engine.encode(f"<description>{text}</description>")) for text in DESCRIPTIONS]
    per_token = (apart / tokens).max()
    print(f"largest difference of MI over 50 descriptions, bfloat16: {apart.max():.2e} nats")
    print(f"and per token: {per_token:.2e} nats")
    assert per_token <= 0.1


@pytest.mark.parametrize("lookahead", [1, 8])
async def test_draft_and_verify_is_the_decode_token_by_token(
    hf: HFEngine, vllm_float32: VLLMEngine, lookahead: int
) -> None:
    """vLLM's drafts against transformers' single steps: the same tokens, for all λ of one request."""
    weights = (0.0, 0.5, 1.0)
    options = MIRLOptions(contrast=weights, descriptions=0, description_tokens=64, lookahead=lookahead)
    own = settings()
    switches = 0
    for number in range(2):
        conversation = picture(number)
        run = Pipeline(vllm_float32, own).run(
            conversation, options, Sampling(max_tokens=200), context(), chains=False
        )
        *_, last = [event async for event in run]
        assert isinstance(last, Gated)
        for weight, description in zip(weights, last.descriptions, strict=True):
            token_by_token = await lock_step(hf, own, conversation, weight, 64, lookahead)
            assert description.token_ids == token_by_token
            assert description.decoding is not None
            switches += len(description.decoding.switches)
        assert last.stages[0].sequences < sum(len(d.token_ids) for d in last.descriptions)
    assert switches > 0


async def test_both_render_and_decode_alike(hf: HFEngine, vllm_float32: VLLMEngine) -> None:
    """Same prompt, and the same greedy continuation."""
    greedy = Sampling(max_tokens=16, temperature=0, alternatives=20)
    texts = []
    confidence = []
    for engine in (hf, vllm_float32):
        rendered = await engine.render(QUESTION, context())
        (only,) = await sample(engine, rendered, 1, greedy)
        texts.append((rendered.prompt_tokens, only.token_ids, only.text.rstrip("\ufffd"), only.finish_reason))
        confidence.append(only.confidence)
    assert texts[0] == texts[1]
    assert len(confidence[0]) == len(texts[0][1])
    assert confidence[0] == pytest.approx(confidence[1], abs=1e-3)


@pytest.mark.parametrize("which", ["hf", "vllm"])
async def test_score_equals_sampling(hf: HFEngine, vllm_float32: VLLMEngine, which: str) -> None:
    engine: Engine = hf if which == "hf" else vllm_float32
    rendered = await engine.render(QUESTION, context())
    samples = await sample(engine, rendered, 8, Sampling(max_tokens=30, temperature=1.3, top_p=0.95, seed=2))
    scores = await engine.score(rendered, [s.token_ids for s in samples], context())
    worst = max(np.abs(np.subtract(a, s.logprobs)).max() for a, s in zip(scores, samples, strict=True))
    print(f"largest difference of score and sampling log-probability, float32, {which}: {worst:.2e} nats")
    assert worst <= 1e-4


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("long_prompt", [LONG_PROMPT, 10**9], ids=["through the cache", "without"])
async def test_the_likeliest_tokens_agree(
    hf: HFEngine,
    vllm_float32: VLLMEngine,
    monkeypatch: pytest.MonkeyPatch,
    images: bool,
    long_prompt: int,
) -> None:
    monkeypatch.setattr(_vllm_score, "LONG_PROMPT", long_prompt)
    prompt = Conversation((*QUESTION.messages, {"role": "user", "content": "Count. " * 100}))
    rendered = await vllm_float32.render(prompt.with_images(None), context())
    assert rendered.prompt_tokens >= LONG_PROMPT
    await check_likeliest(vllm_float32, hf, prompt if images else prompt.with_images(None))


async def test_cancelling_a_score_ends_its_request(vllm_float32: VLLMEngine) -> None:
    rendered = await vllm_float32.render(QUESTION, context())
    requests = vllm_float32.client.output_processor
    call = vllm_float32.score_likeliest(rendered, (10,) * 1500, 0, 20, context())
    scoring = asyncio.ensure_future(call)
    async with asyncio.timeout(30):
        while not requests.has_unfinished_requests():  # noqa: ASYNC110 - vLLM notifies nobody of it
            await asyncio.sleep(0)
    assert scoring.cancel()
    await asyncio.wait([scoring])
    assert scoring.cancelled()
    assert not requests.has_unfinished_requests()


async def test_hf_samples_are_whole(hf: HFEngine) -> None:
    rendered = await hf.render(QUESTION, context())
    settings = Sampling(
        max_tokens=12, seed=4, top_k=50, min_p=0.01, presence_penalty=0.5, repetition_penalty=1.1
    )
    samples, again = [await sample(hf, rendered, 4, settings) for _ in range(2)]
    assert samples == again
    assert len({s.token_ids for s in samples}) > 1
    for s in samples:
        assert len(s.logprobs) == len(s.token_ids) <= 12
        assert s.text == hf.decode(s.token_ids)


async def test_hf_text_ends_with_the_stop_string(hf: HFEngine) -> None:
    rendered = await hf.render(QUESTION, context())
    (free,) = await sample(hf, rendered, 1, Sampling(max_tokens=20, temperature=0))
    stop = hf.decode(free.token_ids[3:5])
    (stopped,) = await sample(hf, rendered, 1, Sampling(max_tokens=20, temperature=0, stop=(stop,)))
    assert stopped.text.endswith(stop)
    assert stopped.finish_reason == "stop"


async def a_token(engine: HFEngine) -> None:
    """Wait until the model computes a token: until its next forward pass."""
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def notify(*_: object) -> None:
        loop.call_soon_threadsafe(begun.set)

    hook = engine._model.register_forward_pre_hook(notify)
    async with asyncio.timeout(60):
        await begun.wait()
    hook.remove()


async def test_hf_abort_and_close(hf: HFEngine) -> None:
    rendered = await hf.render(QUESTION, context())
    long = Sampling(max_tokens=1900, temperature=2.0)
    stream = hf.generate(rendered, (), 3, long, context("it"))
    reader = asyncio.ensure_future(anext(stream))
    await a_token(hf)
    await hf.abort("it")
    samples = [await reader, *[s async for s in stream]]
    assert any(s.finish_reason == "abort" for s in samples)
    assert len(samples) == 3
    stream = hf.generate(rendered, (), 3, long, context("other"))
    reader = asyncio.ensure_future(anext(stream))
    await a_token(hf)
    reader.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([reader])
        # The thread is free again: nothing of the cancelled call is left in it.
        await sample(hf, rendered, 1, Sampling(max_tokens=1))


async def test_hf_errors(hf: HFEngine, bundled_model: Path) -> None:
    too_long = Conversation(({"role": "user", "content": "red " * 5000},))
    with pytest.raises(RequestError):
        await hf.render(too_long, context())
    with pytest.raises(RequestError):
        await hf.render(Conversation(({"content": "nobody says this"},)), context())
    with pytest.raises(EngineError):
        await HFEngine.start(str(bundled_model / "absent"))
    engine = await HFEngine.start(str(bundled_model))
    await engine.close()
    with pytest.raises(EngineDeadError):
        await engine.render(QUESTION, context())
