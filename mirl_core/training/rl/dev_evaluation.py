"""Evaluation on dev data during training: one sampled trajectory per question, by the pipeline itself.

    looks.jsonl            one line per evaluation: step, cost so far, accuracy by data set, right answers by
                           question
    looks-questions.json   the questions, the clusters by which they are resampled, and digests of their
                           contents

Every evaluation uses the same questions with the same seeds, so that two evaluations, and two runs, differ by
their weights alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sampling
from mirl_core.engines.common.concurrency import gather_or_cancel
from mirl_core.errors import ConfigError
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.content import content_digest
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import DataSet, Question, is_right, question_seed
from mirl_core.tasks.resampling import Resampling
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.report.monitor import Lines, cut_back, read_lines

__all__ = ["DEV_QUESTIONS", "DEV_RESULTS", "DevEvaluation", "DevResult", "differing_set"]

DEV_RESULTS = "looks.jsonl"
DEV_QUESTIONS = "looks-questions.json"
_CONCURRENCY = 64
"""Questions in flight, each with one branch."""


@dataclass(frozen=True, slots=True)
class DevResult:
    """The result of one question in one evaluation."""

    right: bool
    described: bool | None
    """Whether the description was right; None where the data set has no rule for it."""
    tokens: int


class DevEvaluation:
    """The dev evaluations of one run. Call `open` before the first.

    Raises:
        ConfigError: a data set or its part doesn't exist.
    """

    def __init__(self, recipe: RLRecipe, settings: ModelSettings, process_group: ProcessGroup) -> None:
        self._recipe = recipe
        self._process_group = process_group
        evaluation = recipe.evaluation
        self._data = tuple(
            open_data(
                name,
                evaluation.part,
                evaluation.n,
                evaluation.seed,
                recipe.data.mapping if name.startswith("hf:") else None,
            )
            for name in evaluation.sets
        )
        self._settings = settings
        self._lines: Lines | None = None
        self._done: frozenset[int] = frozenset()

    def open(self, step: int) -> None:
        """Open the files of the run, which continues at `step`; later lines are cut off.

        Raises:
            ConfigError: the run's earlier evaluations were of other questions, or files can't be read.
        """
        if not self._data or not self._process_group.first:
            return
        folder = self._recipe.output
        cut_back(folder / DEV_RESULTS, step)
        self._done = frozenset(line["step"] for line in read_lines(folder / DEV_RESULTS))
        questions = {
            data.name: {
                "part": data.part,
                "keys": [question.key for question in data.questions],
                "clusters": [list(question.clusters or (question.key,)) for question in data.questions],
                "contents": [_content(question) for question in data.questions],
            }
            for data in self._data
        }
        if self._done:
            _compare(folder / DEV_QUESTIONS, questions)
        self._lines = Lines(folder / DEV_RESULTS)
        (folder / DEV_QUESTIONS).write_text(json.dumps(questions) + "\n", encoding="utf-8")

    def due(self, step: int) -> bool:
        """Return whether an evaluation at step `step` is due and not yet done; all ranks must call it."""
        if not self._data:
            return False
        due = step % self._recipe.evaluation.every == 0 or step == self._recipe.steps
        return due and self._process_group.any(self._process_group.first and step not in self._done)

    async def evaluate(self, engine: Engine, step: int, totals: Mapping[str, float]) -> dict[str, float]:
        """Answer every question once, append a line, and return its main figures.

        Args:
            totals: cost of training so far.

        Raises:
            RequestError, EngineError: the engine refused a question, or failed.
        """
        started = time.perf_counter()
        sets: dict[str, dict[str, Any]] = {}
        for data in self._data:
            own_results = await self._ask(engine, data, step)
            all_results = await asyncio.to_thread(self._process_group.gather, own_results)
            by_key = {key: result for results in all_results for key, result in results.items()}
            sets[data.name] = _figures(data, [by_key[question.key] for question in data.questions])
        self._done |= {step}
        if self._lines is not None:
            seconds = time.perf_counter() - started
            self._lines.log(step, {"totals": totals, "seconds": seconds, "sets": sets})
        return {
            f"look/{name}/{figure}": figures[figure]
            for name, figures in sets.items()
            for figure in ("accuracy", "described")
            if figures.get(figure) is not None
        }

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    async def _ask(self, engine: Engine, data: DataSet, step: int) -> dict[str, DevResult]:
        """Answer this rank's share of the questions; return results by question key."""
        slots = asyncio.Semaphore(1 if self._recipe.rollout.serial else _CONCURRENCY)

        async def answer(question: Question) -> tuple[str, DevResult]:
            async with slots:
                return question.key, await self._answer(engine, question, f"look-{step}-{data.name}")

        return dict(
            await gather_or_cancel(answer(question) for question in self._process_group.share(data.questions))
        )

    async def _answer(self, engine: Engine, question: Question, name: str) -> DevResult:
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


def differing_set(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the first data set whose questions differ in two `looks-questions.json`; None: there is none.

    Contents are compared where both have them: those of earlier versions have none.
    """
    for name in [*ours, *theirs]:
        left, right = ours.get(name), theirs.get(name)
        if left is None or right is None:
            return name
        both = [key for key in ("part", "keys", "clusters", "contents") if key in left and key in right]
        if any(left[key] != right[key] for key in both):
            return name
    return None


def _content(question: Question) -> str:
    """Return a digest of all that an evaluation's result depends on but the model: the truth, too."""
    return hashlib.sha256(f"{content_digest(question)}:{question.answer}".encode()).hexdigest()


def _compare(path: Path, questions: Mapping[str, Any]) -> None:
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differing = differing_set(earlier, questions)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"evaluation.sets: {path} can't be read ({error}), so the questions of {DEV_RESULTS} are "
            "unknown; put it back, or delete both files",
            param="evaluation.sets",
        ) from error
    if differing is not None:
        raise ConfigError(
            f"evaluation.sets: the questions of {differing} are not those of the run's earlier evaluations "
            f"(key, text, picture or truth differ); put the data back, or choose another output",
            param="evaluation.sets",
        )


def _figures(data: DataSet, results: Sequence[DevResult]) -> dict[str, Any]:
    """Return one data set's part of a line; 95% intervals over scenes and glyphs."""
    resampling = Resampling([question.clusters for question in data.questions])
    accuracy = resampling.proportion([float(result.right) for result in results])
    figures: dict[str, Any] = {
        "n": len(results),
        "accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
        "tokens": sum(result.tokens for result in results) / max(len(results), 1),
        "right": _bits(result.right for result in results),
    }
    if all(result.described is not None for result in results):
        described = resampling.proportion([float(bool(result.described)) for result in results])
        figures |= {
            "described": described.mean,
            "described_low": described.low,
            "described_high": described.high,
            "described_right": _bits(bool(result.described) for result in results),
        }
    return figures


def _bits(flags: Iterable[bool]) -> str:
    """Return `0110…`, in the order of the questions."""
    return "".join("1" if flag else "0" for flag in flags)
