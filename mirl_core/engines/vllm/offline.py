"""vLLM's offline `LLM` with one model.

It batches a list of prompts as a whole and samples it from one seed, so that results repeat. With requests
that arrive one by one they would not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_core.engines.system_libraries import check_libnuma
from mirl_core.engines.vllm.arguments import cpu_engine_args, cpu_environment


class OfflineModel:
    """A vLLM engine in this process, for reports whose calls the Engine protocol doesn't have.

    Args:
        model: folder of the model.
        dtype: dtype of the weights.
        max_model_len: longest sequence, prompt included; tokens.
    """

    def __init__(self, model: Path, dtype: str, max_model_len: int) -> None:
        check_libnuma()
        # The server's settings: blocks are so small that turns about the same picture share a prefix, and a
        # small machine keeps a core free. Batches are larger than the server's, since latency doesn't matter.
        settings = cpu_engine_args({"max_num_seqs": 512, "max_num_batched_tokens": 16384})
        # vLLM warns twice per request that it leaves the number of threads alone, which would hide the
        # progress bar.
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR"}
        for name, value in (cpu_environment(settings) | quiet).items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        self._llm = LLM(
            str(model),
            dtype=dtype,
            max_model_len=max_model_len,
            limit_mm_per_prompt={"image": 1},
            max_logprobs=64,
            seed=0,
            **settings,
        )
        self.tokenizer = self._llm.get_tokenizer()

    def complete(
        self, prompts: Sequence[dict[str, Any]], temperatures: Sequence[float], max_tokens: int
    ) -> list[str]:
        """Return the text of each prompt's continuation at its temperature."""
        from vllm import SamplingParams

        settings = [SamplingParams(temperature=value, max_tokens=max_tokens) for value in temperatures]
        outputs = self._llm.generate(list(prompts), settings, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]

    def prompt_logprobs(
        self, prompts: Sequence[dict[str, Any]], top: int
    ) -> list[tuple[list[int], list[Mapping[int, float]]]]:
        """Return, for each prompt, its token ids and log p of the `top` likeliest tokens per position; nats.

        The first position has no distribution: its mapping is empty.
        """
        from vllm import SamplingParams

        # With detokenization vLLM would decode each of the `top` tokens at every position.
        settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=top, detokenize=False)
        outputs = self._llm.generate(list(prompts), settings, use_tqdm=False)
        return [
            (
                list(output.prompt_token_ids),
                [
                    {} if position is None else {token: value.logprob for token, value in position.items()}
                    for position in output.prompt_logprobs
                ],
            )
            for output in outputs
        ]
