"""The model on vLLM, in this process: many prompts at once, with or without pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirl_core.bundled.special_tokens import ASSISTANT, END, IMAGE, USER
from mirl_core.engines.vllm.offline import OfflineModel

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
    """The bundled model on vLLM's offline engine.

    Not the bank's engine: the Engine protocol has no call for the distribution at positions inside a prompt.
    """

    def __init__(self, model: Path, dtype: str = "bfloat16") -> None:
        self._model = OfflineModel(model, dtype, max_model_len=256)
        self.tokenizer = self._model.tokenizer

    def complete(
        self, prompts: Sequence[BenchPrompt], temperatures: Sequence[float], tokens: int = 120
    ) -> list[str]:
        """Return each prompt's continuation at its temperature, its prefix included.

        Prompts about one picture belong side by side: the picture is then encoded, and its tokens are
        prefilled, once for all of them.
        """
        texts = self._model.complete([prompt.as_vllm() for prompt in prompts], temperatures, tokens)
        return [prompt.prefix + text for prompt, text in zip(prompts, texts, strict=True)]

    def prompt_logprobs(
        self, prompts: Sequence[BenchPrompt], top: int = 32
    ) -> list[tuple[list[int], list[Mapping[int, float]]]]:
        """Return for each prompt its token ids and, per position, log p of the `top` tokens; nats."""
        return self._model.prompt_logprobs([prompt.as_vllm() for prompt in prompts], top)
