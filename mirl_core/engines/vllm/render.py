"""Between MIRL's values and vLLM's: conversations in, engine inputs for any number of forks, errors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vllm.exceptions import VLLMClientError, VLLMError
from vllm.multimodal.cache import LruKeyReplicatedSenderCache
from vllm.renderers import BaseRenderer, ChatParams
from vllm.v1.engine.exceptions import EngineDeadError as VLLMEngineDeadError

from mirl_core.engines.base import error_from_vllm
from mirl_core.engines.common.messages import messages_with
from mirl_core.errors import EngineDeadError, EngineError, MIRLError, RequestError
from mirl_core.types import Conversation

DEAD = "the engine has stopped; the server must be restarted"


class VLLMPrompt:
    """One rendered conversation: vLLM's engine input with the preprocessed media in it.

    vLLM's own cache sends preprocessed media to the engine once and a reference from then on, and the engine
    may have dropped them by the time a fork comes. So the media stay here as long as the rendering does:
    `fork(with_media=True)` never depends on a cache.
    """

    def __init__(self, engine_input: dict[str, Any], by_reference: bool) -> None:
        self.engine_input = engine_input
        self.token_ids: list[int] = engine_input["prompt_token_ids"]
        self.media_tokens = _media_tokens(engine_input)
        """Tokens that stand for the media in this very prompt."""
        self._by_reference = by_reference and engine_input["type"] == "multimodal"
        self._sent = False

    def fork(
        self, suffix: Sequence[int], cache_salt: str | None, *, with_media: bool = False
    ) -> tuple[dict[str, Any], bool]:
        """vLLM's input for prompt plus suffix, and whether the media are in it or only referred to.

        The first fork carries the media, later ones a reference (unless `with_media`): the engine answers
        a reference that it can't resolve with an error, and then the caller asks again.
        """
        prompt = {**self.engine_input, "prompt_token_ids": [*self.token_ids, *suffix]}
        if cache_salt is not None:
            prompt["cache_salt"] = cache_salt
        referred = self._by_reference and self._sent and not with_media
        if referred:
            prompt["mm_kwargs"] = {
                modality: [None] * len(items) for modality, items in prompt["mm_kwargs"].items()
            }
        self._sent = True
        return prompt, referred


async def render_prompt(renderer: BaseRenderer, conversation: Conversation, chat: ChatParams) -> VLLMPrompt:
    """Template, tokenize and preprocess; all blocking work runs in vLLM's renderer threads.

    vLLM keeps two caches of preprocessed media in this process. The first ("sender") mirrors the engine's:
    on a hit it returns no data. The second keeps the data. Going through the first keeps the mirror true for
    plain requests on the same engine; where it had no data, the second is asked, which preprocesses the
    media at most once more, so an image is preprocessed once at most per request in any case.
    """
    params = ChatParams(
        chat_template=chat.chat_template,
        chat_template_content_format=chat.chat_template_content_format,
        chat_template_kwargs={
            "add_generation_prompt": True,
            "continue_final_message": False,
            **chat.chat_template_kwargs,
            **conversation.template_kwargs,
            "tools": [dict(tool) for tool in conversation.tools] or None,
            "tokenize": renderer.config.model_config.tokenizer_mode == "mistral",
        },
        media_io_kwargs=chat.media_io_kwargs,
        mm_processor_kwargs=chat.mm_processor_kwargs,
    )
    extras = {"mm_processor_kwargs": chat.mm_processor_kwargs} if chat.mm_processor_kwargs else None
    tokenize = renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
    messages = vllm_messages(conversation)
    _, (engine_input,) = await renderer.render_chat_async([messages], params, tokenize, prompt_extras=extras)
    if _lacks_media(engine_input):
        _, (engine_input,) = await renderer.render_chat_async(
            [messages], params, tokenize, skip_mm_cache=True
        )
    # The arrival time would make a fork look as if it had waited in the queue since the rendering.
    engine_input = {
        key: value for key, value in engine_input.items() if key not in ("arrival_time", "prompt")
    }
    return VLLMPrompt(engine_input, isinstance(renderer.mm_processor_cache, LruKeyReplicatedSenderCache))


def vllm_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages with images in vLLM's own form, which takes decoded PIL images.

    Raises:
        RequestError: a part is neither text nor a decoded image; vLLM would fetch what it refers to.
    """
    return messages_with(conversation, lambda image: {"type": "image_pil", "image_pil": image})


def _media_tokens(engine_input: dict[str, Any]) -> frozenset[int]:
    found: set[int] = set()
    for places in engine_input.get("mm_placeholders", {}).values():
        for place in places:
            tokens = engine_input["prompt_token_ids"][place.offset : place.offset + place.length]
            mask = [True] * len(tokens) if place.is_embed is None else place.is_embed.tolist()
            found.update(token for token, stands in zip(tokens, mask, strict=True) if stands)
    return frozenset(found)


def _lacks_media(engine_input: dict[str, Any]) -> bool:
    return engine_input["type"] == "multimodal" and any(
        item is None for items in engine_input["mm_kwargs"].values() for item in items
    )


@contextmanager
def vllm_errors_translated(what: str, param: str | None = None) -> Iterator[None]:
    """Turn whatever vLLM raises into MIRL's errors; nothing of vLLM's passes.

    Args:
        what: the action, for the message.
        param: the request's field to blame where vLLM names none.

    Raises:
        RequestError: vLLM refuses the request.
        EngineDeadError: the engine is gone.
        EngineError: anything else.
    """
    try:
        yield
    except MIRLError:
        raise
    except VLLMEngineDeadError as error:
        raise EngineDeadError(DEAD) from error
    except VLLMClientError as error:
        # `parameter` is vLLM's name for it, an OpenAI field for sampling settings.
        field = param or getattr(error, "parameter", None)
        raise error_from_vllm(str(error.args[0] if error.args else error), field) from error
    except VLLMError as error:
        raise EngineError(f"vLLM failed to {what}: {error}") from error
    except (ValueError, TypeError, KeyError, TimeoutError) as error:
        # vLLM and the models' processors refuse bad requests with plain errors too.
        if param is None:
            raise EngineError(f"vLLM failed to {what}: {error}") from error
        raise RequestError(f"{param} can't be rendered: {error}", param=param) from error
    except Exception as error:
        # vLLM, torch and model code raise anything; callers know MIRLError.
        raise EngineError(f"vLLM failed to {what}: {type(error).__name__}: {error}") from error
