"""Training sees the token ids that real vLLM renders."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer

from mirl_core.bundled import DIGITS
from mirl_core.engines.base import RequestContext
from mirl_core.training.sft.text import render_prompt
from mirl_core.types import Conversation

QUESTION = "Are there more red than blue digits?"


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("system", [None, "Be brief."])
async def test_training_ids_are_those_of_vllm(
    vllm_engine: Any, image: bool, last: bool, system: str | None
) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if image:
        parts.insert(len(parts) if last else 0, {"type": "image", "image": Image.new("RGB", (64, 64))})
    head = () if system is None else ({"role": "system", "content": system},)
    conversation = Conversation((*head, {"role": "user", "content": parts}))
    rendered = await vllm_engine.render(conversation, RequestContext("ids"))
    tokenizer = Tokenizer.from_file(str(DIGITS.path / "tokenizer.json"))
    ours = tokenizer.encode(render_prompt(QUESTION, image, system, last)).ids
    assert list(rendered.inputs.token_ids) == ours
