"""The real pipeline on one question, as a user runs it: it confirms replays and measures seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, RequestContext, Sampling
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.content import content_digest
from mirl_core.tasks.questions import Question, is_right, question_seed

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LiveRun", "run_live"]


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One question answered by the pipeline."""

    key: str
    data: str
    answer: str | None
    right: bool
    generated_tokens: int
    """Every sampled token once, aborted ones included."""
    scored_tokens: int
    trajectories: int
    """Chains that ran to their end."""
    confidence: float | None
    """The pipeline's confidence, 0 to 1; None where nothing voted."""
    seconds: float
    """Wall time from the decoded picture to the answer; it depends on the number of questions in flight."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by stage."""
    content: str = ""
    """`mirl_core.tasks.content.content_digest` of the question; empty: a record of an earlier version."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON."""
        return asdict(self) | {"stage_seconds": dict(self.stage_seconds)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LiveRun:
        """Return the inverse of `to_json`.

        Raises:
            TypeError: the data are no such record.
        """
        return cls(**fields)


async def run_live(
    engine: Engine,
    settings: ModelSettings,
    question: Question,
    options: MIRLOptions,
    seed: int,
    references: Sequence[Image] = (),
    *,
    data: str = "",
    max_tokens: int = 512,
    temperature: float | None = None,
) -> LiveRun:
    """Answer one question by `mirl_core.pipeline.run.Pipeline` under `options`.

    Args:
        seed: of the run; the question's seed is derived from it as for the bank. With the bank's seed the
            descriptions and chains are among the bank's, as far as the engine is deterministic.
        max_tokens: longest trajectory; tokens.
        temperature: of descriptions and chains; None: the model's setting.

    Raises:
        RequestError, DeadlineError, EngineError: as `mirl_core.pipeline.run.Pipeline`.
    """
    conversation = await asyncio.to_thread(question.conversation)
    content = await asyncio.to_thread(content_digest, question)
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=settings.temperature if temperature is None else temperature,
        seed=question_seed(seed, question.key),
    )
    pipeline = Pipeline(engine, settings, references)
    started = time.perf_counter()
    async with aclosing(
        pipeline.run(conversation, options, sampling, RequestContext(f"live-{data}-{question.key}"))
    ) as events:
        async for event in events:
            last = event
    seconds = time.perf_counter() - started
    assert isinstance(last, Finished), "the pipeline always finishes"
    result = last.result
    return LiveRun(
        key=question.key,
        data=data,
        answer=result.representative.answer,
        right=is_right(question, result.representative.answer),
        generated_tokens=result.completion_tokens,
        scored_tokens=result.scored_tokens,
        trajectories=sum(chain.finished for chain in result.chains),
        confidence=result.confidence,
        seconds=seconds,
        stage_seconds={stage.stage: stage.seconds for stage in result.stages},
        content=content,
    )
