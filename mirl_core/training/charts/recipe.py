"""The recipe of one stage of the charts model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from mirl_core.training.recipe import Folders, Problem, StageRecipe


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

    def contradictions(self) -> Iterator[Problem]:
        """Yield the stage's contradictions; see `StageRecipe.contradictions`."""
        yield from super().contradictions()
        if not self.text_rate and not self.vision_rate:
            yield Problem("text_rate", "text_rate and vision_rate are 0, so nothing is trained; raise one")
        if not self.images and not self.text_rows:
            yield Problem("images", "there are neither pictures nor image-free rows; set images or text_rows")
        if self.text_rows and not self.text_rate:
            yield Problem(
                "text_rows",
                "image-free rows train the language model, which text_rate: 0 freezes; leave it out",
            )
        if self.exercises and not self.text_rows:
            yield Problem("exercises", "they are image-free rows, and text_rows is 0; raise it")
        yield from self._pictures()

    def _pictures(self) -> Iterator[Problem]:
        """Yield contradictions of pictures and what is learned from them."""
        if not self.images:
            for name in ("rows_per_image", "word_weight", "corrupted", "describe_only"):
                if not self._is_usual(name):
                    yield Problem(name, "it is for pictures, and images is 0; leave it out, or set images")
            return
        if not self.rows_per_image:
            if not self.word_weight:
                yield Problem(
                    "word_weight", "with rows_per_image 0 pictures teach nothing else; raise one of the two"
                )
            elif not self.vision_rate:
                yield Problem(
                    "rows_per_image",
                    "at 0 pictures train tower and connector alone, which vision_rate: 0 freezes; raise one",
                )
            for name in ("corrupted", "describe_only"):
                if not self._is_usual(name):
                    yield Problem(name, "it is for rows of pictures, and rows_per_image is 0; leave it out")
        elif self.describe_only and self.corrupted and self.rows_per_image == 1 and not self.text_rows:
            yield Problem(
                "corrupted",
                "with describe_only a corrupted description leaves nothing to learn, and with rows_per_image "
                "1 a picture may have no other row; set corrupted: 0 or rows_per_image: 2",
            )
