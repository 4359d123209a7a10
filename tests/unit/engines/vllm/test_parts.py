"""The parts of VLLMEngine that need no engine: arguments, renderings, errors, batches."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from vllm.exceptions import QueueOverflowError, VLLMValidationError
from vllm.logprobs import FlatLogprobs
from vllm.v1.engine.exceptions import EngineDeadError as VLLMEngineDeadError
from vllm.v1.engine.exceptions import EngineGenerateError

from mirl_core.engines.base import Sample, Sampling
from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.engines.common.samples import cut_at_stop_string, stop_by_token
from mirl_core.engines.common.scoring import batches
from mirl_core.engines.vllm import arguments as _vllm_args
from mirl_core.engines.vllm.alternatives import last_positions, likeliest_tokens, token_logprobs
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.engines.vllm.render import VLLMPrompt, vllm_errors_translated, vllm_messages
from mirl_core.engines.vllm.score import LONG_PROMPT, position_reader
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, MIRLError, RequestError
from mirl_core.types import Conversation


def test_cpu_arguments_yield_to_the_users() -> None:
    args = _vllm_args.cpu_engine_args({"block_size": 64})
    assert args["block_size"] == 64
    assert args["enable_chunked_prefill"] is False
    assert args["distributed_executor_backend"] == "uni"
    assert "distributed_executor_backend" not in _vllm_args.cpu_engine_args({"tensor_parallel_size": 2})


def test_cpu_environment_goes_with_the_arguments() -> None:
    plain = _vllm_args.cpu_environment(_vllm_args.cpu_engine_args())
    assert plain["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert plain["TORCH_COMPILE_DISABLE"] == "1"
    other = _vllm_args.cpu_environment(_vllm_args.cpu_engine_args({"enforce_eager": False}))
    assert "TORCH_COMPILE_DISABLE" not in other


def test_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRL_SET", "user's")
    monkeypatch.delenv("MIRL_UNSET", raising=False)
    with _vllm_args.environment({"MIRL_SET": "ours", "MIRL_UNSET": "ours"}):
        assert (os.environ["MIRL_SET"], os.environ["MIRL_UNSET"]) == ("user's", "ours")
    assert "MIRL_UNSET" not in os.environ


@pytest.mark.parametrize(
    ("cpu", "chunked", "safe"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_seeds_are_dropped_where_they_kill(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cpu: bool, chunked: bool, safe: bool
) -> None:
    monkeypatch.setattr(_vllm_args, "on_cpu", lambda: cpu)
    engine = VLLMEngine(fake_client(chunked=chunked))
    params = [engine._sampling_params(Sampling(max_tokens=4, seed=1), j, frozenset({7})) for j in range(3)]
    seeds = [p.seed for p in params]
    assert len(set(seeds)) == (3 if safe else 1)
    assert (seeds[0] is None) is not safe
    assert caplog.text.count("seeds are ignored") == (0 if safe else 1)
    assert params[0].logit_bias == {7: float("-inf")}


def test_other_log_probabilities_are_refused() -> None:
    with pytest.raises(ConfigError, match="raw_logprobs"):
        VLLMEngine(fake_client(logprobs_mode="processed_logprobs"))


def test_special_tags_can_be_kept() -> None:
    engine = VLLMEngine(fake_client(), keep_special=["<think>"])
    assert engine._sampling_params(Sampling(max_tokens=4), 0, frozenset()).skip_special_tokens is False
    assert engine._text.cleaned("<think>so</s>") == "<think>so"


@pytest.mark.parametrize(
    ("ends", "others"), [(None, set()), (1, set()), (5, {5}), ([1, 5], {5}), ([5, 6], {5, 6}), ([], set())]
)
def test_under_a_form_only_the_tokenizers_own_end_is_left(
    ends: int | list[int] | None, others: set[int]
) -> None:
    assert VLLMEngine(fake_client(ends=ends))._other_ends() == others


def test_placeholders_named_by_a_config() -> None:
    config = SimpleNamespace(
        image_token_id=5, video_token_index=6, vision_start_token_id=7, audio_token_id=99, eos_token_id=1
    )
    assert placeholder_ids(config, vocab_size=50) == {5, 6, 7}


def media_prompt(*, by_reference: bool = True) -> VLLMPrompt:
    place = SimpleNamespace(offset=1, length=3, is_embed=torch.tensor([True, False, True]))
    return VLLMPrompt(
        {
            "type": "multimodal",
            "prompt_token_ids": [1, 5, 8, 5, 2],
            "mm_kwargs": {"image": ["pixels"]},
            "mm_placeholders": {"image": [place]},
        },
        by_reference,
    )


def test_forks_carry_the_media_once() -> None:
    prompt = media_prompt()
    first, referred = prompt.fork([3], "salt")
    assert first["prompt_token_ids"] == [1, 5, 8, 5, 2, 3]
    assert (first["cache_salt"], first["mm_kwargs"], referred) == ("salt", {"image": ["pixels"]}, False)
    later, referred = prompt.fork([4], None)
    assert (later["mm_kwargs"], referred, "cache_salt" in later) == ({"image": [None]}, True, False)
    again, referred = prompt.fork([4], None, with_media=True)
    assert (again["mm_kwargs"], referred) == ({"image": ["pixels"]}, False)
    assert prompt.token_ids == [1, 5, 8, 5, 2]


def test_forks_always_carry_the_media_where_the_engine_keeps_none() -> None:
    prompt = media_prompt(by_reference=False)
    assert [prompt.fork((), None)[1] for _ in range(3)] == [False] * 3


def test_tokens_that_stand_for_media_are_known() -> None:
    assert media_prompt().media_tokens == {5}
    assert VLLMPrompt({"type": "token", "prompt_token_ids": [1]}, True).media_tokens == frozenset()


def test_images_become_vllms_parts() -> None:
    image = Image.new("RGB", (2, 2))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "?"}]
    first, second = vllm_messages(
        Conversation(({"role": "user", "content": content}, {"role": "assistant", "content": "!"}))
    )
    assert first["content"] == [{"type": "image_pil", "image_pil": image}, content[1]]
    assert second == {"role": "assistant", "content": "!"}


@pytest.mark.parametrize("kind", ["image_url", "video_url", "input_audio", "image_embeds", None])
def test_media_that_vllm_would_fetch_are_refused(kind: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        vllm_messages(Conversation(({"role": "user", "content": [{"type": kind, "image_url": "http://x"}]},)))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("raised", "param", "expected"),
    [
        (VLLMValidationError("no", parameter="top_p"), None, RequestError),
        (VLLMValidationError("no"), "messages", RequestError),
        (ValueError("no"), "messages", RequestError),
        (ValueError("no"), None, EngineError),
        (VLLMEngineDeadError(), "messages", EngineDeadError),
        (EngineGenerateError(), None, EngineError),
        (QueueOverflowError(), None, EngineError),
        (RuntimeError("no"), "messages", EngineError),
        (RequestError("mine"), None, RequestError),
    ],
)
def test_no_exception_of_vllms_passes(
    raised: Exception, param: str | None, expected: type[MIRLError]
) -> None:
    with pytest.raises(MIRLError) as caught, vllm_errors_translated("try", param):
        raise raised
    assert type(caught.value) is expected
    if isinstance(raised, VLLMValidationError):
        assert caught.value.param == (param or "top_p")


def test_batches_are_bounded() -> None:
    suffixes = [(1,) * size for size in (5, 5, 5, 90, 5)]
    groups = batches(suffixes, prompt_tokens=10, limit=40)
    assert [len(group) for group in groups] == [2, 1, 1, 1]
    assert [suffix for group in groups for suffix in group] == suffixes


def fake_client(
    *, chunked: bool = False, logprobs_mode: str = "raw_logprobs", ends: int | list[int] | None = None
) -> Any:
    """As much of vLLM's engine client as VLLMEngine reads when it is made."""
    model_config = SimpleNamespace(
        logprobs_mode=logprobs_mode,
        hf_config=SimpleNamespace(image_token_id=2),
        get_vocab_size=lambda: 10,
        max_model_len=100,
        try_get_generation_config=lambda: {} if ends is None else {"eos_token_id": ends},
    )
    tokenizer = SimpleNamespace(all_special_tokens=["</s>", "<think>"], eos_token_id=1)
    return SimpleNamespace(
        vllm_config=SimpleNamespace(
            model_config=model_config,
            scheduler_config=SimpleNamespace(enable_chunked_prefill=chunked),
            cache_config=SimpleNamespace(enable_prefix_caching=True),
            structured_outputs_config=SimpleNamespace(backend="auto"),
        ),
        renderer=SimpleNamespace(get_tokenizer=lambda: tokenizer),
    )


