"""The engine in this process, around vLLM's `EngineClient`: started by `VLLMEngine.start`, or the plugin's.

- A conversation is rendered once; every fork reuses the token ids and the preprocessed images.
- Each branch is a separate vLLM request: it has a seed and an end that no other branch shares.
- Log-probabilities are raw: vLLM takes them before bans, temperature and top-p.
- vLLM's exceptions never leave this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput
from vllm.renderers import ChatParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from mirl_core.engines.base import (
    Rendered,
    RequestContext,
    Sample,
    Sampling,
    checked_rendering,
    too_long_to_score,
)
from mirl_core.engines.common.branches import Branches, registered
from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.engines.common.samples import (
    checked_finish_reason,
    cut_at_stop_string,
    empty_sample,
    stop_by_token,
)
from mirl_core.engines.common.scoring import (
    Positions,
    distinct_suffixes,
    score_suffixes,
    scores_in_order,
)
from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.system_libraries import check_libnuma
from mirl_core.engines.vllm.alternatives import likeliest_tokens, token_logprobs
from mirl_core.engines.vllm.arguments import (
    checked_logprobs_mode,
    cpu_engine_args,
    cpu_environment,
    environment,
    on_cpu,
    seeds_are_safe,
)
from mirl_core.engines.vllm.media_cache import drop_mirror
from mirl_core.engines.vllm.render import DEAD, VLLMPrompt, render_prompt, vllm_errors_translated
from mirl_core.engines.vllm.score import position_reader
from mirl_core.engines.vllm.structure import check_structure, choose_backend
from mirl_core.errors import EngineDeadError, EngineError
from mirl_core.types import Conversation

logger = logging.getLogger(__name__)


class VLLMEngine:
    """Runs one model on vLLM.

    Args:
        client: vLLM's engine client.
        owns_client: whether `close` shuts it down.
        score_batch_tokens: most prompt-plus-suffix tokens that one `score` call has in flight. vLLM needs
            vocabulary × tokens × 4 bytes for the longest of them.
        keep_special: special tokens that stay in text: for tokenizers whose tags are special tokens.
        chat: the server's chat settings (template, content format, defaults of template arguments).
    """

    def __init__(
        self,
        client: EngineClient,
        *,
        owns_client: bool = False,
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
        chat: ChatParams | None = None,
    ) -> None:
        config = client.vllm_config
        checked_logprobs_mode(config.model_config)
        choose_backend(config.structured_outputs_config)
        drop_mirror(client.renderer)
        self._client: EngineClient | None = client
        self._owns_client = owns_client
        self._score_batch_tokens = score_batch_tokens
        self._chat = chat or ChatParams()
        self._text = TextCodec(client.renderer.get_tokenizer(), keep_special)
        model_config = config.model_config
        self._vocab_size = int(model_config.get_vocab_size())
        self._banned = placeholder_ids(model_config.hf_config, self._vocab_size)
        self._seeds = seeds_are_safe(config)
        self._prefix_caching = bool(config.cache_config.enable_prefix_caching)
        self._max_model_len = int(config.model_config.max_model_len)
        self._calls: dict[str, _RunningCall] = {}
        self._warned = False

    @classmethod
    async def start(
        cls,
        model: str,
        *,
        score_batch_tokens: int = 8192,
        keep_special: Sequence[str] = (),
        chat: ChatParams | None = None,
        **engine_args: Any,
    ) -> VLLMEngine:
        """Start vLLM and return an engine that owns it. Blocks the event loop for seconds.

        Args:
            model: folder or hub name.
            score_batch_tokens, keep_special, chat: see the class.
            engine_args: fields of vLLM's `AsyncEngineArgs`; on the CPU they go over `cpu_engine_args()`.

        Raises:
            ConfigError: a library of the system is missing.
            EngineError: vLLM doesn't start.
        """
        if on_cpu():
            check_libnuma()
        args = cpu_engine_args(engine_args) if on_cpu() else engine_args
        values = cpu_environment(args) if on_cpu() else {}
        with vllm_errors_translated("start"), environment(values):
            client = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model), **args))
        return cls(
            client,
            owns_client=True,
            score_batch_tokens=score_batch_tokens,
            keep_special=keep_special,
            chat=chat,
        )

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        del context  # each fork adds the cache salt, so that requests can share a text-only rendering
        with vllm_errors_translated("render the conversation", param="messages"):
            prompt = await render_prompt(self.client.renderer, conversation, self._chat)
        return checked_rendering(len(prompt.token_ids), prompt, self._max_model_len)

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
        if rendered.prompt_tokens + len(suffix_ids) >= self._max_model_len:
            for index in range(n):
                yield empty_sample(index, "length")
            return
        banned = self._banned | rendered.inputs.media_tokens
        if sampling.structure is not None:
            banned |= self._other_ends()
        ending = self._ending(sampling)
        params = [self._sampling_params(sampling, index, banned, **ending) for index in range(n)]
        with registered(self._calls, context.request_id, _RunningCall()) as call:

            async def sample(index: int) -> Sample:
                request_id = f"{context.request_id}-{index}"
                branch_context = context.of_branch(index)
                output = await self._run(
                    rendered, suffix_ids, params[index], request_id, branch_context, call
                )
                return self._sample(index, output, sampling)

            # A cancelled branch closes vLLM's generator, which aborts its request in the engine.
            async with Branches(sample, n) as branches:
                for _ in range(n):
                    yield await branches.next_sample()

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        """See `Engine.score`; identical suffixes are scored once."""
        distinct = distinct_suffixes(suffixes)
        positions = await self._positions(rendered, max(map(len, distinct), default=0), context)
        scores = await score_suffixes(positions, rendered.prompt_tokens, distinct, self._score_batch_tokens)
        return scores_in_order(suffixes, scores)

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        positions = await self._positions(rendered, len(suffix_ids), context)
        if start >= len(suffix_ids):
            return []
        # More than the vocabulary would end vLLM's engine.
        return await positions(tuple(suffix_ids), "0", start, min(top, self._vocab_size))

    async def check_structure(self, structure: str) -> None:
        backend = self.client.vllm_config.structured_outputs_config.backend
        # In a thread: a large schema takes a while to parse.
        await asyncio.to_thread(check_structure, structure, backend)

    async def abort(self, request_id: str) -> None:
        call = self._calls.get(request_id)
        if call is None:
            return
        call.aborted = True
        with vllm_errors_translated("abort"):
            await self.client.abort(list(call.running))

    async def health(self) -> None:
        with vllm_errors_translated("answer a health check"):
            await self.client.check_health()
        if self.client.errored:
            raise EngineDeadError(DEAD)

    async def close(self) -> None:
        if self._owns_client and self._client is not None:
            client, self._client = self._client, None
            # This joins the engine's process and blocks the event loop for seconds. In a thread, vLLM's
            # output handler would keep running and take the end of the process for a crash.
            client.shutdown()

    @property
    def client(self) -> EngineClient:
        """vLLM's engine client, for metrics and weight updates, which the protocol leaves out."""
        if self._client is None:
            raise EngineDeadError("the engine is closed")
        return self._client

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    async def _positions(self, rendered: Rendered, longest: int, context: RequestContext) -> Positions:
        """Return the function that scores the suffixes of a call, of at most `longest` tokens.

        Raises:
            ContextLengthError: they don't fit the model's context.
        """
        if rendered.prompt_tokens + longest >= self._max_model_len:
            raise too_long_to_score(self._max_model_len)
        call = _RunningCall()
        return await position_reader(
            lambda suffix, params, name: self._run(
                rendered, suffix, params, f"{context.request_id}-{name}", context, call
            ),
            rendered.prompt_tokens,
            prefix_caching=self._prefix_caching,
        )

    async def _run(
        self,
        rendered: Rendered,
        suffix: Sequence[int],
        params: SamplingParams,
        request_id: str,
        context: RequestContext,
        call: _RunningCall,
    ) -> RequestOutput | None:
        """Run one vLLM request and return its final output; None if it was aborted before it began."""
        prompt: VLLMPrompt = rendered.inputs
        for with_media in (False, True):
            if call.aborted:
                return None
            engine_input, by_reference = prompt.fork(suffix, context.cache_salt, with_media=with_media)
            output = await self._final_output(engine_input, params, request_id, context, call)
            # An engine that has dropped the referenced media ends the request with an error: send them.
            if output is None or output.outputs[0].finish_reason != "error" or not by_reference:
                return output
        return output

    async def _final_output(
        self,
        engine_input: dict[str, Any],
        params: SamplingParams,
        request_id: str,
        context: RequestContext,
        call: _RunningCall,
    ) -> RequestOutput | None:
        final: RequestOutput | None = None
        call.running.add(request_id)
        try:
            with vllm_errors_translated("generate"):
                # vLLM awaits this between the call of `generate` and the request's registration. Cached by
                # this call, it leaves no moment in which an abort misses a request that has begun.
                await self.client.get_supported_tasks()
                if call.aborted:
                    return None
                stream = self.client.generate(
                    engine_input,
                    params,
                    request_id,
                    lora_request=context.lora,
                    trace_headers=dict(context.trace_headers) or None,
                    priority=context.priority,
                )
                async with aclosing(stream):
                    async for output in stream:
                        final = output
        except EngineError:
            # vLLM reports a death that happens during a request as a failed request.
            if self.client.errored:
                raise EngineDeadError(DEAD) from None
            raise
        finally:
            call.running.discard(request_id)
        if final is not None and final.outputs[0].finish_reason == "abort" and not call.aborted:
            # No caller requested this abort: the engine is ending, and a cut sample is no answer.
            raise EngineDeadError("the engine is shutting down")
        return final

    def _sample(self, index: int, output: RequestOutput | None, sampling: Sampling) -> Sample:
        if output is None:
            return Sample(index, (), (), "", "abort")
        completion = output.outputs[0]
        ids = tuple(completion.token_ids)
        reason = checked_finish_reason(completion.finish_reason)
        values, confidence = token_logprobs(completion.logprobs, len(ids), sampling.alternatives)
        likeliest = likeliest_tokens(completion.logprobs, len(ids), sampling.top_logprobs or 0)
        text = self._text.cleaned(completion.text)
        sample = Sample(index, ids, values, text, reason, confidence, likeliest)
        return cut_at_stop_string(sample, sampling.stop, self.decode) if sampling.ranked else sample

    def _ending(self, sampling: Sampling) -> dict[str, Any]:
        """Return vLLM's sampling fields for the stop strings."""
        # A grammar allows a stop token only where the whole sample ends, not where an answer does.
        if sampling.ranked and sampling.structure is None:
            by_token = stop_by_token(sampling.stop, self.encode)
        else:
            by_token = None
        return by_token or {"stop": list(sampling.stop), "include_stop_str_in_output": True}

    def _other_ends(self) -> frozenset[int]:
        """Return the tokens that end a turn beside the tokenizer's own.

        xgrammar knows only the tokenizer's own. It takes the others, such as Gemma's `<end_of_turn>`, for
        text, and a sample would end there before it has the required form.
        """
        ends = self.client.vllm_config.model_config.try_get_generation_config().get("eos_token_id")
        own = getattr(self.client.renderer.get_tokenizer(), "eos_token_id", None)
        return frozenset([ends] if isinstance(ends, int) else ends or ()) - {own}

    def _sampling_params(
        self, sampling: Sampling, index: int, banned: frozenset[int], **ending: Any
    ) -> SamplingParams:
        seed = sampling.branch_seed(index)
        if seed is not None and not self._seeds:
            self._warn_of_seeds()
            seed = None
        with vllm_errors_translated("accept the sampling settings"):
            return SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                seed=seed,
                logprobs=sampling.ranked,
                flat_logprobs=True,
                logit_bias=dict.fromkeys(banned, float("-inf")) or None,
                skip_special_tokens=self._text.skips_special,
                spaces_between_special_tokens=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                structured_outputs=(
                    None
                    if sampling.structure is None
                    else StructuredOutputsParams(structural_tag=sampling.structure)
                ),
                **ending,
            )

    def _warn_of_seeds(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "seeds are ignored: on the CPU a seeded request whose prefill is chunked kills vLLM; "
                "start it with --no-enable-chunked-prefill"
            )


class _RunningCall:
    """The state of a running `generate` or `score` call: its vLLM requests, and whether it is aborted."""

    def __init__(self) -> None:
        self.aborted = False
        self.running: set[str] = set()
