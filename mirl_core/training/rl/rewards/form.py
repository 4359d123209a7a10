"""Are all tags in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mirl_core.config import Tags
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.recipe.config import AnswerReward
from mirl_core.types import Chain


@dataclass(frozen=True, slots=True)
class FormatReward:
    """1 where a finished chain is `<think>…</think><answer>…</answer>` in the model's own tags and no more.

    Both parts hold something, each tag stands once, and only white space stands around and between.
    """

    name: str
    weight: float
    tags: Tags

    @classmethod
    def make(cls, name: str, config: AnswerReward, tags: Tags, key: str) -> Self:
        return cls(name, config.weight, tags)

    def score(self, question: Question, chain: Chain) -> float:
        (think, end_think), (answer, end_answer) = self.tags.reasoning, self.tags.answer
        # After a tag that is missing nothing is left, so that the last one's presence tells of all.
        before, _, rest = chain.text.partition(think)
        reasoning, _, rest = rest.partition(end_think)
        between, _, rest = rest.partition(answer)
        said, complete, after = rest.partition(end_answer)
        in_place = (
            chain.finish_reason == "stop"
            and complete
            and not (before + between + after).strip()
            and reasoning.strip()
            and said.strip()
        )
        everything = (*self.tags.description, *self.tags.reasoning, *self.tags.answer)
        return float(
            bool(in_place) and not any(tag in part for tag in everything for part in (reasoning, said))
        )
