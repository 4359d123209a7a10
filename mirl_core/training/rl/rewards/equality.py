"""Whether the chain's answer is right: by the data set's rule, as a number, as mathematics."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from mirl_core.algorithm.answers import equivalent, normalize
from mirl_core.algorithm.answers.quantities import Quantity, split_key
from mirl_core.config import Tags
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question, is_right
from mirl_core.training.rl.recipe.config import AnswerReward
from mirl_core.types import Chain


@dataclass(frozen=True, slots=True)
class ExactReward:
    """1 where the answer is right as `mirl-eval` counts it: by the data set's own rule, options, or
    equality."""

    name: str
    weight: float

    @classmethod
    def make(cls, name: str, config: AnswerReward, tags: Tags, key: str) -> Self:
        return cls(name, config.weight)

    def score(self, question: Question, chain: Chain) -> float:
        return float(is_right(question, chain.answer))


@dataclass(frozen=True, slots=True)
class NumericReward:
    """1 where answer and truth are numbers of the same unit that differ by at most `tolerance` of the truth.

    Compared exactly, as fractions: with tolerance 0 it is the equality of `mirl_core.algorithm.answers`.
    """

    name: str
    weight: float
    tolerance: float = 0.0

    @classmethod
    def make(cls, name: str, config: AnswerReward, tags: Tags, key: str) -> Self:
        return cls(name, config.weight, config.tolerance)

    def score(self, question: Question, chain: Chain) -> float:
        answer, truth = _quantity(chain.answer), _quantity(question.answer)
        if answer is None or truth is None or answer.unit != truth.unit:
            return 0.0
        # From its decimals, not its bits: the float 0.3 is a little less than 3/10.
        allowed = Fraction(str(self.tolerance)) * abs(truth.value)
        return float(abs(answer.value - truth.value) <= allowed)


@dataclass(frozen=True, slots=True)
class MathReward:
    """1 where answer and truth are the same expression, number or text after normalisation.

    Unlike `exact` it uses neither the data set's own rule nor the options.
    """

    name: str
    weight: float

    @classmethod
    def make(cls, name: str, config: AnswerReward, tags: Tags, key: str) -> Self:
        # Without it expressions are compared as text, and training would continue with wrong rewards.
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError(
                f"{key}.kind: 'math' needs math-verify: pip install math-verify", param=f"{key}.kind"
            )
        return cls(name, config.weight)

    def score(self, question: Question, chain: Chain) -> float:
        if chain.answer is None:
            return 0.0
        return float(equivalent(normalize(chain.answer), normalize(question.answer)))


def _quantity(text: str | None) -> Quantity | None:
    """Return the value and unit of a number; None where the text isn't a number."""
    normalized = None if text is None else normalize(text)
    return None if normalized is None or normalized.kind != "number" else split_key(normalized.key)
