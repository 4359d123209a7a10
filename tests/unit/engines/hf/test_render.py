"""Contents as each kind of chat template takes them, and what a processor returns beside the prompt."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
import torch
from PIL import Image

from mirl_core.engines.hf.render import reads_parts, render_conversation
from mirl_core.errors import RequestError
from mirl_core.types import Conversation
from tests.helpers.architectures import templates

PICTURE = {"type": "image", "image": Image.new("RGB", (1200, 4))}
STRINGS_ALONE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
TEMPLATES = {
    "ChatML": (templates.chatml("<image>"), True),
    "Gemma 3": (templates.GEMMA3, True),
    "LLaVA, parts alone": (templates.LLAVA, True),
    "LLaVA-OneVision, parts alone": (templates.LLAVA_ONEVISION, True),
    "SmolVLM, parts alone": (templates.SMOLVLM, True),
    "Mistral": (templates.MISTRAL, True),
    "PaliGemma": (templates.PALIGEMMA, True),
    "strings alone": (STRINGS_ALONE, False),
    "strings joined": ("{% for message in messages %}{{ message.content + '!' }}{% endfor %}", False),
}


class Processor:
    """A processor whose text is what its template makes of the messages."""

    def __init__(self, template: str, error: Exception | None = None) -> None:
        self._template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        self._error = error
        self.text = ""

    def apply_chat_template(self, messages: Any, tokenize: bool, **arguments: Any) -> str:
        return self._template.render(messages=messages, bos_token="<s>", eos_token="</s>", **arguments)

    def __call__(self, text: list[str], images: Any, **how: Any) -> dict[str, Any]:
        if self._error:
            raise self._error
        (self.text,) = text
        ids = torch.tensor([[1, 2, 3]])
        return {"input_ids": ids, "labels": ids, "token_type_ids": ids, "names": ["no tensor"]}


TURNS = Conversation(
    (
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A seven."},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    )
)


@pytest.mark.parametrize(("template", "parts"), TEMPLATES.values(), ids=TEMPLATES)
def test_no_templates_strings_are_lost(template: str, parts: bool) -> None:
    processor = Processor(template)
    assert reads_parts(processor) is parts
    render_conversation(processor, TURNS)
    for words in ("What is it?", "A seven.", "And now?"):
        assert words in processor.text
    assert "'type'" not in processor.text


def test_a_processor_that_wants_images_leaves_text_to_its_tokenizer() -> None:
    processor: Any = Processor(templates.PALIGEMMA, ValueError("`images` are expected"))
    ids = torch.tensor([[1, 2]])
    processor.tokenizer = lambda text, **how: {"input_ids": ids}
    assert render_conversation(processor, TURNS) == {"input_ids": ids}


def test_labels_are_left_out() -> None:
    inputs = render_conversation(Processor(templates.PALIGEMMA), TURNS)
    assert set(inputs) == {"input_ids", "token_type_ids"}


@pytest.mark.parametrize("error", [ValueError("too thin"), ZeroDivisionError("too thin")])
def test_a_refused_picture_is_named_by_its_size(error: Exception) -> None:
    talk = Conversation(({"role": "user", "content": [PICTURE, {"type": "text", "text": "?"}]},))
    with pytest.raises(RequestError, match="Processor can't take an image of 1200×4 pixels: too thin"):
        render_conversation(Processor(templates.LLAVA, error), talk)
