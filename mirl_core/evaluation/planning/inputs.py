"""What a plan is made from: the workload, what adaptive methods are expected to do, and an engine's rates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from mirl_core.algorithm.costs import Rates, decode_rates
from mirl_core.config import Settings, first_problem
from mirl_core.errors import ConfigError

__all__ = ["Expected", "Workload", "read_expected", "read_rates", "validated"]

_SETTINGS = TypeVar("_SETTINGS", bound=Settings)
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**7)]
Amount = Annotated[float, Field(ge=1e-6, le=1e12, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_FLAGS = {
    "prefill": "prefill_rate",
    "steps": "decode_rate",
    "score": "score_rate",
    "call": "call_seconds",
    "image": "image_seconds",
    "render": "render_seconds",
}
"""The command's option for each field of `Rates`."""


class Workload(Settings):
    """One kind of request, and how many of them arrive."""

    text_tokens: Count
    """Tokens of the prompt without its images: template, system prompt, question, instruction."""
    image_tokens: Annotated[int, Field(ge=0, le=10**7)]
    """Tokens of all images of a prompt."""
    images: Annotated[int, Field(ge=0, le=10**4)] = 1
    """Images of a prompt."""
    description_tokens: Annotated[int, Field(ge=1, le=10**4)]
    """Mean length of a description, its closing tag included."""
    chain_tokens: Count
    """Mean length of reasoning and answer after the description."""
    plain_tokens: Count | None = None
    """Mean length of what `greedy`, `direct` and `sc@K` sample; None: description and chain."""
    rate: Amount = 1.0
    """Requests that arrive per second."""
    utilization: Annotated[float, Field(gt=0, le=0.99, allow_inf_nan=False)] = 0.7
    """Share of a GPU's capacity that the arriving requests take up."""
    batch: Annotated[float, Field(ge=1, le=10**6, allow_inf_nan=False)] | None = None
    """Sequences that a GPU decodes at once when it is full; None: the largest of the decode rates."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return self.text_tokens + self.image_tokens

    @property
    def trajectory_tokens(self) -> int:
        """Tokens that a plain trajectory samples."""
        return self.plain_tokens or self.description_tokens + self.chain_tokens


class Expected(Settings):
    """What adaptive methods do on average; defaults follow from runs of `mirl-charts` (docs/scaling.md)."""

    distinct: Annotated[float, Field(gt=0, le=1)] = 0.82
    """Share of a request's sampled descriptions after the first that are distinct; each is scored once."""
    chain_share: Share = 0.98
    """Share of the tokens of all chains but the first that are sampled before the vote is decided."""
    second_wave: Share = 0.24
    """Share of requests by `waves` whose remaining chains start."""
    second_wave_share: Share = 1.0
    """Share of the second wave's tokens that are sampled before the vote is certain."""
    switches: Annotated[float, Field(ge=0, le=64)] = 0.5
    """Switches of a decode with λ > 0; each drafts the rest of a round anew."""
    waste: Annotated[float, Field(ge=0, le=16)] = 0.3
    """Drafted tokens that a decode with λ > 0 doesn't use, as a share of a description."""
    own_chains: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Share of a steered request's descriptions after the first that are distinct, and so have a chain."""
    sample_waves: Annotated[float, Field(ge=0, le=64)] = 1.3
    """Waves of samples that a steered request starts after its first descriptions."""


class _RatesFile(Settings):
    """A file of rates, as the latency benchmark writes them; see `Rates`."""

    prefill: Amount
    steps: Annotated[tuple[tuple[Count, Annotated[float, Field(ge=1e-9, le=1e6)]], ...], Field(min_length=1)]
    score: Amount | None = None
    call: Seconds = 0.0
    image: Seconds = 0.0
    render: Seconds = 0.0


def validated(model: type[_SETTINGS], values: Mapping[str, Any]) -> _SETTINGS:
    """Return the settings of these values.

    Raises:
        ConfigError: a value is out of range; `param` is its field.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        message, field = first_problem(error, model)
        raise ConfigError(message, param=field) from error


def read_expected(text: str) -> Expected:
    """Return the expected values with those of `text`, such as `distinct=0.9,second_wave=0.5`, changed.

    Raises:
        ConfigError: a key is unknown, or a value out of range; `param` is `expect`.
    """
    values = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = part.partition("=")
        if not sign:
            raise ConfigError(f"expect: write KEY=VALUE, unlike {part!r:.60}", param="expect")
        values[key.strip()] = value.strip()
    try:
        return validated(Expected, values)
    except ConfigError as error:
        raise ConfigError(f"expect: {error}", param="expect") from error


def read_rates(
    file: Path | None = None,
    *,
    prefill: float | None = None,
    decode: str | None = None,
    score: float | None = None,
    call: float | None = None,
    image: float | None = None,
    render: float | None = None,
) -> Rates:
    """Return an engine's rates: those of the arguments, and of the file where there is no argument.

    Args:
        file: JSON with the fields of `Rates`, or with them under `rates`.
        prefill: tokens per second.
        decode: tokens per second of all sequences by their number, such as `1:150,16:2000`.
        score: tokens per second; None: as `prefill`.
        call: seconds of a call besides its tokens.
        image: seconds of an image in the vision encoder.
        render: seconds of rendering a conversation.

    Raises:
        ConfigError: a rate is missing, not positive, or falls as the batch grows.
    """
    values = {} if file is None else _read(file)
    if decode is not None:
        try:
            values["steps"] = decode_rates(decode)
        except (ValueError, OverflowError) as error:
            raise ConfigError(
                f"decode_rate: write BATCH:TOKENS_PER_SECOND, each batch once, such as 1:150,16:2000, unlike "
                f"{decode!r:.60}",
                param="decode_rate",
            ) from error
    options = {"prefill": prefill, "score": score, "call": call, "image": image, "render": render}
    values |= {name: value for name, value in options.items() if value is not None}
    for field in ("prefill", "steps"):
        flag = _FLAGS[field]
        if field not in values:
            raise ConfigError(
                f"{flag}: what does your engine reach? Give --{flag.replace('_', '-')}, or a file by --rates",
                param=flag,
            )
    try:
        rates = _RatesFile.model_validate(values)
    except ValidationError as error:
        message, field = first_problem(error, _RatesFile)
        flag = _FLAGS.get(field.partition(".")[0], field)
        raise ConfigError(f"{flag}: {message.removeprefix(f'{field}: ')}", param=flag) from error
    steps = tuple(sorted(rates.steps))
    for (small, fast), (large, slow) in pairwise(steps):
        if small == large:
            raise ConfigError(
                f"decode_rate: {small} sequences come twice; name each once", param="decode_rate"
            )
        if slow < fast:
            raise ConfigError(
                f"decode_rate: a step of {large} sequences takes {slow:.4g} s, less than one of {small} "
                f"({fast:.4g} s); measure again, or leave one out",
                param="decode_rate",
            )
    return Rates(rates.prefill, steps, rates.score or rates.prefill, rates.call, rates.image, rates.render)


def _read(file: Path) -> dict[str, Any]:
    """Return the fields of a file of rates."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"rates: {file} can't be read: {error}", param="rates") from error
    fields = content.get("rates", content) if isinstance(content, dict) else None
    if not isinstance(fields, dict):
        raise ConfigError(f"rates: {file} holds no object with prefill and steps", param="rates")
    try:
        _RatesFile.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"rates: {file}: {first_problem(error, _RatesFile)[0]}", param="rates") from error
    return fields
