"""Run every conversation on tiny checkpoints, on vLLM and transformers in this process, and print a report.

    python -m tests.helpers.architectures.matrix FOLDER REPORT [NAME ...]

The report is JSON: by architecture, by check, `{"error": …}` or the check's figures. See `overlay.py` for the
environment that most architectures need.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.algorithm.answers.forms import one_of
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sample, Sampling
from mirl_core.pipeline.events import ChainDone, Decided, Described, Finished, Gated, Started
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation
from tests.helpers.architectures.conversations import CONVERSATIONS, INSTRUCTION
from tests.helpers.architectures.weights import ARCHITECTURES, MISTRAL_FORMAT, write_checkpoint

if TYPE_CHECKING:
    from mirl_core.engines.hf.engine import HFEngine
    from mirl_core.engines.vllm.engine import VLLMEngine

SETTINGS = ModelSettings(instruction=INSTRUCTION)
OPTIONS = MIRLOptions(descriptions=3, keep=2, forks=1, description_tokens=16)
SAMPLING = Sampling(max_tokens=32, seed=1)
ENGINE = {
    "dtype": "float32",
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 2**26,
    "max_num_seqs": 16,
    "limit_mm_per_prompt": {"image": 4, "video": 0, "audio": 0},
    "skip_mm_profiling": True,
}
OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    # vLLM's linear attention for CPUs computes in bfloat16 alone, and keeps no prefixes.
    "qwen3_5": {"dtype": "bfloat16", "enable_prefix_caching": False},
    MISTRAL_FORMAT: {"tokenizer_mode": "mistral", "config_format": "mistral", "load_format": "dummy"},
}
_GREEDY_TOKENS = 16
Check = Callable[[], Awaitable[dict[str, Any]]]


async def examine(name: str, folder: Path) -> dict[str, Any]:
    """Return the report of one architecture: the outcome of each check by its name."""
    from mirl_core.engines.hf.engine import HFEngine
    from mirl_core.engines.vllm.engine import VLLMEngine

    started = time.perf_counter()
    model = str(write_checkpoint(name, folder))
    _inspect_here(Path(model))
    arguments = {**ENGINE, **OWN_ARGUMENTS.get(name, {})}
    if name == MISTRAL_FORMAT:
        arguments["limit_mm_per_prompt"] = {"image": 4}
    vllm = await VLLMEngine.start(model, **arguments)
    report: dict[str, Any] = {}
    try:
        own = None if name == MISTRAL_FORMAT else await HFEngine.start(model, dtype="float32")
        checks = _checks(vllm, own)
        if own is not None:
            checks["export"] = lambda: export(own, folder, name)
        for check, run in checks.items():
            try:
                report[check] = await run()
            except Exception as error:  # noqa: BLE001 - the next check may pass
                report[check] = {"error": f"{type(error).__name__}: {error}"[:500]}
        if own is not None:
            await own.close()
    finally:
        await vllm.close()
    report["seconds"] = round(time.perf_counter() - started, 1)
    return report


def _inspect_here(folder: Path) -> None:
    """Let vLLM inspect the model's class in this process; it would start one, for 13 s of imports."""
    from vllm.model_executor.models.registry import ModelRegistry, _RegisteredModel

    config = folder / "config.json"
    architecture = "PixtralForConditionalGeneration"  # of Mistral's own format
    if config.is_file():
        (architecture,) = json.loads(config.read_text(encoding="utf-8"))["architectures"]
    known = ModelRegistry.models
    known[architecture] = _RegisteredModel.from_model_cls(known[architecture].load_model_cls())


def _fork_engines() -> None:
    """Let engine processes be forks of this one, which has imported what they need: 20 s less each.

    vLLM's CPU backend spawns them, because a fork of a process with compute threads may hang; this one has
    none (OMP_NUM_THREADS).
    """
    import multiprocessing

    from vllm.v1.engine import utils

    utils.get_mp_context = lambda: multiprocessing.get_context("fork")


def _checks(vllm: VLLMEngine, own: HFEngine | None) -> dict[str, Check]:
    checks: dict[str, Check] = {}
    for name, conversation in CONVERSATIONS.items():
        checks[f"gate: {name}"] = lambda talk=conversation: answer(vllm, talk, OPTIONS)
        checks[f"same prompt: {name}"] = lambda talk=conversation: same_prompt(vllm, talk)
        checks[f"image-free: {name}"] = lambda talk=conversation: image_free(vllm, talk)
        if own is not None:
            checks[f"MI: {name}"] = lambda talk=conversation: deviation(vllm, own, talk)
    question = CONVERSATIONS["question"]
    for name, changes in {
        "drop": {"fork_image": "drop"},
        "blank": {"estimator": "blank"},
        "steered": {"preset": "steered"},
    }.items():
        options = MIRLOptions.model_validate({**OPTIONS.model_dump(exclude_unset=True), **changes})
        checks[name] = lambda options=options: answer(vllm, question, options)
    checks["fork"] = lambda: exact_fork(vllm, question)
    checks["choice"] = lambda: held_to_a_choice(vllm, question)
    checks["preprocessed"] = lambda: preprocessed(vllm)
    checks["refused picture"] = lambda: refused(vllm)
    return checks


