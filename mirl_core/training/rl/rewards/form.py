"""Whether all tags of a chain are in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mirl_core.config import Tags
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.recipe.config import AnswerReward
from mirl_core.types import Chain


@dataclass(frozen=True, slots=True)
class FormatReward:
    """1 where a finished chain is exactly `<think>…</think><answer>…</answer>` in the model's own tags.

    Both parts are non-empty, each tag occurs once, and only white space surrounds and separates them.
    """

    name: str
    weight: float
    tags: Tags

    @classmethod
    def make(cls, name: str, config: AnswerReward, tags: Tags, key: str) -> Self:
        return cls(name, config.weight, tags)

    def score(self, question: Question, chain: Chain) -> float:
        (think, end_think), (answer, end_answer) = self.tags.reasoning, self.tags.answer
        # After a missing tag nothing is left, so the last tag is found only if all are.
        before, _, rest = chain.text.partition(think)
        reasoning, _, rest = rest.partition(end_think)
        between, _, rest = rest.partition(answer)
        answer_text, complete, after = rest.partition(end_answer)
        in_place = (
            chain.finish_reason == "stop"
            and complete
            and not (before + between + after).strip()
            and reasoning.strip()
            and answer_text.strip()
        )
        all_tags = (*self.tags.description, *self.tags.reasoning, *self.tags.answer)
        return float(
            bool(in_place) and not any(tag in part for tag in all_tags for part in (reasoning, answer_text))
        )