def test_sampled_tokens_come_first_and_the_likeliest_after() -> None:
    flat = FlatLogprobs()
    flat.append_fast([7, 3, 7], [-1.5, -0.5, -1.5], (2, 1, 2), [None] * 3)  # type: ignore[arg-type]
    flat.append_fast([9, 3, 4], [-6.0, -0.25, -1.75], (5, 1, 2), [None] * 3)  # type: ignore[arg-type]
    assert token_logprobs(flat, 2, 2) == ((-1.5, -6.0), (1.0, 1.0))
    assert token_logprobs(flat, 1, 2) == ((-1.5,), (1.0,))
    assert token_logprobs(flat, 2, 0) == ((-1.5, -6.0), ())
    assert token_logprobs(None, 0, 2) == ((), ())
    # More were looked at than count.
    assert token_logprobs(flat, 2, 1) == ((-1.5, -6.0), (0.5, 0.25))
    assert likeliest_tokens(flat, 2, 2) == (((3, -0.5), (7, -1.5)), ((3, -0.25), (4, -1.75)))
    assert likeliest_tokens(flat, 1, 1) == (((3, -0.5),),)
    assert likeliest_tokens(flat, 2, 0) == likeliest_tokens(None, 0, 2) == ()


def test_the_last_positions_of_a_prompt_have_each_token_once() -> None:
    flat = FlatLogprobs()
    flat.append(None)
    flat.append_fast([7, 3, 7], [-1.5, -0.5, -1.5], (2, 1, 2), [None] * 3)  # type: ignore[arg-type]
    flat.append_fast([9, 3, 4], [-6.0, -0.25, -1.75], (5, 1, 2), [None] * 3)  # type: ignore[arg-type]
    assert last_positions(flat, 2) == [{7: -1.5, 3: -0.5}, {9: -6.0, 3: -0.25, 4: -1.75}]
    assert last_positions(flat, 1) == [{9: -6.0, 3: -0.25, 4: -1.75}]
    assert last_positions(flat, 0) == []


