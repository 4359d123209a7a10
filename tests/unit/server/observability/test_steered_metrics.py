"""The metrics of requests whose number of sequences is not known from the start: steered ones, and waves."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineError
from tests.unit.pipeline.steered.steered_cases import TinyModel
from tests.unit.server.harness import Build, Harness

STEERED: dict[str, Any] = {"contrast": [0, 0.5, 2], "descriptions": 4, "description_tokens": 60}


def ended(harness: Harness) -> float:
    """Return how many chains finished or were cancelled."""
    reasons = ("decided", "deadline", "disconnected", "failed")
    finished = sum(harness.metric("mirl_chains_finished_total", finish_reason=r) for r in ("stop", "length"))
    return finished + sum(harness.metric("mirl_chains_cancelled_total", reason=reason) for reason in reasons)


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("prior_votes", [[1, 1, 1], [9, 9, 9]])
async def test_a_steered_request_in_numbers(build: Build, ahead: int, prior_votes: list[int]) -> None:
    model = TinyModel(15)
    harness = build(model.engine)
    answer = (await harness.ask(mirl={**STEERED, "ahead": ahead, "prior_votes": prior_votes})).json()
    metric, mirl = harness.metric, answer["mirl"]
    sampled = sum(metric("mirl_tokens_total", stage=stage, kind="sampled") for stage in ("describe", "fork"))
    # Drafts and what was stopped are in both.
    assert sampled == answer["usage"]["completion_tokens"] == model.engine.sampled_tokens
    scored = metric("mirl_tokens_total", stage="score", kind="scored")
    assert scored == mirl["stages"][1]["scored_tokens"] > 0
    fates = [description["reason"] or "kept" for description in mirl["descriptions"]]
    for fate in ("kept", "stopped"):
        assert metric("mirl_descriptions_total", fate=fate) == fates.count(fate)
    assert metric("mirl_chains_started_total") == len(mirl["chains"]) == ended(harness)
    assert metric("mirl_sequences_in_flight") == 0
    assert metric("mirl_requests_total", outcome="answered") == 1


async def test_a_steered_request_that_falls_back(build: Build) -> None:
    model = TinyModel(15, samples=["never ends"], plain=["<answer>2</answer>"])
    harness = build(model.engine)
    answer = (await harness.ask(mirl={**STEERED, "description_tokens": 1})).json()
    assert answer["mirl"]["fallback"] == "no usable description"
    assert harness.metric("mirl_requests_total", outcome="fallback") == 1
    dropped = ("truncated", "empty")
    assert sum(harness.metric("mirl_descriptions_total", fate=fate) for fate in dropped) == 7
    assert harness.metric("mirl_chains_started_total") == ended(harness) == 1
    assert harness.metric("mirl_sequences_in_flight") == 0


async def test_a_steered_request_that_fails_leaves_nothing_in_flight(build: Build) -> None:
    harness = build(TinyModel(15, fail_at={"fork": EngineError("boom")}).engine)
    assert (await harness.ask(mirl=STEERED)).status_code == 500
    assert harness.metric("mirl_sequences_in_flight") == 0
    assert harness.metric("mirl_chains_started_total") == ended(harness) > 0


async def test_only_the_chains_of_started_waves_count(build: Build) -> None:
    descriptions = [FakeText(f"{name}</description>") for name in "abcd"]
    harness = build(FakeEngine(descriptions, ["<answer>7</answer>"]))
    await harness.ask(mirl={"descriptions": 4, "keep": 4, "forks": 2, "waves": True, "wave": 4})
    # Three agreeing votes of eight are certain enough, and the fourth may end beside the third.
    assert harness.metric("mirl_chains_started_total") == ended(harness) == 4
    assert harness.metric("mirl_sequences_in_flight") == 0
