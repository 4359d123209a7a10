"""Settings by family: which model gets which, and what a folder's own file does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirl_core.config import ModelSettings
from mirl_core.families import FAMILIES, family_of, find_settings, of_family, opens_thinking, shipped
from mirl_core.types import Conversation
from tests.helpers.architectures import templates

INSTRUCT = templates.chatml(templates.QWEN_IMAGE)
THINKING = templates.chatml(templates.QWEN_IMAGE, prompt_end=templates.ALWAYS_THINKS)
HYBRID = templates.chatml(templates.QWEN_IMAGE, prompt_end=templates.THINKS_UNLESS_SWITCHED_OFF)
HISTORY = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<think>{% endfor %}" + INSTRUCT


@pytest.mark.parametrize(
    ("template", "opens"),
    [
        (INSTRUCT, False),
        (THINKING, True),
        (HYBRID, True),
        (HISTORY, False),
        (templates.GEMMA3, False),
        (templates.GEMMA4, False),
        (templates.LLAVA, False),
        ("{% if add_generation_prompt %}<|assistant|>\n<think></think>\n{% endif %}", False),
        ("", False),
    ],
)
def test_a_prefilled_thinking_is_seen(template: str, opens: bool) -> None:
    assert opens_thinking(template) is opens


@pytest.mark.parametrize(
    ("model_type", "template", "family"),
    [
        ("qwen2_5_vl", INSTRUCT, "chat"),
        ("qwen3_vl", THINKING, "thinking"),
        ("qwen3_5", HYBRID, "thinking"),
        ("gemma3", templates.GEMMA3, "chat"),
        ("llava", templates.LLAVA, "words"),
        ("smolvlm", None, "words"),
        ("some_new_model", THINKING, None),
        (None, None, None),
    ],
)
def test_models_have_their_familys_settings(
    model_type: str | None, template: str | None, family: Any
) -> None:
    assert family_of(model_type, template) == family
    result = of_family(model_type, template)
    assert result.settings == (ModelSettings() if family is None else shipped(family))
    assert result.notice is not None
    assert (f"'{family}'" if family else "the paper's") in result.notice


def test_no_type_is_in_two_families() -> None:
    types = [name for names in FAMILIES.values() for name in names]
    assert len(types) == len(set(types))


@pytest.mark.parametrize("family", ["chat", "thinking", "words"])
def test_a_familys_instruction_names_its_tags(family: Any) -> None:
    settings = shipped(family)
    assert settings.lenient
    assert all(tag in settings.instruction for tag in settings.tags.description)
    assert settings.tags.answer[0] in settings.instruction
    # The instruction is a user's text: it must not hold a token that stands for an image or a turn.
    assert "<image" not in settings.instruction
    assert "<|" not in settings.instruction
    prompt = Conversation(({"role": "user", "content": "How many?"},)).with_instruction(settings.instruction)
    assert prompt.messages[0]["content"][0]["text"].endswith(settings.instruction)


def test_a_thinking_models_instruction_opens_no_second_thinking() -> None:
    assert "<think>" not in shipped("thinking").instruction


def test_a_folder_has_its_own_settings_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    assert find_settings(tmp_path).family == "chat"
    (tmp_path / "chat_template.jinja").write_text(THINKING)
    assert find_settings(tmp_path).family == "thinking"
    (tmp_path / "mirl.json").write_text(json.dumps({"instruction": "Look."}))
    result = find_settings(tmp_path)
    assert result.own
    assert result.settings == ModelSettings(instruction="Look.")
    assert result.notice is None


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
def test_the_template_is_read_wherever_it_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    (tmp_path / name).write_text(json.dumps({"chat_template": THINKING}))
    assert find_settings(tmp_path).family == "thinking"


@pytest.mark.parametrize("config", [None, "{", "[]", "{}", '{"model_type": "bert"}'])
def test_without_a_family_the_papers_settings_hold(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    result = find_settings(tmp_path)
    assert (result.family, result.settings) == (None, ModelSettings())
