"""Parser of a method's name, `base@K+stop(key=value;key=value,value)`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from mirl_core.config import MIRLOptions, ModelSettings, Settings, first_problem
from mirl_core.errors import ConfigError, RequestError
from mirl_core.presets import PresetName

__all__ = ["MethodSpec", "read", "split"]

_NAME = re.compile(
    r"(?P<base>[a-z]+(?:-[a-z]+)*)(?:@(?P<count>\d+))?(?P<stop>\+stop)?(?:\((?P<options>[^()]*)\))?"
)
_OPTIONS = TypeVar("_OPTIONS", bound=Settings)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A parsed name, with the model's facts that methods may need."""

    name: str
    base: str
    count: int | None
    """K, where the name has `@K`."""
    stop: bool
    raw_options: Mapping[str, str]
    settings: ModelSettings
    opening_tokens: int

    @property
    def k(self) -> int:
        """K, which the method requires.

        Raises:
            ConfigError: the name has no K, or K is 0.
        """
        if not self.count:
            raise self.problem(f"say how many trajectories, as in {self.base}@16")
        return self.count

    def plain(self, count: bool = False, stop: bool = False) -> None:
        """Raise ConfigError if the name has `@K` or `+stop` where the method takes neither."""
        if self.count is not None and not count:
            raise self.problem(f"{self.base} takes no @K")
        if self.stop and not stop:
            raise self.problem(f"{self.base} takes no +stop")

    def options(
        self, defaults: _OPTIONS, fixed: Mapping[str, object] | None = None, refused: Sequence[str] = ()
    ) -> _OPTIONS:
        """Return `defaults` with the name's options changed, then the `fixed` ones.

        Args:
            fixed: options that the method decides; the name must not have them.
            refused: keys that a replay can't follow.

        Raises:
            ConfigError: an unknown key, a value out of range, a fixed or refused key.
        """
        fixed = dict(fixed or {})
        values = self._values(defaults, fixed, refused) | fixed
        try:
            return type(defaults).model_validate(defaults.model_dump() | values)
        except ValidationError as error:
            raise self.problem(first_problem(error, type(defaults))[0]) from error

    def request_options(
        self,
        preset: PresetName | None = None,
        fixed: Mapping[str, object] | None = None,
        refused: Sequence[str] = (),
    ) -> MIRLOptions:
        """Return the options of a request with the name's options, to a server of the model.

        Args:
            preset: the request's preset.
            fixed: as for `options`.
            refused: as for `options`.

        Raises:
            ConfigError: as `options`.
        """
        defaults, fixed = self.settings.options, dict(fixed or {})
        if preset:
            fixed["preset"] = preset
        values = self._values(defaults, fixed, refused) | fixed
        try:
            return MIRLOptions.parse(values, defaults)
        except RequestError as error:
            raise self.problem(error.message) from error

    def _values(
        self, defaults: Settings, fixed: Mapping[str, object], refused: Sequence[str]
    ) -> dict[str, object]:
        """Return the name's options, lists as tuples and `none` as None or as the empty list."""
        values: dict[str, object] = {}
        for key, value in self.raw_options.items():
            if key in fixed:
                raise self.problem(f"'{key}' is what the name says; leave it out")
            if key in refused:
                raise self.problem(
                    f"'{key}' can't be replayed from a bank; change the model's mirl.json and bank anew"
                )
            # A gate has the name `none`.
            absent = value == "null" or (value == "none" and key != "gate")
            if isinstance(getattr(defaults, key, None), tuple):
                values[key] = () if absent else tuple(value.split(","))
            else:
                values[key] = None if absent else value
        return values

    def problem(self, message: str) -> ConfigError:
        return ConfigError(f"methods: {self.name}: {message}", param="methods")


def split(text: str) -> list[str]:
    """Return the names in a list with commas, without white space; commas inside parentheses don't count."""
    names = [re.sub(r"\s+", "", name) for name in re.findall(r"(?:[^,(]|\([^)]*\)?)+", text)]
    return [name for name in names if name]


def read(name: str, settings: ModelSettings, opening_tokens: int) -> MethodSpec:
    """Parse one name.

    Raises:
        ConfigError: the name has another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"methods: {name!r} is not of the form name, name@K, name@K+stop or name(key=value;key=value)",
            param="methods",
        )
    raw_options: dict[str, str] = {}
    for part in filter(None, (match["options"] or "").split(";")):
        key, equals, value = part.partition("=")
        if not equals or not key or not value or key in raw_options:
            raise ConfigError(
                f"methods: {name}: {part!r} is not key=value, or a key comes twice", param="methods"
            )
        raw_options[key] = value
    count = None if match["count"] is None else int(match["count"])
    return MethodSpec(name, match["base"], count, bool(match["stop"]), raw_options, settings, opening_tokens)
