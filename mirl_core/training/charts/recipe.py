"""The recipe of one stage of the charts model."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mirl_core.training.recipe import read_yaml, validated


class ChartsRecipe(BaseModel):
    """One stage of supervised training, resumable from its own folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    """Seeds weights and data; a step's data depend on (seed, step) only."""
    steps: int = Field(gt=0)
    """Optimiser steps of the whole schedule."""
    output: Path
    """Folder of checkpoint, log and final weights; keep it outside the work tree."""
    init: Path | None = None
    """Folder of the finished stage whose weights are the start."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate; linear warm-up, then a cosine down to a fiftieth."""
    warmup: int = Field(default=60, ge=0)
    """Steps of linear warm-up."""
    text_rate: float = Field(default=1.0, ge=0)
    """Factor on the language model's learning rate; 0 freezes it."""
    vision_rate: float = Field(default=1.0, ge=0)
    """Factor on the learning rate of tower and connector; 0 freezes them."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's decay of matrices."""
    ema: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the averaged weights, which are what is evaluated and exported."""
    images: int = Field(default=0, ge=0)
    """Pictures a step."""
    rows_per_image: int = Field(default=0, ge=0)
    """Question rows that share one picture; 0 trains the tower alone, by `word_weight`."""
    text_rows: int = Field(default=0, ge=0)
    """Image-free rows a step."""
    corrupted: float = Field(default=0.0, ge=0, le=1)
    """Chance that a picture's last row has a corrupted description."""
    corrupted_text: float = Field(default=0.5, ge=0, le=1)
    """Chance that an image-free row has a corrupted description."""
    exercises: float = Field(default=0.0, ge=0, le=1)
    """Share of image-free rows that are sums by themselves."""
    tables: float = Field(default=0.5, ge=0, le=1)
    """Chance that an image-free row has a written table where a picture would be."""
    rough: float = Field(default=0.4, ge=0, le=1)
    """Chance that an entry of a written table is rough: near the truth, or left out."""
    ambiguous: float = Field(default=0.15, ge=0, le=1)
    """Share of ambiguous scenes among training scenes."""
    pool: int = Field(default=12_000, gt=0)
    """Training scenes of each kind."""
    describe_only: bool = False
    """Picture rows end after the description, which teaches looking at a lower cost."""
    word_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss that makes image tokens stand near the words of the table that they replace."""
    dev_every: int = Field(default=300, gt=0)
    """Steps between measurements on dev data."""
    save_seconds: float = Field(default=60.0, gt=0)
    """Seconds between checkpoints."""


def load_charts_recipe(path: Path) -> ChartsRecipe:
    """The stage in a YAML file.

    Raises:
        ConfigError: the file cannot be read or does not describe a stage.
    """
    return validated(read_yaml(path), ChartsRecipe, path)
