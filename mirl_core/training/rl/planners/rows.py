"""What a planner hands to the trainer: token rows with advantages, and the trajectories they came from.

Light to import: no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mirl_core.types import Conversation

Segment = Literal["description", "reasoning", "trajectory"]
"""Which tokens a row trains: a description, the reasoning after it, or (GRPO) both at once."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One completion of a prompt, with the tokens that its advantage is for.

    `completion_ids`, `loss_mask` and `sampler_logprobs` are equally long. The opening tag that was prefilled
    is part of the completion and never in the loss.
    """

    prompt: Conversation
    """As the rollout saw it, instruction and image included. Rows of one prompt share the object."""
    completion_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    sampler_logprobs: tuple[float, ...]
    """Raw log p of each token as it was sampled; 0 where it was not sampled for this row; nats."""
    advantage: float
    segment: Segment
    group: str
    """Question key and segment: the rows whose rewards were compared."""

    def __post_init__(self) -> None:
        if not len(self.completion_ids) == len(self.loss_mask) == len(self.sampler_logprobs):
            raise ValueError("completion_ids, loss_mask and sampler_logprobs differ in length")

    @property
    def trained_tokens(self) -> int:
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One description, or one whole trajectory, as a person would look at it: for logs and the HTML page."""

    question: str
    """The question's key."""
    text: str
    segment: Segment
    reward: float
    advantage: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Each reward by its name, before weights."""
    answer: str | None = None
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One step's rollouts, judged."""

    rows: tuple[TrainingRow, ...]
    metrics: Mapping[str, float]
    """Means over the step (`reward/answer`, `mi/mean`, `tokens/describe`, …); sums where the name says so."""
    trajectories: tuple[Trajectory, ...] = ()
    complete_trajectories: int = 0
    """Chains that were sampled to their end, answered or not."""
    generated_tokens: int = 0
    scored_tokens: int = 0