@pytest.mark.parametrize(
    ("prompt_tokens", "cached", "requests"),
    [
        (LONG_PROMPT - 1, 0, ["0"]),
        (LONG_PROMPT, LONG_PROMPT + 1, ["prime", "0"]),
        (LONG_PROMPT, LONG_PROMPT + 2, ["prime", "0", "0-again"]),
    ],
)
async def test_what_precedes_start_may_come_from_the_cache(
    prompt_tokens: int, cached: int, requests: list[str]
) -> None:
    """Two tokens of the suffix precede; the last of them predicts the first wanted token."""
    names: list[str] = []
    skips: list[bool | None] = []

    async def run(suffix: tuple[int, ...], params: Any, name: str) -> Any:
        names.append(name)
        flat = FlatLogprobs()
        flat.append(None)
        if name != "prime":
            assert (suffix, params.prompt_logprobs, params.flat_logprobs) == ((4, 5, 6), 2, True)
            skips.append(params.skip_reading_prefix_cache)
            # Only a request that may read the cache has some of its tokens from there.
            for token in suffix:
                flat.append_fast([token, 8, 9], [-3.0, -0.5, -1.0], (3, 1, 2), [None] * 3)  # type: ignore[arg-type]
        return SimpleNamespace(num_cached_tokens=0 if skips[-1:] == [True] else cached, prompt_logprobs=flat)

    positions = await position_reader(run, prompt_tokens, prefix_caching=True)
    likeliest = await positions((4, 5, 6), "0", 2, 2)
    assert likeliest == [{6: -3.0, 8: -0.5, 9: -1.0}]
    assert names == requests
    assert skips == {1: [True], 2: [False], 3: [False, True]}[len(requests)]


async def test_too_few_positions_are_an_engine_error() -> None:
    async def run(*_: Any) -> Any:
        flat = FlatLogprobs()
        flat.append(None)
        flat.append_fast([6], [-3.0], (1,), [None])  # type: ignore[arg-type]
        return SimpleNamespace(num_cached_tokens=0, prompt_logprobs=flat)

    positions = await position_reader(run, 3, prefix_caching=True)
    with pytest.raises(EngineError, match="too few"):
        await positions((5, 6), "0", 0, 0)


def test_a_stop_string_spelled_by_other_tokens_still_ends_the_sample() -> None:
    words = {0: "a", 1: "</", 2: "d", 3: ">", 4: " more", 5: "</d>"}

    def decode(ids: Any) -> str:
        return "".join(words[token] for token in ids)

    def cut(ids: tuple[int, ...], reason: Any = "length") -> Sample:
        values = tuple(-float(place) for place in range(len(ids)))
        ranked = tuple(((token, value),) for token, value in zip(ids, values, strict=True))
        sample = Sample(0, ids, values, "", reason, values, ranked)
        shortened = cut_at_stop_string(sample, ("</d>",), decode)
        assert shortened.likeliest == ranked[: len(shortened.token_ids)]
        return replace(shortened, likeliest=())

    assert cut((0, 1, 2, 3, 4, 5)) == Sample(
        0, (0, 1, 2, 3), (0, -1, -2, -3), "a</d>", "stop", (0, -1, -2, -3)
    )
    assert cut((0, 5), "stop") == Sample(0, (0, 5), (0, -1), "a</d>", "stop", (0, -1))
    assert cut((0, 4)) == Sample(0, (0, 4), (0, -1), "a more", "length", (0, -1))
    assert cut((0,), "abort").finish_reason == "abort"


def test_stopping_by_token_needs_one_token_each() -> None:
    def encode(text: str) -> tuple[int, ...]:
        return {"</d>": (5,), "end": (1, 2)}[text]

    assert stop_by_token(("</d>",), encode) == {"stop_token_ids": [5], "detokenize": False}
    assert stop_by_token(("</d>", "end"), encode) is None
