"""The plan of a bank: the samples that it holds of every question."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import EstimatorName, ModelSettings, Settings

__all__ = ["BankPlan", "temperature_key"]

_LATER = ("contrast", "contrast_estimator", "plausibility", "lookahead", "draft_tokens", "temperatures")
"""Fields that the plans of earlier versions lack."""


def _sorted(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(set(values)))


class BankPlan(Settings):
    """The samples that a bank holds of a question. Two runs with equal plans on one model fill one bank."""

    descriptions: Annotated[int, Field(ge=1)] = 16
    """Descriptions sampled per question."""
    forks: Annotated[int, Field(ge=1)] = 3
    """Chains per usable description."""
    estimators: tuple[EstimatorName, ...] = ("text", "blank")
    """Estimators of the image-free term; every usable description is scored under each."""
    references: Annotated[int, Field(ge=0)] = 0
    """Number of pictures of the `reference` estimator; 0: it is left out."""
    seed: int = 0
    """Seed of the run; every question's branches are derived from it and the question's key."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Temperature of descriptions and chains; None: the model's setting."""
    description_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest description, in tokens; None: the model's setting."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest trajectory, description and chain together, in tokens."""
    fork_image: Literal["keep", "drop"] = "keep"
    """Whether chains see the picture."""
    alternatives: Annotated[int, Field(ge=0)] = 20
    """Number of the likeliest tokens in DeepConf's confidence; 0: it is left out."""
    contrast: Annotated[
        tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(max_length=8)
    ] = ()
    """λ of each description that is decoded, as `mirl_core.config.MIRLOptions.contrast`; in ascending order.
    Empty: none is decoded, and the next four fields are None."""
    contrast_estimator: EstimatorName | None = None
    """Estimator of the decodes' image-free term; None: the model's setting."""
    plausibility: Annotated[float, Field(gt=0, le=1)] | None = None
    """As `mirl_core.config.MIRLOptions.plausibility`; None: the model's setting."""
    lookahead: Annotated[int, Field(ge=1)] | None = None
    """As `mirl_core.config.MIRLOptions.lookahead`; None: the model's setting."""
    draft_tokens: Annotated[int, Field(ge=1)] | None = None
    """As `mirl_core.config.MIRLOptions.draft_tokens`; None: the model's setting."""
    temperatures: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    """Further temperatures, in ascending order; at each of them `descriptions` trajectories are sampled, with
    one chain each."""

    _in_order = field_validator("contrast", "temperatures")(_sorted)

    def resolved(self, settings: ModelSettings) -> BankPlan:
        """Return the plan with the model's settings in place of None."""
        options = settings.options
        changes: dict[str, Any] = {
            "temperature": self.temperature if self.temperature is not None else settings.temperature,
            "description_tokens": self.description_tokens or options.description_tokens,
            "estimators": tuple(name for name in self.estimators if ESTIMATORS[name].passes(self.references)),
            "contrast_estimator": None,
            "plausibility": None,
            "lookahead": None,
            "draft_tokens": None,
        }
        if self.contrast:
            changes |= {
                "contrast_estimator": self.contrast_estimator or options.estimator,
                "plausibility": self.plausibility or options.plausibility,
                "lookahead": self.lookahead or options.lookahead,
                "draft_tokens": self.draft_tokens or options.draft_tokens,
            }
        return self.model_copy(update=changes)

    def to_header(self) -> dict[str, Any]:
        """Return a plain dict for a bank's header.

        Fields that earlier versions' plans lack are left out if nothing is sampled for them: those versions'
        banks stay valid.
        """
        fields = self.model_dump(mode="json")
        return {name: value for name, value in fields.items() if name not in _LATER or value}


def temperature_key(temperature: float) -> str:
    """Return the key of a temperature's samples in a bank."""
    return f"{temperature:g}"