def context() -> RequestContext:
    """Return the context of an engine call of its own."""
    return RequestContext(uuid.uuid4().hex)


async def answer(engine: Engine, conversation: Conversation, options: MIRLOptions) -> dict[str, Any]:
    """Run the pipeline; check the order of its events and that every sampled token is counted."""
    events = [
        event async for event in Pipeline(engine, SETTINGS).run(conversation, options, SAMPLING, context())
    ]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    result = events[-1].result
    kinds = [type(event) for event in events]
    if not options.steered and Gated in kinds:
        gated = kinds.index(Gated)
        assert Described in kinds[:gated]
        assert Described not in kinds[gated:]
    if Decided in kinds:
        assert ChainDone in kinds[: kinds.index(Decided)]
    usable = [description for description in result.descriptions if description.reason in (None, "gate")]
    return {"usable": len(usable), "tokens": result.completion_tokens, "fallback": result.fallback}


async def same_prompt(engine: VLLMEngine, conversation: Conversation) -> dict[str, Any]:
    """Check that a gated request's prompt is what vLLM's own handler makes of the same messages."""
    from vllm.renderers import ChatParams

    from mirl_core.engines.common.messages import messages_with
    from mirl_core.engines.vllm.render import data_url_part

    renderer = engine.client.renderer
    mistral = renderer.config.model_config.tokenizer_mode == "mistral"
    arguments = {
        "add_generation_prompt": True,
        "continue_final_message": False,
        "tools": [dict(tool) for tool in conversation.tools] or None,
        "tokenize": mistral,
    }
    _, (theirs,) = await renderer.render_chat_async(
        [messages_with(conversation, data_url_part)],
        ChatParams(chat_template_kwargs=arguments),
        renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False),
    )
    ours = (await engine.render(conversation, context())).inputs.token_ids
    assert ours == theirs["prompt_token_ids"]
    return {"prompt_tokens": len(ours)}


async def deviation(vllm: Engine, own: Engine, conversation: Conversation) -> dict[str, Any]:
    """Return by how much MI per token and its image-free term differ between vLLM and transformers; nats."""
    prompt = conversation.with_instruction(INSTRUCTION)
    opening = vllm.encode(SETTINGS.tags.description[0])
    rendered = await vllm.render(prompt, context())
    samples = await _samples(vllm, rendered, opening, 3, Sampling(max_tokens=16, seed=2))
    suffixes = [(*opening, *sample.token_ids) for sample in samples]
    theirs = await own.score(await own.render(prompt, context()), suffixes, context())
    blind = prompt.with_images(None)
    blind_vllm = await vllm.score(await vllm.render(blind, context()), suffixes, context())
    blind_own = await own.score(await own.render(blind, context()), suffixes, context())
    start = len(opening)
    mi = [
        [seen - unseen for seen, unseen in zip(sample.logprobs, scores[start:], strict=True)]
        for sample, scores in zip(samples, blind_vllm, strict=True)
    ]
    own_mi = [
        [seen - unseen for seen, unseen in zip(scores[start:], other[start:], strict=True)]
        for scores, other in zip(theirs, blind_own, strict=True)
    ]
    pairs = [pair for values in zip(mi, own_mi, strict=True) for pair in zip(*values, strict=True)]
    terms = zip(blind_vllm, blind_own, strict=True)
    return {
        "deviation": max(abs(a - b) for a, b in pairs),
        "image_free_deviation": max(
            abs(a - b) for pair in terms for a, b in zip(pair[0][start:], pair[1][start:], strict=True)
        ),
        "largest_mi": max(abs(a) for a, _ in pairs),
    }


async def image_free(engine: Engine, conversation: Conversation) -> dict[str, Any]:
    """Return the length of the prompt without its pictures; tokens."""
    blind = conversation.with_instruction(INSTRUCTION).with_images(None)
    return {"prompt_tokens": (await engine.render(blind, context())).prompt_tokens}


