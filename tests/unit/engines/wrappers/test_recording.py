"""What the recording engine keeps of a run, and that it changes nothing in it."""

from __future__ import annotations

import pytest

from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine
from mirl_core.engines.wrappers.recording import RecordingEngine
from mirl_core.types import Conversation
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION, IMAGE, chain, described, events_of

DESCRIPTIONS = [described("a cat", logprob=-0.5), described("a dog", logprob=-0.25)]


def scripted() -> FakeEngine:
    return FakeEngine(DESCRIPTIONS, lambda suffix, fork: chain(f"{'cat' in suffix}", f"fork {fork}"))


async def test_every_sample_of_a_run_is_retrieved_by_its_stage_and_index() -> None:
    recording = RecordingEngine(scripted())
    await events_of(recording, gate="none", forks=2)  # type: ignore[arg-type]
    for index, text in enumerate(("a cat</description>", "a dog</description>")):
        sample = recording.sample(CONTEXT, "describe", index)
        assert recording.decode(sample.token_ids) == text
        assert sample.logprobs == (-0.5 if index == 0 else -0.25,) * len(sample.token_ids)
        for fork in range(2):
            text = chain(f"{index == 0}", f"fork {fork}")
            assert recording.decode(recording.sample(CONTEXT, f"fork-{index}", fork).token_ids) == text
    with pytest.raises(KeyError):
        recording.sample(CONTEXT, "fork-0", 2)


async def test_events_are_those_of_the_engine_itself() -> None:
    plain, recorded = [await events_of(engine) for engine in (scripted(), RecordingEngine(scripted()))]  # type: ignore[arg-type]
    assert [type(event) for event in plain] == [type(event) for event in recorded]
    assert plain[-1].result.chains == recorded[-1].result.chains  # type: ignore[union-attr]


async def test_a_conversation_is_rendered_once_and_another_picture_is_another_conversation() -> None:
    engine = FakeEngine()
    recording = RecordingEngine(engine)
    again = Conversation(({"role": "user", "content": list(CONVERSATION.messages[0]["content"])},))
    assert await recording.render(CONVERSATION, CONTEXT) is await recording.render(
        again, RequestContext("r2")
    )
    await recording.render(CONVERSATION.with_images([IMAGE.copy()]), CONTEXT)
    await recording.render(CONVERSATION.with_images(None), CONTEXT)
    assert len(engine.rendered) == 3


async def test_closing_the_recording_closes_the_source() -> None:
    engine = FakeEngine(delay=0.001)
    recording = RecordingEngine(engine)
    rendered = await recording.render(CONVERSATION, CONTEXT)
    stream = recording.generate(rendered, engine.encode("<description>"), 2, Sampling(9), CONTEXT)
    await anext(stream)
    await stream.aclose()
    assert engine.running == 0
