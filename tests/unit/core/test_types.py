"""Conversations: the instruction's place in each kind of chat template, and turns without their images; which
descriptions chains may continue."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from PIL import Image

from mirl_core.types import Conversation, Description

# How chat templates join the parts of a message: every one of these is some family's.
TEMPLATES = {
    "nothing between parts (ChatML)": (
        "{% for p in c %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"
    ),
    "stripped parts (Gemma)": (
        "{% for p in c %}{{ '<image>' if p.type == 'image' else p.text | trim }}{% endfor %}"
    ),
    "images first, blanks between texts (LLaVA)": (
        "{% for p in c if p.type == 'image' %}<image>\n{% endfor %}"
        "{% for p in c if p.type == 'text' %}{{ p.text }} {% endfor %}"
    ),
    "images first, stripped texts": (
        "{% for p in c if p.type == 'image' %}<image>{% endfor %}"
        "{% for p in c if p.type == 'text' %}{{ p.text | trim }}{% endfor %}"
    ),
    "line breaks before texts (LLaVA-OneVision)": (
        "{% for p in c if p.type == 'image' %}<image>{% endfor %}"
        "{% for p in c if p.type == 'text' %}\n{{ p.text }}{% endfor %}"
    ),
    "the first part alone (system messages of Mistral)": (
        "{{ c | selectattr('type', 'equalto', 'text') | map(attribute='text') | first }}"
    ),
}
PICTURE = {"type": "image", "image": Image.new("RGB", (4, 4))}
CONTENTS: dict[str, Any] = {
    "string": "How many digits?",
    "string with a line break": "How many digits?\n",
    "text": [{"type": "text", "text": "How many digits?"}],
    "picture, text": [PICTURE, {"type": "text", "text": "How many digits?"}],
    "text, picture": [{"type": "text", "text": "How many digits?"}, PICTURE],
    "text between pictures": [PICTURE, {"type": "text", "text": "How many digits?"}, PICTURE],
    "a plain string part": [PICTURE, "How many digits?"],
    "a blank text behind": [
        PICTURE,
        {"type": "text", "text": "How many digits?"},
        {"type": "text", "text": " "},
    ],
}


def conversation(content: Any) -> Conversation:
    return Conversation(({"role": "system", "content": "Be brief."}, {"role": "user", "content": content}))


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_the_instruction_is_a_paragraph_of_its_own(template: str, content: Any) -> None:
    prompt = conversation(content).with_instruction("Look first.")
    text = jinja2.Template(template).render(c=prompt.messages[-1]["content"])
    assert "How many digits?\n\nLook first." in text


@pytest.mark.parametrize(
    "content", [[PICTURE], [PICTURE, {"type": "text", "text": ""}], "", None, [PICTURE, " "]]
)
@pytest.mark.parametrize("template", list(TEMPLATES.values())[:5], ids=list(TEMPLATES)[:5])
def test_without_a_question_the_instruction_is_all_the_text(template: str, content: Any) -> None:
    prompt = conversation(content).with_instruction("Look first.")
    text = jinja2.Template(template).render(c=prompt.messages[-1]["content"])
    assert text.replace("<image>", "").strip() == "Look first."


def test_a_part_keeps_its_other_fields_and_the_original_is_untouched() -> None:
    part = {"type": "text", "text": "How many?", "cache_control": {"type": "ephemeral"}}
    before = conversation([PICTURE, part])
    after = before.with_instruction("Look first.").messages[-1]["content"]
    assert after == [PICTURE, {**part, "text": "How many?\n\nLook first."}]
    assert before.messages[-1]["content"] == [PICTURE, part]
    assert before.with_instruction("") is before


def test_a_turn_of_pictures_alone_keeps_its_place() -> None:
    turns = (
        {"role": "user", "content": [PICTURE, PICTURE]},
        {"role": "assistant", "content": "Two squares."},
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "And here?"}]},
    )
    bare = Conversation(turns).with_images(None)
    assert [message["content"] for message in bare.messages] == [
        [{"type": "text", "text": ""}],
        "Two squares.",
        [{"type": "text", "text": "And here?"}],
    ]
    assert bare.images == []


def test_other_images_take_the_same_places() -> None:
    other = [Image.new("RGB", (size, size)) for size in (1, 2)]
    kept = conversation([PICTURE, "Text", PICTURE]).with_images(other)
    assert [image.size for image in kept.images] == [(1, 1), (2, 2)]
    assert kept.messages[-1]["content"][1] == "Text"


@pytest.mark.parametrize(
    ("reason", "usable"),
    [
        (None, True),
        ("gate", True),
        ("duplicate", True),
        ("truncated", False),
        ("empty", False),
        ("unparsable", False),
        ("stopped", False),
    ],
)
@pytest.mark.parametrize("kept", [True, False])
def test_a_description_is_usable_unless_it_has_a_fault(reason: str | None, usable: bool, kept: bool) -> None:
    assert Description(0, "a cat", (1, 2), 1, -1.0, kept=kept, reason=reason).usable == usable
