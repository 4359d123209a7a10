"""Conversations through a transformers processor: the same tensors for the engine and for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jinja2
import torch

from mirl_core.engines.common.refusals import processor_refusal, without_addresses
from mirl_core.errors import EngineError, MIRLError, RequestError
from mirl_core.types import Conversation, is_image

if TYPE_CHECKING:
    from PIL.Image import Image

_PROBE = "probe 8f3e"


def render_conversation(processor: Any, conversation: Conversation) -> dict[str, torch.Tensor]:
    """Return the processor's tensors: `input_ids` of shape (1, P) with image tokens expanded, pixels, etc.

    Raises:
        RequestError: the chat template or the processor refuses the conversation.
        EngineError: the processor fails otherwise.
    """
    as_parts = reads_parts(processor)
    messages = [
        {**message, "content": _content(message.get("content"), as_parts)}
        for message in conversation.messages
    ]
    images = conversation.images
    with transformers_errors_translated("render the conversation", param="messages"):
        text = processor.apply_chat_template(
            messages,
            tokenize=False,
            **{"add_generation_prompt": True, **conversation.template_kwargs},
            tools=[dict(tool) for tool in conversation.tools] or None,
        )
        inputs = _processed(processor, text, images)
    # PaliGemma's processor adds labels, from which its model would compute a loss.
    return {
        name: value for name, value in inputs.items() if isinstance(value, torch.Tensor) and name != "labels"
    }


def _processed(processor: Any, text: str, images: Sequence[Image]) -> Mapping[str, Any]:
    """Return what the processor makes of a prompt's text and images."""
    how = {"return_tensors": "pt", "add_special_tokens": False}
    try:
        processed: Mapping[str, Any] = processor(text=[text], images=[images] if images else None, **how)
    except (ValueError, ArithmeticError) as error:
        if images:
            raise processor_refusal(error, images, type(processor).__name__) from error
        # PaliGemma's processor refuses prompts without images, which its model can read.
        processed = processor.tokenizer([text], **how)
    return processed


def reads_parts(processor: Any) -> bool:
    """Return whether the processor's chat template takes a message's content as a list of parts.

    Such a template may lose a content that is a string: it goes through the characters as if they were parts.
    vLLM makes lists of all contents for it too.
    """
    message = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
    try:
        text = processor.apply_chat_template([message], tokenize=False)
    except (jinja2.TemplateError, ValueError, TypeError, KeyError):
        return False
    # A template for strings prints the list as Python does.
    return _PROBE in text and repr(_PROBE) not in text


def _content(content: Any, as_parts: bool) -> Any:
    """Return a message's content as the template takes it; images as parts without their pixels."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if as_parts else content
    if not isinstance(content, list | tuple):
        return content
    parts = [
        {"type": "image"}
        if is_image(part)
        else {"type": "text", "text": part}
        if isinstance(part, str)
        else part
        for part in content
    ]
    texts = [part.get("text") for part in parts if part.get("type") == "text"]
    return parts if as_parts or len(texts) < len(parts) else "\n".join(map(str, texts))


@contextmanager
def transformers_errors_translated(action: str, param: str | None = None) -> Iterator[None]:
    """Turn every exception that the block raises into a MIRLError.

    Args:
        action: the verb phrase after "transformers failed to" in the message.
        param: the request's field to blame for refusals; None: no request is to blame.

    Raises:
        RequestError: `param` is set and the request is refused.
        EngineError: transformers, torch or model code failed otherwise.
    """
    try:
        yield
    except MIRLError:
        raise
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        reason = without_addresses(str(error))
        if param is None:
            raise EngineError(f"transformers failed to {action}: {reason}") from error
        raise RequestError(f"{param} can't be rendered: {reason}", param=param) from error
    except Exception as error:
        # Model code raises exceptions of any type; callers handle MIRLError only.
        raise EngineError(f"transformers failed to {action}: {type(error).__name__}: {error}") from error
