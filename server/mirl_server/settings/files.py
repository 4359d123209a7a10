"""Reading and writing of settings as YAML, and messages for wrong ones. Knows no setting by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from mirl_core.config import first_problem, nested_model
from mirl_core.errors import ConfigError

SECTION = "mirl"
MASK = "**********"
_SECRET = re.compile(r"(^|_)(api_?keys?|keys?|secrets?|token|passwords?|credentials?)$", re.IGNORECASE)


class FileSource(PydanticBaseSettingsSource):
    """The source that reads the `mirl:` section of the file that `config` (flag or environment) names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        return read_section(Path(path)) if path else {}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A setting in a tree of models."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """The dotted name, as in the file and for `--mirl-set`."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return "MIRL_" + "__".join(self.path).upper()


def read_section(path: Path) -> dict[str, Any]:
    """Return MIRL's section of a configuration file.

    Raises:
        ConfigError: the file does not exist, or is not YAML of this form.
    """
    section = read_config(path).get(SECTION) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"'{SECTION}' in config {path} must be a mapping of settings", param="config")
    return section


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a configuration file, MIRL's section and vLLM's flags.

    Raises:
        ConfigError: the file does not exist, or is not YAML of this form.
    """
    import yaml  # a dependency of vLLM; needed only with a file

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} can't be read: {error}", param="config") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"config {path} is not YAML{where}", param="config") from error
    if not isinstance(content or {}, dict):
        raise ConfigError(f"config {path} must be a mapping of settings", param="config")
    return content or {}


def leaves(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Yield every setting of a tree of models, in order of declaration."""
    for name, field in model.model_fields.items():
        inner = nested_model(field)
        if inner is None:
            yield Leaf((*above, name), field)
        else:
            yield from leaves(inner, (*above, name))


def as_yaml(settings: BaseModel, beside: Mapping[str, Any] | None = None) -> str:
    """Return settings as the text of a file for `--config`, with secrets masked.

    Args:
        beside: vLLM's flags, written beside MIRL's section.
    """
    import yaml

    content = {**masked(beside or {}), SECTION: masked(settings.model_dump(mode="json", exclude={"config"}))}
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def masked(value: Any, name: str = "") -> Any:
    """Return the value with every text masked whose key is the name of a secret, at any depth.

    pydantic masks fields of type SecretStr in its dump; this function masks all others.
    """
    name = name.replace("-", "_")
    if isinstance(value, Mapping):
        inner = {str(key): masked(member, str(key)) for key, member in value.items()}
        # Secrets by name, such as {"team-a": "…"} under `keys`.
        return {key: masked(member, name) for key, member in inner.items()} if _SECRET.search(name) else inner
    if isinstance(value, list | tuple):
        return [masked(member, name) for member in value]
    return MASK if isinstance(value, str) and value and _SECRET.search(name) else value


def problem(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Return the first error as (a sentence with the remedy, the dotted field), without a secret's value."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden" and any(_SECRET.search(str(part)) for part in first["loc"]):
        return str(first["msg"]), where
    return first_problem(error, model)


def cause_line(error: Exception) -> str:
    """Return a SettingsError with its cause: pydantic-settings wraps the error in a variable's JSON."""
    cause = error.__cause__
    return f"{error}: {cause}" if cause else str(error)


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"limits.max_keep": 8}` into `{"limits": {"max_keep": 8}}`.

    Raises:
        ConfigError: a name is both a value and a section.
    """
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *above, last = name.split(".")
        section = tree
        for part in above:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"'{name}': '{part}' has a value already", param=name)
        section[last] = value
    return tree


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both trees as one; where both have a value, the value of `above` wins."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def stray_variables(model: type[BaseModel], environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the environment's MIRL_… variables that are no settings, most likely misspelt."""
    known = {leaf.variable for leaf in leaves(model)}
    above = {
        "MIRL_" + "__".join(leaf.path[:depth]).upper() for leaf in leaves(model) for depth in range(1, 9)
    }
    # A dict setting takes any key.
    dicts = tuple(f"{leaf.variable}__" for leaf in leaves(model) if get_origin(leaf.field.annotation) is dict)
    names = (name.upper() for name in (os.environ if environment is None else environment))
    strays = {name for name in names if name.startswith("MIRL_") and name not in known | above}
    return sorted(name for name in strays if not name.startswith(dicts))
