"""Reading of recipe files, and the recipes of supervised stages: pydantic trees that reject unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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


class StageRecipe(BaseModel):
    """The settings that stages of all worlds have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