async def exact_fork(engine: Engine, conversation: Conversation) -> dict[str, Any]:
    """Check that a continuation of a sample's own tokens goes on as the sample did."""
    rendered = await engine.render(conversation, context())
    opening = engine.encode(SETTINGS.tags.description[0])
    greedy = Sampling(max_tokens=_GREEDY_TOKENS, temperature=0.0)
    (whole,) = await _samples(engine, rendered, opening, 1, greedy)
    at = len(whole.token_ids) // 2
    rest = replace(greedy, max_tokens=_GREEDY_TOKENS - at)
    forks = await _samples(engine, rendered, (*opening, *whole.token_ids[:at]), 2, rest)
    assert all(fork.token_ids == whole.token_ids[at:] for fork in forks)
    apart = max(abs(a - b) for fork in forks for a, b in zip(fork.logprobs, whole.logprobs[at:], strict=True))
    return {"tokens": len(whole.token_ids), "deviation": apart}


async def held_to_a_choice(engine: Engine, conversation: Conversation) -> dict[str, Any]:
    """Check that every chain that ended by itself has one of the choices."""
    form = one_of(["red", " blue"])
    events = [
        event
        async for event in Pipeline(engine, SETTINGS).run(
            conversation, OPTIONS.model_copy(update={"forks": 3}), SAMPLING, context(), form=form
        )
    ]
    chains = [event.chain for event in events if isinstance(event, ChainDone)]
    ended = [chain.answer for chain in chains if chain.finish_reason == "stop"]
    assert set(ended) <= {"red", " blue"}, ended
    return {"chains": len(chains), "ended": len(ended)}


async def preprocessed(engine: VLLMEngine) -> dict[str, Any]:
    """Return how many pictures the model's processor is given by a request with a new picture, by the same
    request again, and by one with that picture and another new one."""
    from vllm.multimodal.processing.context import InputProcessingContext

    from tests.helpers.architectures.conversations import picture, text, user

    sizes: list[int] = []
    call = InputProcessingContext.call_hf_processor

    def counting(self: Any, processor: Any, data: Any, *rest: Any, **more: Any) -> Any:
        images = data.get("images")
        sizes.append(len(images) if isinstance(images, list | tuple) else 0 if images is None else 1)
        return call(self, processor, data, *rest, **more)

    old, new = picture("green", (40, 40)), picture("orange", (44, 52))
    counts = []
    InputProcessingContext.call_hf_processor = counting
    try:
        for parts in ((old,), (old,), (old, new)):
            sizes.clear()
            await engine.render(Conversation((user(*parts, text("What is it?")),)), context())
            counts.append(sum(sizes))
    finally:
        InputProcessingContext.call_hf_processor = call
    first, again, half = counts
    return {"new": first, "the same": again, "one of two new": half}


async def export(engine: HFEngine, folder: Path, name: str) -> dict[str, Any]:
    """Check that a model that was loaded is saved under the published names, which vLLM knows."""
    from safetensors import safe_open

    def names(of: Path) -> set[str]:
        with safe_open(of / "model.safetensors", "pt") as file:
            return set(file.keys())

    again = folder / f"{name}-again"
    engine._model.save_pretrained(again)
    assert names(again) == names(folder / name)
    return {"tensors": len(names(again))}


async def refused(engine: Engine) -> dict[str, Any]:
    """Return what becomes of a picture that some processors can't take: an error in words, or nothing."""
    from mirl_core.errors import RequestError
    from tests.helpers.architectures.conversations import picture, text, user

    thin = Conversation((user(picture("red", (1200, 4)), text("What is it?")),))
    message = None
    try:
        await engine.render(thin, context())
    except RequestError as error:
        message = error.message
    assert message is None or ("1200×4" in message and "0x" not in message)
    return {"message": message}


async def _samples(engine: Engine, rendered: Any, suffix: Any, n: int, sampling: Sampling) -> list[Sample]:
    samples = [sample async for sample in engine.generate(rendered, suffix, n, sampling, context())]
    return sorted(samples, key=lambda sample: sample.index)


async def run(folder: Path, report: Path, names: list[str]) -> None:
    """Examine the architectures one after another; the report is written after each."""
    _fork_engines()
    results: dict[str, Any] = {}
    for name in names or [*ARCHITECTURES, MISTRAL_FORMAT]:
        try:
            results[name] = await examine(name, folder)
        except Exception as error:  # noqa: BLE001 - the next architecture may start
            results[name] = {"start": {"error": f"{type(error).__name__}: {error}"[:2000]}}
        _write(report, results)
        print(name, json.dumps(results[name]), flush=True)


def _write(report: Path, results: dict[str, Any]) -> None:
    report.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
