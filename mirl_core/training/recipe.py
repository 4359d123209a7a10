"""Reading of recipe files, and the recipes of supervised stages: pydantic trees that reject unknown keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mirl_core.config import first_problem
from mirl_core.errors import ConfigError
from mirl_core.tasks.worlds.digits import TRAINING_AMBIGUOUS_SHARE
from mirl_core.tasks.worlds.digits_language import TRAINING_SLIP_SHARE

T = TypeVar("T", bound=BaseModel)

DigitsStage = Literal["lm", "vision", "joint"]


def _as_folders(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Path) else value


Folders = Annotated[tuple[Path, ...], BeforeValidator(_as_folders)]
"""Folders of a recipe: a list, a single path, or nothing."""


class Problem(NamedTuple):
    """A contradiction in a recipe."""

    key: str
    """Dotted key of the setting to change."""
    text: str
    """What is wrong, and the remedy."""

    def error(self) -> ConfigError:
        """Return it as an error."""
        return ConfigError(f"{self.key}: {self.text}", param=self.key)


class StageRecipe(BaseModel):
    """The settings that stages of all worlds have."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = 0
    """Seed of weights and data; a step's data depend on the recipe and the step only."""
    steps: int = Field(gt=0)
    """Optimiser steps of the whole schedule."""
    output: Path
    """Folder of checkpoint, log and final weights; keep it outside the work tree."""
    init: Folders = ()
    """Folders of finished stages whose weights are the start."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate; linear warm-up, then a cosine down to a fiftieth."""
    warmup: int = Field(default=200, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of matrices (AdamW)."""
    ema: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the averaged weights; the averaged weights are evaluated and exported."""
    text_rows: int = Field(default=0, ge=0)
    """Image-free rows per step."""
    corrupted_text: float = Field(default=0.5, ge=0, le=1)
    """Probability that an image-free row has a corrupted description."""
    word_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss that pulls image tokens towards the words for what they show."""
    describe_only: bool = False
    """End picture rows after the description, which teaches perception at a lower cost."""
    dev_every: int = Field(default=500, gt=0)
    """Steps between measurements on dev data."""
    save_seconds: float = Field(default=60.0, gt=0)
    """Seconds between checkpoints."""

    @property
    def name(self) -> str:
        """Return the stage's name in the progress bar: its output folder's."""
        return self.output.name

    def contradictions(self) -> Iterator[Problem]:
        """Yield valid settings that together train nothing, or something else than intended.

        They need the recipe alone: no file and no model.
        """
        if self.warmup > self.steps and not self._is_usual("warmup"):
            yield Problem(
                "warmup", f"{self.warmup} of {self.steps} steps never reach the learning rate; lower it"
            )
        if self.output.resolve() in {folder.resolve() for folder in self.init}:
            yield Problem("init", f"{self.output} is the stage's own output folder; name another stage's")

    def _is_usual(self, name: str) -> bool:
        """Return whether a setting has its default value."""
        return bool(getattr(self, name) == type(self).model_fields[name].default)


class Recipe(StageRecipe):
    """One stage of supervised training on digits and easy-VQA, resumable from its own folder."""

    world: Literal["digits"] = "digits"
    """The world that the stage trains on."""
    stage: DigitsStage
    """The part that is trained: `lm` (language model on text), `vision` (tower with auxiliary heads), `joint`
    (everything)."""
    init: Folders = ()
    """Folders of finished stages whose weights are the start: the tower from a `vision`, the rest from an
    `lm` stage."""
    connector_steps: int = Field(default=0, ge=0)
    """`joint` only: number of first steps in which the connector alone is trained."""
    digits_images: int = Field(default=0, ge=0)
    """Digits pictures per step (`vision`, `joint`)."""
    easy_images: int = Field(default=0, ge=0)
    """easy-VQA pictures per step (`vision`, `joint`)."""
    rows_per_image: int = Field(default=2, ge=1)
    """`joint` only: question rows that share one picture; the first has a true description, the last a
    corrupted one."""
    text_rows: int = Field(default=0, ge=0)
    """Image-free rows per step (`lm`, `joint`), a fifth of them easy-VQA."""
    corrupted: float = Field(default=0.5, ge=0, le=1)
    """`joint` only: probability that a picture's last row has a corrupted description."""
    ambiguous: float = Field(default=TRAINING_AMBIGUOUS_SHARE, ge=0, le=1)
    """Share of ambiguous scenes among training scenes."""
    smallest: float = Field(default=18.0, gt=0, le=27)
    """Smallest size of a glyph in training scenes, in pixels; a size below the world's own 18 is
    augmentation."""
    slips: float = Field(default=TRAINING_SLIP_SHARE, ge=0, le=1)
    """Share of chains of the slip family that have one wrong running total."""
    description_weight: float = Field(default=1.0, ge=0)
    """Weight of description tokens relative to reasoning tokens in the loss."""
    auxiliary: float = Field(default=0.0, ge=0)
    """`joint` only: weight of the auxiliary vision heads' loss."""
    word_weight: float = Field(default=0.0, ge=0)
    """`joint` only: weight of the loss that pulls image tokens towards the words for what they show."""
    describe_only: bool = False
    """`joint` only: end picture rows after the description, which teaches perception at a lower cost."""

    @property
    def name(self) -> str:
        """Return the stage's name in the progress bar."""
        return self.stage

    def contradictions(self) -> Iterator[Problem]:
        """Yield the stage's contradictions; see `StageRecipe.contradictions`."""
        yield from super().contradictions()
        if self.stage == "lm":
            if not self.text_rows:
                yield Problem("text_rows", "the stage lm trains on image-free rows alone; set at least 1")
            yield from self._unused(("digits_images", "easy_images"), "the stage lm has no pictures")
        elif not self.digits_images:
            # Losses of no scene have no mean: training would go on with NaN.
            yield Problem(
                "digits_images", f"the stage {self.stage} trains on digits scenes; set at least 1 a step"
            )
        if self.stage == "vision":
            yield from self._unused(("text_rows",), "the stage vision has no text")
        if self.stage != "joint":
            yield from self._unused(
                (
                    "connector_steps",
                    "rows_per_image",
                    "corrupted",
                    "auxiliary",
                    "word_weight",
                    "describe_only",
                ),
                "it is for the stage joint only",
            )
            return
        if self.connector_steps >= self.steps:
            yield Problem(
                "connector_steps",
                f"{self.connector_steps} of {self.steps} steps train the connector alone, so nothing else is "
                "trained; lower it",
            )
        if self.describe_only:
            yield from self._descriptions()

    def _descriptions(self) -> Iterator[Problem]:
        """Yield contradictions of rows that end after the description."""
        if not self.description_weight and not self.text_rows:
            yield Problem(
                "description_weight", "with describe_only all that is learned has weight 0; raise it"
            )
        if self.corrupted and self.rows_per_image == 1 and not self.text_rows:
            yield Problem(
                "corrupted",
                "with describe_only a corrupted description leaves nothing to learn, and with rows_per_image "
                "1 a picture may have no other row; set corrupted: 0 or rows_per_image: 2",
            )

    def _unused(self, names: Sequence[str], reason: str) -> Iterator[Problem]:
        for name in names:
            if not self._is_usual(name):
                yield Problem(name, f"{reason}; leave it out")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read recipe {path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {path} must be a mapping of settings")
    return raw


def validated(raw: dict[str, Any], model: type[T], path: Path) -> T:
    """Return the settings in `raw`, the content of the file `path`.

    Raises:
        ConfigError: a key is unknown, missing or out of range; `param` is the dotted key.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        message, where = first_problem(error, model)
        raise ConfigError(f"recipe {path}: {message}", param=where) from error
