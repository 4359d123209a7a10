"""Live runs by method names: the samples of each, and when sampling stops."""

from __future__ import annotations

import pytest
from PIL import Image

from mirl_core.config import ModelSettings
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from tests.benchmarks.latency.measure import Interleaved, marked
from tests.benchmarks.latency.meter import Meter
from tests.benchmarks.latency.methods import live_methods
from tests.benchmarks.latency.run import METHODS

QUESTION = Question("q", "How many?", "2", lambda: Image.new("RGB", (3, 2), "red"))
SETTINGS = ModelSettings(instruction="")


def trajectory(answer: str) -> str:
    return f"red</description><think>so</think><answer>{answer}</answer>"


async def generated(name: str, answers: list[str], window: int = 1) -> tuple[str | None, list[int]]:
    """Return a method's answer and the numbers of samples of its engine calls."""
    engine = FakeEngine([trajectory(answer) for answer in answers])
    (method,) = live_methods(name, SETTINGS, window=window)
    run = await method.run(engine, SETTINGS, QUESTION, 0, "1")
    return run.answer, [call.n for call in engine.calls if call.n]


@pytest.mark.parametrize(
    ("name", "answers", "window", "calls"),
    [
        ("sc@4", ["2", "3", "2", "2"], 1, [4]),
        ("direct", ["2"], 1, [1]),
        # Four votes without a rival are as certain as the paper demands.
        ("adaptive@16", ["2"] * 16, 1, [1, 1, 1, 1]),
        ("adaptive@16", ["2"] * 16, 3, [3, 3]),
        ("adaptive@5", ["2", "3"] * 8, 2, [2, 2, 1]),
        ("esc@12", ["2"] * 16, 1, [4]),
        ("esc@12(window=2)", ["2", "3", "2", "2"], 1, [2, 2]),
    ],
)
async def test_the_samples_of_each_method(
    name: str, answers: list[str], window: int, calls: list[int]
) -> None:
    assert await generated(name, answers, window) == ("2", calls)


async def test_a_trajectory_whose_description_does_not_end_has_no_vote() -> None:
    engine = FakeEngine(["red <answer>3</answer>", trajectory("2")])
    (method,) = live_methods("sc@2", SETTINGS)
    run = await method.run(engine, SETTINGS, QUESTION, 0, "1")
    assert (run.answer, run.confidence, run.trajectories) == ("2", 1.0, 2)


async def test_votes_that_are_decided_stop_the_rest() -> None:
    engine = FakeEngine([trajectory("2")], delay=0.0)
    (method,) = live_methods("sc@16+stop", SETTINGS)
    run = await method.run(engine, SETTINGS, QUESTION, 0, "1")
    assert engine.aborted
    assert set(engine.aborted) == {"live-1-q-sample-0"}
    assert run.answer == "2"


async def test_every_method_of_the_benchmark_runs() -> None:
    engine = FakeEngine(["red</description>"], likeliest=lambda conversation, ids: {})
    for method in live_methods(METHODS, SETTINGS):
        if method.name.startswith(("sc", "adaptive")):
            continue
        run = await method.run(Meter(engine), SETTINGS, QUESTION, 0, method.name)
        assert run.answer == "1", method.name


def test_methods_without_a_live_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="oracle has no live run"):
        live_methods("oracle", SETTINGS)


async def test_methods_are_interleaved_and_every_run_has_its_own_picture() -> None:
    engine = FakeEngine([trajectory("2")])
    methods = live_methods("sc@1,sc@2,sc@3", SETTINGS)
    interleaved = Interleaved(engine, SETTINGS, methods, seed=0, block_tokens=16)
    questions = [Question(f"q{i}", "How many?", "2", QUESTION.image) for i in range(9)]
    alone = await interleaved.run(questions, 1)
    orders = [tuple(run.method for run in alone.runs[start : start + 3]) for start in range(0, 27, 3)]
    assert all(sorted(order) == ["sc@1", "sc@2", "sc@3"] for order in orders)
    assert len(set(orders)) > 2
    assert [run.block for run in alone.runs] == [block for block in range(9) for _ in range(3)]
    two = await interleaved.run(questions, 2)
    # Blocks of four questions, and one of the last question.
    assert [run.block for run in two.runs] == [0] * 12 + [1] * 12 + [2] * 3
    pixels = [conversation.images[0].getpixel((0, 0)) for conversation in engine.rendered]
    assert len(set(pixels)) == len(pixels) == 54


def test_a_mark_changes_one_pixel() -> None:
    picture = marked(QUESTION, 0x010203).image()
    assert picture.getpixel((0, 0)) == (1, 2, 3)
    assert {picture.getpixel((x, y)) for x in range(3) for y in range(2) if (x, y) != (0, 0)} == {(255, 0, 0)}
