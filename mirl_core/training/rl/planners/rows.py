"""The result of a planner: token rows with advantages, and the trajectories that they come from.

Light to import: no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mirl_core.types import Conversation

Segment = Literal["description", "reasoning", "trajectory"]
"""The tokens that a row trains: a description, the reasoning after it, or (GRPO) both at once."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A completion of a prompt, with the tokens that its advantage applies to.

    `completion_ids`, `loss_mask` and `sampler_logprobs` are equally long. The prefilled opening tag is part
    of the completion and never in the loss.
    """

    prompt: Conversation
    """The rollout's prompt, instruction and image included. Rows of one prompt share the object."""
    completion_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    sampler_logprobs: tuple[float, ...]
    """Raw log p of each token as it was sampled; 0 where it was not sampled for this row; nats."""
    advantage: float
    segment: Segment
    group: str
    """Question key and segment: identifies the rows whose rewards were compared."""

    def __post_init__(self) -> None:
        if not len(self.completion_ids) == len(self.loss_mask) == len(self.sampler_logprobs):
            raise ValueError("completion_ids, loss_mask and sampler_logprobs differ in length")

    @property
    def trained_tokens(self) -> int:
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A description, or a whole trajectory, in readable form: for logs and the HTML page."""

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
    """The rollouts of one step, with their rewards."""

    rows: tuple[TrainingRow, ...]
    metrics: Mapping[str, float]
    """Means over the step (`reward/answer`, `mi/mean`, `tokens/describe`, …); sums where the name
    implies it."""
    trajectories: tuple[Trajectory, ...] = ()
    complete_trajectories: int = 0
    """Chains that were sampled to their end, with or without an answer."""
    generated_tokens: int = 0
    scored_tokens: int = 0
