"""Conversations as the renderer of each tokenizer gets them, and what is refused."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from vllm.renderers import ChatParams

from mirl_core.engines.vllm import render
from mirl_core.errors import RequestError
from mirl_core.types import Conversation

PICTURE = Image.effect_noise((30, 20), 80).convert("RGB")
QUESTION = Conversation(
    ({"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "?"}]},)
)


class Renderer:
    """vLLM's renderer: keeps the messages, and returns one token or raises an error."""

    def __init__(self, mode: str, error: Exception | None = None) -> None:
        self.config = SimpleNamespace(model_config=SimpleNamespace(tokenizer_mode=mode))
        self.default_chat_tok_params = SimpleNamespace(with_kwargs=lambda **arguments: arguments)
        self.messages: list[Any] = []
        self._error = error

    async def render_chat_async(self, conversations: Any, *arguments: Any, **more: Any) -> Any:
        (self.messages,) = conversations
        if self._error:
            raise self._error
        return None, ({"type": "token", "prompt_token_ids": [1], "arrival_time": 0.0},)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "engine_keeps_media", lambda config: False)


async def test_mistral_common_gets_data_urls_of_the_same_pixels() -> None:
    renderer: Any = Renderer("mistral")
    prompt = await render.render_prompt(renderer, QUESTION, ChatParams())
    assert prompt.token_ids == [1]
    part, text = renderer.messages[0]["content"]
    assert part["type"] == "image_url"
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.mode == "RGB"
        assert image.tobytes() == PICTURE.tobytes()
    assert text == {"type": "text", "text": "?"}


@pytest.mark.parametrize("mode", ["auto", "hf", "slow"])
async def test_other_tokenizers_get_the_picture_itself(mode: str) -> None:
    renderer: Any = Renderer(mode)
    await render.render_prompt(renderer, QUESTION, ChatParams())
    assert renderer.messages[0]["content"][0] == {"type": "image_pil", "image_pil": PICTURE}


async def test_a_processors_refusal_is_its_reason() -> None:
    error = ValueError(f"Failed to apply Qwen2VLProcessor on data={{'images': [{PICTURE}]}} with kwargs={{}}")
    error.__cause__ = ValueError("absolute aspect ratio must be smaller than 200, got 300.0")
    renderer: Any = Renderer("auto", error)
    with pytest.raises(RequestError) as caught:
        await render.render_prompt(renderer, QUESTION, ChatParams())
    assert caught.value.message.startswith(
        "Qwen2VLProcessor can't take an image of 30×20 pixels: absolute aspect ratio must be smaller than 200"
    )
    assert "data=" not in caught.value.message


async def test_other_errors_pass() -> None:
    renderer: Any = Renderer("auto", ValueError("roles must alternate"))
    with pytest.raises(ValueError, match="roles must alternate"):
        await render.render_prompt(renderer, QUESTION, ChatParams())
