"""DevEvaluation at dev data during training: one sampled trajectory a question, by the pipeline itself.

    looks.jsonl            one line a look: step, cost until then, accuracy by data set, rightness by question
    looks-questions.json   which questions, and what of them is resampled together

Every look asks the same questions with the same seeds, so that two looks, and two runs, differ by their
weights alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sampling
from mirl_core.engines.common.score_batches import together
from mirl_core.evaluation.bank.sample import question_seed
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import DataSet, Question, is_right
from mirl_core.tasks.resampling import Resampling
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.report.monitor import Lines, cut_back, read_lines

__all__ = ["DEV_QUESTIONS", "DEV_RESULTS", "DevEvaluation", "DevResult"]

DEV_RESULTS = "looks.jsonl"
DEV_QUESTIONS = "looks-questions.json"
_CONCURRENCY = 64
"""Questions in flight: one branch each."""


@dataclass(frozen=True, slots=True)
class DevResult:
    """One question at one look."""

    right: bool
    described: bool | None
    """Whether the description was right; None where the data set can't tell."""
    tokens: int


class DevEvaluation:
    """The looks of one run. `open` before the first.

    Raises:
        ConfigError: there is no such data set, or it has no such part.
    """

    def __init__(self, recipe: RLRecipe, settings: ModelSettings, process_group: ProcessGroup) -> None:
        self._recipe = recipe
        self._process_group = process_group
        wanted = recipe.evaluation
        self._data = tuple(
            open_data(
                name,
                wanted.part,
                wanted.n,
                wanted.seed,
                recipe.data.mapping if name.startswith("hf:") else None,
            )
            for name in wanted.sets
        )
        self._settings = settings
        self._lines: Lines | None = None
        self._done: frozenset[int] = frozenset()

    def open(self, step: int) -> None:
        """Take up the files of the run, which stands at `step`: later looks are cut off."""
        if not self._data or not self._process_group.first:
            return
        folder = self._recipe.output
        cut_back(folder / DEV_RESULTS, step)
        self._done = frozenset(line["step"] for line in read_lines(folder / DEV_RESULTS))
        self._lines = Lines(folder / DEV_RESULTS)
        questions = {
            data.name: {
                "part": data.part,
                "keys": [question.key for question in data.questions],
                "clusters": [question.clusters or (question.key,) for question in data.questions],
            }
            for data in self._data
        }
        (folder / DEV_QUESTIONS).write_text(json.dumps(questions) + "\n", encoding="utf-8")

    def due(self, step: int) -> bool:
        """Whether step `step` is looked at and has not been; all ranks must ask."""
        if not self._data:
            return False
        wanted = step % self._recipe.evaluation.every == 0 or step == self._recipe.steps
        return wanted and self._process_group.any(self._process_group.first and step not in self._done)

    async def evaluate(self, engine: Engine, step: int, totals: Mapping[str, float]) -> dict[str, float]:
        """Ask every question once, append a line, and return its main figures.

        Args:
            totals: what training has cost until now.

        Raises:
            RequestError, EngineError: the engine refused a question, or failed.
        """
        started = time.perf_counter()
        sets: dict[str, dict[str, Any]] = {}
        for data in self._data:
            mine = await self._ask(engine, data, step)
            parts = await asyncio.to_thread(self._process_group.gather, mine)
            seen = {key: one for part in parts for key, one in part.items()}
            sets[data.name] = _figures(data, [seen[question.key] for question in data.questions])
        self._done |= {step}
        if self._lines is not None:
            seconds = time.perf_counter() - started
            self._lines.log(step, {"totals": totals, "seconds": seconds, "sets": sets})
        return {
            f"look/{name}/{figure}": found[figure]
            for name, found in sets.items()
            for figure in ("accuracy", "described")
            if found.get(figure) is not None
        }

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    async def _ask(self, engine: Engine, data: DataSet, step: int) -> dict[str, DevResult]:
        """This rank's share of the questions, by their keys."""
        free = asyncio.Semaphore(1 if self._recipe.rollout.serial else _CONCURRENCY)

        async def one(question: Question) -> tuple[str, DevResult]:
            async with free:
                return question.key, await self._play(engine, question, f"look-{step}-{data.name}")

        return dict(await together(one(question) for question in self._process_group.share(data.questions)))

    async def _play(self, engine: Engine, question: Question, name: str) -> DevResult:
        rollout = self._recipe.rollout
        options = MIRLOptions(
            descriptions=1,
            keep=1,
            forks=1,
            gate="none",
            aggregate="best",
            early_stop=False,
            fork_image=rollout.fork_image,
            description_tokens=rollout.description_tokens,
        )
        sampling = Sampling(
            max_tokens=rollout.max_tokens,
            temperature=rollout.temperature,
            seed=question_seed(self._recipe.evaluation.seed, question.key),
        )
        conversation = await asyncio.to_thread(question.conversation)
        context = RequestContext(f"{name}-{question.key}")
        events = Pipeline(engine, self._settings).run(conversation, options, sampling, context)
        async with aclosing(events):
            async for event in events:
                last = event
        assert isinstance(last, Finished), "the pipeline always finishes"
        result = last.result
        (description,) = result.descriptions
        described = None
        if question.describes is not None:
            described = description.kept and question.describes(description.text)
        answer = result.representative.answer
        right = await asyncio.to_thread(is_right, question, answer)
        return DevResult(right, described, result.completion_tokens)


def _figures(data: DataSet, seen: Sequence[DevResult]) -> dict[str, Any]:
    """One data set's part of a look's line; 95% intervals over scenes and glyphs."""
    resampling = Resampling([question.clusters for question in data.questions])
    accuracy = resampling.proportion([float(one.right) for one in seen])
    found: dict[str, Any] = {
        "n": len(seen),
        "accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
        "tokens": sum(one.tokens for one in seen) / max(len(seen), 1),
        "right": _bits(one.right for one in seen),
    }
    if all(one.described is not None for one in seen):
        described = resampling.proportion([float(bool(one.described)) for one in seen])
        found |= {
            "described": described.mean,
            "described_low": described.low,
            "described_high": described.high,
            "described_right": _bits(bool(one.described) for one in seen),
        }
    return found


def _bits(flags: Iterable[bool]) -> str:
    """`0110…`, in the order of the questions."""
    return "".join("1" if flag else "0" for flag in flags)
