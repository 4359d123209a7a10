"""The model on vLLM, in this process: many prompts at once, with or without pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.bundled.special_tokens import ASSISTANT, END, IMAGE, USER
from mirl_core.engines.vllm.arguments import cpu_engine_args, cpu_environment

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """A question, its picture, and the beginning of the assistant's turn."""

    question: str
    image: Image.Image | None
    prefix: str = ""

    def as_vllm(self) -> dict[str, Any]:
        """Return the prompt in vLLM's form, equal to the chat template's rendering."""
        picture = "" if self.image is None else IMAGE
        prompt: dict[str, Any] = {"prompt": USER + picture + self.question + END + ASSISTANT + self.prefix}
        if self.image is not None:
            prompt["multi_modal_data"] = {"image": self.image}
        return prompt


class Bench:
    """A vLLM engine with the bundled model, in this process."""

    # Not the bank's `start_engine`: the Engine protocol has no call for the distribution at positions in a
    # prompt. A list that is handed over whole is batched as a whole and so sampled from one seed, alike every
    # time; requests that arrive one by one are not.
    def __init__(self, model: Path, dtype: str = "bfloat16") -> None:
        # The server's own settings, among them blocks small enough that turns about one picture share a
        # prefix, and one compute thread less than a small machine has cores. Batches are larger: nobody waits
        # for one answer.
        settings = cpu_engine_args({"max_num_seqs": 512, "max_num_batched_tokens": 16384})
        # vLLM warns twice a request that it leaves the number of threads alone: that would hide the bar.
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR"}
        for name, value in (cpu_environment(settings) | quiet).items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        self._llm = LLM(
            str(model),
            dtype=dtype,
            max_model_len=256,
            limit_mm_per_prompt={"image": 1},
            max_logprobs=64,
            seed=0,
            **settings,
        )
        self.tokenizer = self._llm.get_tokenizer()

    def complete(
        self, prompts: Sequence[BenchPrompt], temperatures: Sequence[float], tokens: int = 120
    ) -> list[str]:
        """Return each prompt's continuation at its temperature, its prefix included.

        Prompts about one picture belong side by side: the picture is then encoded, and its tokens are
        prefilled, once for all of them.
        """
        from vllm import SamplingParams

        settings = [SamplingParams(temperature=t, max_tokens=tokens) for t in temperatures]
        outputs = self._llm.generate([p.as_vllm() for p in prompts], settings, use_tqdm=False)
        return [p.prefix + o.outputs[0].text for p, o in zip(prompts, outputs, strict=True)]

    def prompt_logprobs(
        self, prompts: Sequence[BenchPrompt], top: int = 32
    ) -> list[tuple[list[int], list[Mapping[int, float]]]]:
        """Return for each prompt its token ids and, per position, log p of the `top` tokens; nats."""
        from vllm import SamplingParams

        # No text: vLLM would decode each of the `top` tokens at every position.
        settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=top, detokenize=False)
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
