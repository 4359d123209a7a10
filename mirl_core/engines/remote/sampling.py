"""Translation of a call's settings and context to a vLLM server's fields, and of its answers to samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mirl_core.engines.base import RequestContext, Sample, Sampling
from mirl_core.engines.common.samples import (
    checked_finish_reason,
    cut_at_stop_string,
    likeliest_first,
    stop_by_token,
    token_confidence,
)
from mirl_core.errors import EngineError


def sampling_params(
    sampling: Sampling, index: int, encode: Callable[[str], tuple[int, ...]]
) -> dict[str, Any]:
    """Return vLLM's sampling parameters for branch `index`.

    Samples are decoded in this process, so the server detokenizes only to find stop strings.
    """
    params: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        # vLLM returns as many values per position as requested, the sampled token's first, whether or not it
        # is among the likeliest: one more leaves room for all of those.
        "logprobs": sampling.ranked + 1 if sampling.ranked else 0,
        "detokenize": bool(sampling.stop),
    }
    seed = sampling.branch_seed(index)
    if seed is not None:
        params["seed"] = seed
    if sampling.stop:
        # A grammar allows a stop token only where the whole sample ends, not where an answer does: such a
        # sample would go on until its tokens are used up.
        by_text = sampling.structure is not None or not sampling.ranked
        by_token = None if by_text else stop_by_token(sampling.stop, encode)
        params |= by_token or {"stop": list(sampling.stop), "include_stop_str_in_output": True}
    if sampling.structure is not None:
        params["structured_outputs"] = {"structural_tag": sampling.structure}
    return params


def model_name(context: RequestContext, base: str) -> str:
    """Return the name of the request's model: its LoRA adapter's, else `base`."""
    return getattr(context.lora, "lora_name", context.lora) or base


def sharing_fields(context: RequestContext) -> dict[str, Any]:
    """Return the request's fields for the prefix cache's salt and the priority."""
    fields: dict[str, Any] = {}
    if context.cache_salt is not None:
        # vLLM's HTTP API limits a salt's length and characters.
        fields["cache_salt"] = hashlib.sha256(context.cache_salt.encode()).hexdigest()
    if context.priority:
        fields["priority"] = context.priority
    return fields


def read_sample(
    index: int, answer: Any, sampling: Sampling, decode: Callable[[Sequence[int]], str]
) -> Sample:
    """Return the sample of branch `index` in a server's answer.

    Raises:
        EngineError: the answer's form is not vLLM's, or vLLM ended the request with an error.
    """
    try:
        choice = answer["choices"][0]
        ids = tuple(int(token) for token in choice["token_ids"])
        content = (choice["logprobs"] or {}).get("content") or []
        logprobs = tuple(float(position["logprob"]) for position in content)
        tops = [_by_token(position) for position in content] if sampling.ranked else []
        confidence, likeliest = ranked_values(tops, sampling)
        reason = checked_finish_reason(choice["finish_reason"])
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise EngineError("a server answered a sample of another form than vLLM 0.32") from error
    if len(logprobs) != len(ids):
        raise EngineError(f"a server answered {len(logprobs)} log-probabilities for {len(ids)} tokens")
    sample = Sample(index, ids, logprobs, "", reason, confidence, likeliest)
    return cut_at_stop_string(sample, sampling.stop, decode)


def weight_versions(answer: Any) -> set[str]:
    """Return the versions of the weights that sampled the answer's tokens.

    Raises:
        EngineError: the answer doesn't name them.
    """
    try:
        spans = answer["choices"][0]["weight_versions"] or []
        return {str(span["version"]) for span in spans}
    except (TypeError, KeyError, IndexError) as error:
        raise EngineError("a server doesn't say which weights it samples with") from error


def ranked_values(
    tops: Sequence[Mapping[int, float]], sampling: Sampling
) -> tuple[tuple[float, ...], tuple[tuple[tuple[int, float], ...], ...]]:
    """Return the confidence and the likeliest tokens of each sampled token; either is empty if not wanted.

    Args:
        tops: log p by token id of the likeliest tokens at each position, nats.

    Raises:
        ValueError: a position has none, so that there is no confidence.
    """
    ranked = [likeliest_first(top) for top in tops]
    count = sampling.alternatives
    confidence = tuple(token_confidence([value for _, value in each[:count]]) for each in ranked if count)
    top = sampling.top_logprobs
    return confidence, tuple(each[:top] for each in ranked if top)


def _by_token(position: Any) -> dict[int, float]:
    # The sampled token comes first, wherever it ranks.
    return {int(entry["token_id"]): float(entry["logprob"]) for entry in position["top_logprobs"]}
