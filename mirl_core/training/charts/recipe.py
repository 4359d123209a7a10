"""The recipe of one stage of the charts model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mirl_core.training.recipe import Folders, StageRecipe


class ChartsRecipe(StageRecipe):
    """One stage of supervised training on the charts world, resumable from its own folder."""

    world: Literal["charts"] = "charts"
    """The world that the stage trains on."""
    init: Annotated[Folders, Field(max_length=1)] = ()
    """Folder of the finished stage whose weights are the start."""
    warmup: int = Field(default=60, ge=0)
    """Steps of linear warm-up."""
    text_rate: float = Field(default=1.0, ge=0)
    """Factor on the language model's learning rate; 0 freezes it."""
    vision_rate: float = Field(default=1.0, ge=0)
    """Factor on the learning rate of tower and connector; 0 freezes them."""
    ema: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the averaged weights; the averaged weights are evaluated and exported."""
    images: int = Field(default=0, ge=0)
    """Pictures per step."""
    rows_per_image: int = Field(default=0, ge=0)
    """Question rows that share one picture; 0 trains tower and connector alone, by `word_weight`."""
    corrupted: float = Field(default=0.0, ge=0, le=1)
    """Probability that a picture's last row has a corrupted description."""
    exercises: float = Field(default=0.0, ge=0, le=1)
    """Share of image-free rows that are exercises in arithmetic, without a chart."""
    tables: float = Field(default=0.5, ge=0, le=1)
    """Probability that an image-free row has a written table in the picture's position."""
    rough: float = Field(default=0.4, ge=0, le=1)
    """Probability that an entry of a written table is near the truth, or missing."""
    ambiguous: float = Field(default=0.15, ge=0, le=1)
    """Share of ambiguous scenes among training scenes."""
    pool: int = Field(default=12_000, gt=0)
    """Training scenes of each kind."""
    word_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss that pulls image tokens towards the words of the table that they replace."""
    dev_every: int = Field(default=300, gt=0)
    """Steps between measurements on dev data."""
