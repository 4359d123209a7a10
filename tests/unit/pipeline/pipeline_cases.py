"""What the pipeline's tests share: one conversation, and a run to the end."""

from __future__ import annotations

from typing import Any

from PIL import Image

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.pipeline.events import Event, Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, Result

IMAGE = Image.new("RGB", (8, 8), (200, 30, 30))
CONVERSATION = Conversation(
    (
        {
            "role": "user",
            "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is it?"}],
        },
    )
)
CONTEXT = RequestContext("r1")
SETTINGS = ModelSettings(instruction="")


def described(text: str, logprob: float = -1.0, marginal: float = -2.0) -> FakeText:
    """A description that ends properly; nats per token."""
    return FakeText(f"{text}</description>", logprob, marginal)


def chain(answer: str, thought: str = "so") -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


async def events_of(
    engine: FakeEngine,
    settings: ModelSettings = SETTINGS,
    sampling: Sampling | None = None,
    conversation: Conversation = CONVERSATION,
    **options: Any,
) -> list[Event]:
    pipeline = Pipeline(engine, settings)
    sampling = sampling or Sampling(max_tokens=64, seed=1)
    return [event async for event in pipeline.run(conversation, MIRLOptions(**options), sampling, CONTEXT)]


async def result_of(engine: FakeEngine, **arguments: Any) -> Result:
    last = (await events_of(engine, **arguments))[-1]
    assert isinstance(last, Finished)
    return last.result


def finished(events: list[Event]) -> Result:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.result


THREE = [described("a cat", -1.0, -1.5), described("a red dog", -1.0, -4.0), described("fog", -0.1, -0.1)]
