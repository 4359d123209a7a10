"""Translation between MIRL and vLLM: conversations to engine inputs for any number of forks, and errors."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMClientError, VLLMError
from vllm.renderers import BaseRenderer, ChatParams
from vllm.v1.engine.exceptions import EngineDeadError as VLLMEngineDeadError

from mirl_core.engines.base import error_from_vllm
from mirl_core.engines.common.messages import messages_with
from mirl_core.engines.common.refusals import processor_refusal, without_addresses
from mirl_core.engines.vllm.media_cache import engine_keeps_media
from mirl_core.errors import EngineDeadError, EngineError, MIRLError, RequestError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

_PROCESSOR_FAILED = re.compile(r"Failed to apply (\w+) on data=")
"""How vLLM reports an error inside a model's processor; the rest of its message is the request's content."""
DEAD = "the engine has stopped; the server must be restarted"


class VLLMPrompt:
    """A rendered conversation: vLLM's engine input with the preprocessed media in it.

    The first fork sends the media to the engine, later forks a reference, and the engine may drop them before
    a fork arrives. So the rendering keeps the media: `fork(with_media=True)` depends on no cache.
    """

    def __init__(self, engine_input: dict[str, Any], by_reference: bool) -> None:
        self.engine_input = engine_input
        self.token_ids: list[int] = engine_input["prompt_token_ids"]
        self.media_tokens = _media_tokens(engine_input)
        """Tokens that stand for media in this prompt."""
        self._by_reference = by_reference and engine_input["type"] == "multimodal"
        self._sent = False

    def fork(
        self, suffix: Sequence[int], cache_salt: str | None, *, with_media: bool = False
    ) -> tuple[dict[str, Any], bool]:
        """Return vLLM's input for prompt plus suffix, and whether it only refers to the media.

        The first fork carries the media, later forks a reference unless `with_media`. The engine answers a
        reference that it can't resolve with an error; the caller then forks again with media.
        """
        prompt = {**self.engine_input, "prompt_token_ids": [*self.token_ids, *suffix]}
        if cache_salt is not None:
            prompt["cache_salt"] = cache_salt
        by_reference = self._by_reference and self._sent and not with_media
        if by_reference:
            prompt["mm_kwargs"] = {
                modality: [None] * len(items) for modality, items in prompt["mm_kwargs"].items()
            }
        self._sent = True
        return prompt, by_reference


async def render_prompt(renderer: BaseRenderer, conversation: Conversation, chat: ChatParams) -> VLLMPrompt:
    """Apply the template, tokenize and preprocess; all blocking work runs in vLLM's renderer threads.

    The rendering goes through the cache that keeps the media (see `media_cache`), so it always has them.
    """
    mistral = renderer.config.model_config.tokenizer_mode == "mistral"
    params = ChatParams(
        chat_template=chat.chat_template,
        chat_template_content_format=chat.chat_template_content_format,
        chat_template_kwargs={
            "add_generation_prompt": True,
            "continue_final_message": False,
            **chat.chat_template_kwargs,
            **conversation.template_kwargs,
            "tools": [dict(tool) for tool in conversation.tools] or None,
            "tokenize": mistral,
        },
        media_io_kwargs=chat.media_io_kwargs,
        mm_processor_kwargs=chat.mm_processor_kwargs,
    )
    extras = {"mm_processor_kwargs": chat.mm_processor_kwargs} if chat.mm_processor_kwargs else None
    tokenize = renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
    if mistral:
        # Encoding takes milliseconds an image.
        messages = await asyncio.to_thread(messages_with, conversation, data_url_part)
    else:
        messages = vllm_messages(conversation)
    try:
        _, (engine_input,) = await renderer.render_chat_async(
            [messages], params, tokenize, prompt_extras=extras, skip_mm_cache=True
        )
    except ValueError as error:
        if wrapped := _PROCESSOR_FAILED.match(str(error)):
            raise processor_refusal(error, conversation.images, wrapped[1]) from error
        raise
    # With the arrival time of the rendering, vLLM would count the time until a fork as queueing.
    engine_input = {
        key: value for key, value in engine_input.items() if key not in ("arrival_time", "prompt")
    }
    return VLLMPrompt(engine_input, engine_keeps_media(renderer.config))


def vllm_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Return the messages with each image as vLLM's content part for decoded PIL images.

    Raises:
        RequestError: a part is neither text nor a decoded image; vLLM would fetch the URL in it.
    """
    return messages_with(conversation, lambda image: {"type": "image_pil", "image_pil": image})


def data_url_part(image: Image) -> dict[str, Any]:
    """Return an image as a part that mistral-common reads too, which knows no decoded images; lossless."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0)  # it is decoded again at once
    url = f"data:image/png;base64,{base64.b64encode(file.getbuffer()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _media_tokens(engine_input: dict[str, Any]) -> frozenset[int]:
    media_tokens: set[int] = set()
    for ranges in engine_input.get("mm_placeholders", {}).values():
        for span in ranges:
            tokens = engine_input["prompt_token_ids"][span.offset : span.offset + span.length]
            mask = [True] * len(tokens) if span.is_embed is None else span.is_embed.tolist()
            media_tokens.update(token for token, is_embed in zip(tokens, mask, strict=True) if is_embed)
    return frozenset(media_tokens)


@contextmanager
def vllm_errors_translated(action: str, param: str | None = None) -> Iterator[None]:
    """Turn every exception that the block raises into a MIRLError.

    Args:
        action: the verb phrase after "vLLM failed to" in the message.
        param: the request's field to blame where vLLM names none.

    Raises:
        RequestError: vLLM refuses the request.
        EngineDeadError: the engine is gone.
        EngineError: vLLM failed otherwise.
    """
    try:
        yield
    except MIRLError:
        raise
    except VLLMEngineDeadError as error:
        raise EngineDeadError(DEAD) from error
    except VLLMClientError as error:
        # vLLM names the field in `parameter`: an OpenAI field for sampling settings.
        field = param or getattr(error, "parameter", None)
        raise error_from_vllm(str(error.args[0] if error.args else error), field) from error
    except VLLMError as error:
        raise EngineError(f"vLLM failed to {action}: {error}") from error
    except (ValueError, TypeError, KeyError, TimeoutError) as error:
        # vLLM and the models' processors also refuse bad requests with built-in exceptions.
        reason = without_addresses(str(error))
        if param is None:
            raise EngineError(f"vLLM failed to {action}: {reason}") from error
        raise RequestError(f"{param} can't be rendered: {reason}", param=param) from error
    except Exception as error:
        # vLLM, torch and model code raise exceptions of any type; callers handle MIRLError only.
        raise EngineError(f"vLLM failed to {action}: {type(error).__name__}: {error}") from error
