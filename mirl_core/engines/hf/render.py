"""Conversations through a transformers processor: the same tensors for the engine and for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2
import torch

from mirl_core.errors import EngineError, MIRLError, RequestError
from mirl_core.types import Conversation, is_image


def render_conversation(processor: Any, conversation: Conversation) -> dict[str, torch.Tensor]:
    """Return the processor's tensors: `input_ids` of shape (1, P) with image tokens expanded, pixels, etc.

    Raises:
        RequestError: the chat template or the processor refuses the conversation.
        EngineError: the processor fails otherwise.
    """
    messages = []
    for message in conversation.messages:
        content = message.get("content")
        if isinstance(content, list | tuple):
            content = [{"type": "image"} if is_image(part) else part for part in content]
        messages.append({**message, "content": content})
    with transformers_errors_translated("render the conversation", param="messages"):
        text = processor.apply_chat_template(
            messages,
            tokenize=False,
            **{"add_generation_prompt": True, **conversation.template_kwargs},
            tools=[dict(tool) for tool in conversation.tools] or None,
        )
        inputs = processor(
            text=[text],
            images=[conversation.images] if conversation.images else None,
            return_tensors="pt",
            add_special_tokens=False,
        )
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


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
        if param is None:
            raise EngineError(f"transformers failed to {action}: {error}") from error
        raise RequestError(f"{param} can't be rendered: {error}", param=param) from error
    except Exception as error:
        # Model code raises exceptions of any type; callers handle MIRLError only.
        raise EngineError(f"transformers failed to {action}: {type(error).__name__}: {error}") from error
