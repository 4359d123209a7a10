"""Models whose images shift the positions of what follows: every call goes on from its own prompt's shift."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from mirl_core.engines.base import Rendered, RequestContext, Sampling
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.errors import ContextLengthError
from mirl_core.types import Conversation
from tests.fixtures.patches import IMAGE, START, PatchProcessor

SUFFIXES = ((30, 31, 32, 33, 34), (35, 36), (37,))


def build(family: str) -> Any:
    """Random weights, 16 wide, so large that a shifted position shows."""
    text = {
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "patch_size": 14}
    vision["out_hidden_size"] = 16
    ids = {"image_token_id": IMAGE, "video_token_id": 8, "vision_start_token_id": START}
    if family == "qwen2.5":
        windows = {"window_size": 56, "fullatt_block_indexes": [0]}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision | windows, **ids)
        return transformers.Qwen2_5_VLForConditionalGeneration(config)
    deep = {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision | deep, **ids)
    return transformers.Qwen3VLForConditionalGeneration(config)


@pytest.fixture(params=["qwen2.5", "qwen3"])
def engine(request: pytest.FixtureRequest) -> HFEngine:
    torch.manual_seed(0)
    processor: Any = PatchProcessor(True, lambda patches: patches // 4)
    processor.tokenizer = SimpleNamespace(
        all_special_tokens=[], decode=lambda ids, **_: " ".join(map(str, ids))
    )
    return HFEngine(build(request.param).float(), processor)


async def ask(engine: HFEngine, *sizes: tuple[int, int]) -> Rendered:
    images = [{"type": "image", "image": Image.new("RGB", size)} for size in sizes]
    message = {"role": "user", "content": [*images, {"type": "text", "text": "how many of them"}]}
    return await engine.render(Conversation((message,)), context())


def context() -> RequestContext:
    return RequestContext(uuid.uuid4().hex)


@torch.no_grad()
def logprobs(engine: HFEngine, rendered: Rendered, suffix: Sequence[int]) -> torch.Tensor:
    """Log p of every token at each position of a suffix, by one forward pass over all, without a cache."""
    inputs, tail = dict(rendered.inputs), torch.tensor([suffix])
    for name, filled in (
        ("input_ids", tail),
        ("attention_mask", torch.ones_like(tail)),
        ("mm_token_type_ids", torch.zeros_like(tail)),
    ):
        inputs[name] = torch.cat([inputs[name], filled], dim=1)
    logits: torch.Tensor = engine._model(**inputs, use_cache=False).logits[0, -len(suffix) - 1 : -1]
    return logits.log_softmax(-1)


def plain(engine: HFEngine, rendered: Rendered, suffix: Sequence[int]) -> tuple[float, ...]:
    """Log p of each token of a suffix."""
    rows = logprobs(engine, rendered, suffix)
    return tuple(rows.gather(-1, torch.tensor([suffix]).T).squeeze(-1).tolist())


def furthest(ours: Sequence[tuple[float, ...]], theirs: Sequence[tuple[float, ...]]) -> float:
    """The largest difference of any two values; nats."""
    return max(
        abs(mine - yours)
        for our_row, their_row in zip(ours, theirs, strict=True)
        for mine, yours in zip(our_row, their_row, strict=True)
    )


async def test_scores_do_not_depend_on_the_calls_before(engine: HFEngine) -> None:
    prompts = [await ask(engine), await ask(engine, (112, 112)), await ask(engine, (56, 84), (140, 56))]
    expected = [[plain(engine, prompt, suffix) for suffix in SUFFIXES] for prompt in prompts]
    for number in (0, 1, 0, 2, 1, 0):
        scores = await engine.score(prompts[number], SUFFIXES, context())
        assert furthest(scores, expected[number]) < 1e-4
    await engine.close()


async def test_the_likeliest_tokens_are_those_of_one_forward_pass(engine: HFEngine) -> None:
    """Of a prompt with images, whose shift the model forgets between the calls, and from any position on."""
    prompts = [await ask(engine), await ask(engine, (56, 84), (140, 56))]
    suffix = SUFFIXES[0]
    for number in (0, 1, 0):
        rows = logprobs(engine, prompts[number], suffix)
        for start in range(len(suffix) + 1):
            positions = await engine.score_likeliest(prompts[number], suffix, start, 3, context())
            assert len(positions) == len(suffix) - start
            for position, token, row in zip(positions, suffix[start:], rows[start:], strict=True):
                best = row.topk(3).indices.tolist()
                assert set(position) == {*best, token}
                assert position == pytest.approx(
                    {token_id: float(row[token_id]) for token_id in position}, abs=1e-4
                )
    (everything,) = await engine.score_likeliest(prompts[0], suffix[:1], 0, 100, context())
    assert set(everything) == set(range(64))
    room = engine.max_model_len - prompts[0].prompt_tokens
    assert len(await engine.score_likeliest(prompts[0], (9,) * room, room - 2, 1, context())) == 2
    with pytest.raises(ContextLengthError):
        await engine.score_likeliest(prompts[0], (9,) * (room + 1), 0, 1, context())
    await engine.close()


async def test_samples_do_not_depend_on_the_calls_before(engine: HFEngine) -> None:
    """What sampling says of each token; branches end at different times, and leave the batch."""
    prompts = [await ask(engine), await ask(engine, (112, 112))]
    lengths = set()
    for number in (0, 1, 0):
        # Also after a suffix, as a fork is.
        sampling = Sampling(max_tokens=24, seed=number, stop=("40", "41", "42"))
        async for sample in engine.generate(prompts[number], SUFFIXES[0], 4, sampling, context()):
            whole = plain(engine, prompts[number], (*SUFFIXES[0], *sample.token_ids))
            assert furthest([sample.logprobs], [whole[len(SUFFIXES[0]) :]]) < 1e-4
            lengths.add(len(sample.token_ids))
    assert len(lengths) > 3
    await engine.close()
