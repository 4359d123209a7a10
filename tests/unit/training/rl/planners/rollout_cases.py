"""What the planners' tests share: questions, a scripted engine, and a judge whose rewards a test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners import Planner, make_planner
from mirl_core.training.rl.recipe.config import AnswerReward, RLRecipe
from mirl_core.training.rl.rewards import Judge, make_rewards
from mirl_core.training.rl.rewards.mi_scorers import ScoredMI
from mirl_core.types import Conversation
from tests.unit.pipeline.pipeline_cases import IMAGE, chain, described

SETTINGS = ModelSettings(instruction="Look first.")
DESCRIPTIONS = (
    described("a cat", logprob=-0.5, marginal=-2.5),
    described("a dog", logprob=-0.5, marginal=-1.5),
    described("a cow", logprob=-0.5, marginal=-1.0),
    FakeText("no end in sight", -0.5, -0.6),
)


def question(number: int = 0) -> Question:
    """Asks for a cat; only a description of a cat is right."""
    return Question(
        key=f"q{number}",
        text=f"What is it ({number})?",
        answer="cat",
        image=IMAGE.copy,
        describes=lambda text: "cat" in text,
    )


def animals(suffix: str, fork: int) -> str:
    """Chains say what the description says; fork 1 says nothing."""
    said = next(word for word in ("cat", "dog", "cow") if word in suffix)
    return chain(said, f"it is {fork}") if fork != 1 else "<think>hm</think>"


def engine(
    descriptions: Sequence[FakeText] = DESCRIPTIONS, chains: Any = animals, **options: Any
) -> FakeEngine:
    made = FakeEngine(descriptions, chains, **options)
    # It numbers words as it meets them, which is in another order where questions run together.
    for script in descriptions:
        made.encode(f"<description>{script.text}")
    for word in ("cat", "dog", "cow"):
        made.encode(animals(word, 0) + animals(word, 1))
    return made


def recipe(planner: str = "mirl", **changes: Any) -> RLRecipe:
    """Four descriptions, two kept, two chains each; `rollout__forks=3` is `rollout.forks`."""
    tree: dict[str, Any] = {
        "model": "bundled",
        "output": "unused",
        "planner": planner,
        "rollout": {"descriptions": 4, "keep": 2, "forks": 2, "trajectories": 4, "max_tokens": 64},
        "rewards": {},
    }
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (tree.setdefault(part, {}) if part else tree)[name] = value
    return RLRecipe.model_validate(tree)


class Scripted:
    """A scorer that gives the MI a test wants, by what the description says."""

    def __init__(self, decode: Callable[[Sequence[int]], str], mi: dict[str, float] | None = None) -> None:
        self.decode = decode
        self.mi = mi or {"cat": 2.0, "dog": 1.0, "cow": 0.0}
        self.requests: list[tuple[Conversation, str]] = []

    async def score(
        self,
        prompt: Conversation,
        opening: tuple[int, ...],
        contents: Sequence[tuple[int, ...]],
        logprobs: Sequence[tuple[float, ...]],
        context: RequestContext,
    ) -> list[ScoredMI]:
        texts = [self.decode(content) for content in contents]
        self.requests += [(prompt, text) for text in texts]
        assert [len(sequence) for sequence in logprobs] == [len(sequence) for sequence in contents]
        return [
            ScoredMI((self.mi[text.split()[-1]],) * len(content), len(content))
            for text, content in zip(texts, contents, strict=True)
        ]


def planner(
    source: FakeEngine,
    plan: RLRecipe,
    mi: dict[str, float] | None = None,
    rewards: Sequence[Any] | None = None,
) -> Planner:
    judge = Judge(make_rewards((AnswerReward(),)) if rewards is None else rewards)
    return make_planner(source, SETTINGS, plan, judge, Scripted(source.decode, mi))
