"""The sum of a chain's rewards. A reward that fails scores 0 and stops nothing."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mirl_core.tasks.questions import Question
from mirl_core.types import Chain

logger = logging.getLogger(__name__)


class Reward(Protocol):
    """A reward of a whole chain. `score` may raise anything."""

    @property
    def name(self) -> str:
        """Unique among a run's rewards; the key of its metrics."""
        ...

    @property
    def weight(self) -> float: ...

    def score(self, question: Question, chain: Chain) -> float: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """The rewards of a chain."""

    total: float
    """Σ weight · part; always finite."""
    parts: Mapping[str, float]
    """Each reward by its name, before weights; 0 where it failed."""
    failed: tuple[str, ...] = ()
    """Names of the rewards that raised or returned no finite number."""


class Judge:
    """The sum of a chain's rewards.

    A reward that raises or returns no finite number counts as 0 in that chain, like a wrong answer; the
    others still count. Each name is logged once until `start_step` is called again, without prompt, answer or
    message of the exception, which may quote either.
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self.rewards = tuple(rewards)
        self._logged: set[str] = set()

    def start_step(self) -> None:
        """Log failures anew from here on."""
        self._logged.clear()

    def judge(self, question: Question, chain: Chain) -> Judged:
        """Return the chain's rewards. Never raises."""
        parts: dict[str, float] = {}
        failed: list[str] = []
        for reward in self.rewards:
            parts[reward.name] = 0.0
            try:
                value = float(reward.score(question, chain))
            except Exception as error:  # noqa: BLE001  verifiers are anyone's code, and training must go on
                self._log_failure(reward.name, _where(error))
                failed.append(reward.name)
                continue
            if math.isfinite(reward.weight * value):
                parts[reward.name] = value
            else:
                self._log_failure(reward.name, "no finite number")
                failed.append(reward.name)
        total = math.fsum(reward.weight * parts[reward.name] for reward in self.rewards)
        return Judged(total, parts, tuple(failed))

    def _log_failure(self, name: str, problem: str) -> None:
        if name not in self._logged:
            self._logged.add(name)
            logger.warning("reward '%s' failed and counts as 0 (logged once a step): %s", name, problem)


def _where(error: Exception) -> str:
    """Return type and location of an exception, without its message."""
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = frames[-1]
    return f"{type(error).__name__} in {frame.f_code.co_qualname}, {frame.f_code.co_filename}:{line}"
