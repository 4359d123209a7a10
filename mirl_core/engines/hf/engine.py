"""The engine on plain transformers: the reference for vLLM's numbers, and for models that vLLM can't run.

A single thread runs the model, one call after another; the event loop is never blocked. A call runs its
prompt once and its branches as one batch; an abort takes effect between two tokens.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from mirl_core.engines.base import (
    Rendered,
    RequestContext,
    Sample,
    Sampling,
    checked_rendering,
    too_long_to_score,
)
from mirl_core.engines.common.branches import registered
from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.engines.common.samples import stop_string_end
from mirl_core.engines.common.scoring import distinct_suffixes, scores_in_order
from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.hf.render import render_conversation, transformers_errors_translated
from mirl_core.engines.hf.token_chooser import TokenChooser
from mirl_core.errors import EngineDeadError, EngineError, RequestError
from mirl_core.types import Conversation, FinishReason

T = TypeVar("T")


class _StopFlag:
    """Tells the model's thread to stop a call."""

    def __init__(self) -> None:
        self.stopped = False


class HFEngine:
    """Runs one model on transformers.

    Args:
        model: an image-text-to-text model, on its device and in its dtype.
        processor: its processor, with a chat template.
        score_batch_tokens: most suffix tokens, padding included, in one forward pass of `score`.
        keep_special: special tokens that stay in text: for tokenizers whose tags are special tokens.
    """

    def __init__(
        self, model: Any, processor: Any, *, score_batch_tokens: int = 4096, keep_special: Sequence[str] = ()
    ) -> None:
        self._model = model.eval()
        self._processor = processor
        self._score_batch_tokens = score_batch_tokens
        self._text = TextCodec(processor.tokenizer, keep_special, clean_up_tokenization_spaces=False)
        text_config = model.config.get_text_config()
        self._vocab_size = int(text_config.vocab_size)
        self._max_model_len = int(text_config.max_position_embeddings)
        self._banned = sorted(placeholder_ids(model.config, self._vocab_size))
        end = model.generation_config.eos_token_id
        self._end = frozenset([end] if isinstance(end, int) else end or [])
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if keeps else {}
        self._shifted = [module for module in model.modules() if hasattr(module, "rope_deltas")]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hf-engine")
        self._calls: dict[str, _StopFlag] = {}
        self._closed = False

    @classmethod
    async def start(
        cls,
        model: str,
        *,
        dtype: str | torch.dtype = "auto",
        device: str = "cpu",
        score_batch_tokens: int = 4096,
        keep_special: Sequence[str] = (),
    ) -> HFEngine:
        """Load a model and return its engine.

        Args:
            model: folder or hub name.
            dtype: dtype of the weights; "auto": the checkpoint's.
            device: where the model runs.
            score_batch_tokens: see the class.
            keep_special: see the class.

        Raises:
            EngineError: the model can't be loaded.
        """

        def load() -> HFEngine:
            weights = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype).to(device)
            return cls(
                weights,
                AutoProcessor.from_pretrained(model),
                score_batch_tokens=score_batch_tokens,
                keep_special=keep_special,
            )

        with transformers_errors_translated(f"load {model}"):
            return await asyncio.to_thread(load)

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        del context
        inputs = await self._in_thread(
            lambda: self._render(conversation), _StopFlag(), "render the conversation"
        )
        return checked_rendering(inputs["input_ids"].shape[1], inputs, self._max_model_len)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._text.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._text.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        return self._text.token(token_id)

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        samples: asyncio.Queue[Sample | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        with registered(self._calls, context.request_id, _StopFlag()) as call:

            def work() -> None:
                self._generate(
                    rendered,
                    suffix_ids,
                    n,
                    sampling,
                    call,
                    lambda sample: loop.call_soon_threadsafe(samples.put_nowait, sample),
                )

            running = asyncio.create_task(self._in_thread(work, call, "generate"))
            # Wakes the reader if an error ends the thread early.
            running.add_done_callback(lambda _: samples.put_nowait(None))
            try:
                for _ in range(n):
                    sample = await samples.get()
                    if sample is None:
                        await running
                        raise EngineError("the model's thread ended without all its samples")
                    yield sample
            finally:
                call.stopped = True
                await asyncio.gather(running, return_exceptions=True)

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        """See `Engine.score`; identical suffixes are scored once."""
        del context
        distinct = sorted(distinct_suffixes(suffixes), key=len)
        if distinct and rendered.prompt_tokens + len(distinct[-1]) > self._max_model_len:
            raise too_long_to_score(self._max_model_len)
        call = _StopFlag()
        scores = await self._in_thread(lambda: self._score(rendered, distinct, call), call, "score")
        return scores_in_order(suffixes, scores)

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        del context
        if rendered.prompt_tokens + len(suffix_ids) > self._max_model_len:
            raise too_long_to_score(self._max_model_len)
        if start >= len(suffix_ids):
            return []
        suffix = tuple(suffix_ids)
        return await self._in_thread(
            lambda: self._score_likeliest(rendered, suffix, start, top), _StopFlag(), "score"
        )

    async def check_structure(self, structure: str) -> None:
        raise RequestError("answers can't be constrained on transformers; run vLLM in process")

    async def abort(self, request_id: str) -> None:
        if request_id in self._calls:
            self._calls[request_id].stopped = True

    async def health(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine is closed")

    async def close(self) -> None:
        self._closed = True
        for call in self._calls.values():
            call.stopped = True
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    # The methods below run in the model's thread, except `_in_thread`.

    def _render(self, conversation: Conversation) -> dict[str, torch.Tensor]:
        """Return the processor's tensors on the model's device: `input_ids` of shape (1, P), pixels, etc."""
        return {
            name: value.to(self._model.device, self._model.dtype)
            if value.is_floating_point()
            else value.to(self._model.device)
            for name, value in render_conversation(self._processor, conversation).items()
        }

    @torch.inference_mode()
    def _generate(
        self,
        rendered: Rendered,
        suffix: Sequence[int],
        n: int,
        sampling: Sampling,
        call: _StopFlag,
        emit: Callable[[Sample], object],
    ) -> None:
        """Sample n branches in one batch; emit each as it ends, and take it out of the batch."""
        room = self._max_model_len - rendered.prompt_tokens - len(suffix)
        longest = min(sampling.max_tokens, max(room, 0))
        ids: list[list[int]] = [[] for _ in range(n)]
        logprobs: list[list[float]] = [[] for _ in range(n)]
        confidence: list[list[float]] = [[] for _ in range(n)]
        likeliest: list[list[tuple[tuple[int, float], ...]]] = [[] for _ in range(n)]
        alive = list(range(n))

        def end(branch: int, reason: FinishReason) -> None:
            text = self.decode(ids[branch])
            text = text[: stop_string_end(text, sampling.stop)]
            alive.remove(branch)
            emit(
                Sample(
                    index=branch,
                    token_ids=tuple(ids[branch]),
                    logprobs=tuple(logprobs[branch]),
                    text=text,
                    finish_reason=reason,
                    confidence=tuple(confidence[branch]),
                    likeliest=tuple(likeliest[branch]),
                )
            )

        if longest == 0 or call.stopped:
            for branch in list(alive):
                end(branch, "abort" if call.stopped else "length")
            return
        context = [*rendered.inputs["input_ids"][0].tolist(), *suffix]
        choosers = [
            TokenChooser(
                replace(sampling, seed=sampling.branch_seed(branch)),
                context,
                self._banned,
                self._vocab_size,
            )
            for branch in range(n)
        ]
        cache, logits = self._prefill(rendered, suffix)
        cache.reorder_cache(torch.zeros(n, dtype=torch.long))  # every kind of layer has it
        logits = logits.expand(n, -1)
        while True:
            raw = logits.log_softmax(-1)
            for row, branch in enumerate(list(alive)):
                token = choosers[branch].choose(logits[row])
                ids[branch].append(token)
                logprobs[branch].append(float(raw[row, token]))
                if sampling.ranked:
                    best = raw[row].topk(min(sampling.ranked, raw.shape[-1]))
                    if sampling.alternatives:
                        confidence[branch].append(-float(best.values[: sampling.alternatives].mean()))
                    if sampling.top_logprobs:
                        ranks = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                        likeliest[branch].append(tuple(ranks)[: sampling.top_logprobs])
            rows = list(alive)
            for branch in rows:
                if ids[branch][-1] in self._end or self._stops(ids[branch], sampling.stop):
                    end(branch, "stop")
                elif len(ids[branch]) == longest:
                    end(branch, "length")
                elif call.stopped:
                    end(branch, "abort")
            if not alive:
                return
            if len(alive) < len(rows):
                keep = torch.tensor([rows.index(branch) for branch in alive], device=self._model.device)
                cache.reorder_cache(keep)
            tokens = torch.tensor([[ids[branch][-1]] for branch in alive], device=self._model.device)
            output = self._model(input_ids=tokens, past_key_values=cache, use_cache=True)
            logits = output.logits[:, -1].float().cpu()

    @torch.inference_mode()
    def _score(
        self, rendered: Rendered, suffixes: Sequence[tuple[int, ...]], call: _StopFlag
    ) -> dict[tuple[int, ...], tuple[float, ...]]:
        """Return raw log p of every token of each suffix, nats.

        The prompt runs once per batch. Suffixes are sorted by length and padded on the right.
        """
        scores: dict[tuple[int, ...], tuple[float, ...]] = {}
        start = 0
        while start < len(suffixes) and not call.stopped:
            end = start + 1
            while end < len(suffixes) and len(suffixes[end]) * (end + 1 - start) <= self._score_batch_tokens:
                end += 1
            batch = suffixes[start:end]
            width = len(batch[-1])
            # Attention is causal: padding on the right changes no value of the suffix.
            padded = torch.tensor([[*suffix, *[0] * (width - len(suffix))] for suffix in batch])
            values = self._logprobs(rendered, (), padded).gather(-1, padded.unsqueeze(-1)).squeeze(-1)
            for suffix, row in zip(batch, values.tolist(), strict=True):
                scores[suffix] = tuple(row[: len(suffix)])
            start = end
        return scores

    @torch.inference_mode()
    def _score_likeliest(
        self, rendered: Rendered, suffix: tuple[int, ...], start: int, top: int
    ) -> list[dict[int, float]]:
        own = torch.tensor([suffix[start:]])
        logprobs = self._logprobs(rendered, suffix[:start], own)[0]
        ids = torch.cat([logprobs.topk(min(top, logprobs.shape[-1])).indices, own.T], dim=1)
        values = logprobs.gather(-1, ids)
        return [dict(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]

    def _logprobs(self, rendered: Rendered, before: Sequence[int], suffixes: torch.Tensor) -> torch.Tensor:
        """Return log p of every token at each position of suffixes after the prompt plus `before`; nats.

        Args:
            suffixes: token ids, (N, T), N suffixes of equal length.

        Returns:
            (N, T, V) float32.
        """
        cache, first = self._prefill(rendered, before)
        cache.reorder_cache(torch.zeros(len(suffixes), dtype=torch.long))
        output = self._model(input_ids=suffixes.to(self._model.device), past_key_values=cache, use_cache=True)
        following = output.logits[:, :-1].float().cpu()
        return torch.cat([first.expand(len(suffixes), -1).unsqueeze(1), following], dim=1).log_softmax(-1)

    def _prefill(self, rendered: Rendered, suffix: Sequence[int]) -> tuple[DynamicCache, torch.Tensor]:
        """Run prompt plus suffix; return its cache, batch of one, and the next logits, (1, V) float32."""
        for module in self._shifted:
            # Qwen-VL and its kin keep on the model how far images shift the positions after them. A prompt
            # without images doesn't write it, and would use an earlier prompt's.
            module.rope_deltas = None
        cache = DynamicCache(config=self._model.config)
        output = self._model(
            **rendered.inputs, past_key_values=cache, use_cache=True, **self._last_logits_only
        )
        if suffix:
            # In a pass of its own: some models attend to a prompt in both directions, and to no suffix.
            tail = torch.tensor([list(suffix)], device=self._model.device)
            output = self._model(
                input_ids=tail, past_key_values=cache, use_cache=True, **self._last_logits_only
            )
        return cache, output.logits[:, -1].float().cpu()

    def _stops(self, ids: Sequence[int], stop: Sequence[str]) -> bool:
        """Return whether the newest token completes a stop string."""
        if not stop:
            return False
        # At most four tokens (the bytes of a character) make a character, so this tail contains every stop
        # string that the newest token completes.
        tail = self.decode(ids[-4 * max(map(len, stop)) :])
        return any(end in tail for end in stop)

    async def _in_thread(self, work: Callable[[], T], call: _StopFlag, action: str) -> T:
        """Run `work` in the model's thread. On cancellation, stop the call and wait for the thread.

        Args:
            work: the function to run.
            call: the flag that `work` reads.
            action: the verb phrase for the message of an error.
        """
        await self.health()
        with transformers_errors_translated(action):
            running = asyncio.get_running_loop().run_in_executor(self._thread, work)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                call.stopped = True
                await asyncio.wait([running])
                raise
