"""One conversation through a transformers processor: the same tensors for the engine and for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2
import torch

from mirl_core.errors import EngineError, MIRLError, RequestError
from mirl_core.types import Conversation, is_image


def render_conversation(processor: Any, conversation: Conversation) -> dict[str, torch.Tensor]:
    """The processor's tensors: `input_ids` of shape (1, P) with image tokens expanded, pixels and the like.

    Raises:
        RequestError: the conversation doesn't fit the chat template.
        EngineError: the processor failed.
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
def transformers_errors_translated(what: str, param: str | None = None) -> Iterator[None]:
    """Turn what transformers, torch and model code raise into MIRL's errors; `param` blames the request."""
    try:
        yield
    except MIRLError:
        raise
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        if param is None:
            raise EngineError(f"transformers failed to {what}: {error}") from error
        raise RequestError(f"{param} can't be rendered: {error}", param=param) from error
    except Exception as error:
        # Anything may come out of model code; callers know MIRLError.
        raise EngineError(f"transformers failed to {what}: {type(error).__name__}: {error}") from error
