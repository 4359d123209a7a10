"""Settings for models that were never trained on MIRL's format, by family; imports `config` and `errors`.

    chat.json      instruction-tuned models: the tags as elements, which these models write for other prompts
    thinking.json  models whose chat template opens the thinking: the description begins it
    words.json     small or old models, which rarely keep to elements: `Description:`, `Reasoning:`, …

Each is a `mirl.json`. None was measured on real weights here; `mirl-eval calibrate` finds a model's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mirl_core.config import ModelSettings

__all__ = [
    "FAMILIES",
    "ResolvedSettings",
    "family_of",
    "find_settings",
    "of_family",
    "opens_thinking",
    "shipped",
]

Family = Literal["chat", "thinking", "words"]

FAMILIES: dict[Family, tuple[str, ...]] = {
    "chat": (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
        "internvl",
        "internvl_chat",
        "gemma3",
        "gemma4",
        "glm4v",
        "glm4v_moe",
        "llava_onevision",
        "mistral3",
        "pixtral",
    ),
    "words": ("llava", "llava_next", "smolvlm", "idefics3", "paligemma"),
}
"""Model types (`model_type` in config.json). A model of any type whose template opens the thinking is of the
family `thinking`."""
_THINKING = re.compile(r"<think>(?!.*</think>)", re.DOTALL)
_BRANCH = re.compile(r"\{%-?\s*(?:else|elif|endif)\b")


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """A model's settings, and where they are from."""

    settings: ModelSettings
    family: Family | None = None
    """The family whose settings they are; None: the model's own, or the paper's."""
    own: bool = False
    """Whether they are the `mirl.json` beside the weights."""

    @property
    def notice(self) -> str | None:
        """What the operator should know at the start; None: nothing."""
        if self.own:
            return None
        if self.family is None:
            return "has no mirl.json: tags, prompts, N, k and m are the paper's, not this model's own"
        return (
            f"has no mirl.json: tags and prompts are those of the family '{self.family}', for models that "
            "were never trained on them, N, k and m the paper's (docs/models.md)"
        )


@cache
def shipped(family: Family) -> ModelSettings:
    """Return the settings of a family."""
    text = Path(__file__).with_name(f"{family}.json").read_text(encoding="utf-8")
    return ModelSettings.model_validate(json.loads(text))


def family_of(model_type: str | None, template: str | None = None) -> Family | None:
    """Return the family of a model; None: none is known.

    Args:
        model_type: as in config.json.
        template: the chat template.
    """
    family = next((name for name, types in FAMILIES.items() if model_type in types), None)
    return "thinking" if family and template and opens_thinking(template) else family


def opens_thinking(template: str) -> bool:
    """Return whether a chat template's generation prompt ends inside the thinking.

    Where an argument of the template decides, as `enable_thinking` of Qwen3.5, the answer is yes if one of
    the branches does.
    """
    prompt = template.rpartition("add_generation_prompt")[2]
    return any(_THINKING.search(branch) for branch in _BRANCH.split(prompt))


def find_settings(folder: str | Path) -> ResolvedSettings:
    """Return the settings of the model in a folder: its `mirl.json`, else its family's, else the paper's.

    Raises:
        ConfigError: the `mirl.json` is wrong.
    """
    own = ModelSettings.load(folder)
    if own is not None:
        return ResolvedSettings(own, own=True)
    return of_family(_json(Path(folder) / "config.json").get("model_type"), _template(Path(folder)))


def of_family(model_type: str | None, template: str | None) -> ResolvedSettings:
    """Return the settings of a model that has none of its own; arguments as for `family_of`."""
    family = family_of(model_type, template)
    return ResolvedSettings(ModelSettings() if family is None else shipped(family), family)


def _template(folder: Path) -> str | None:
    """Return the chat template of a model's folder, wherever transformers has kept it over time."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = _json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def _json(file: Path) -> Mapping[str, Any]:
    """Return a file's JSON object; empty where there is none, which is reported elsewhere."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
