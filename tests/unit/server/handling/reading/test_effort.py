"""An effort is a budget relative to the model's own, within the operator's limits; explicit knobs win."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from openai.types import ReasoningEffort

from mirl_core.config import Limits, MIRLOptions, ModelSettings
from mirl_server.handling.reading import effort
from mirl_server.handling.reading.effort import FACTORS, Effort, options_for
from tests.unit.server.harness import Build, Harness, events, question

PAPER = MIRLOptions()


def numbers(options: MIRLOptions) -> tuple[int, int, int]:
    return options.descriptions, options.keep, options.forks


def test_all_that_openai_knows_is_in_the_table() -> None:
    literal = next(part for part in get_args(ReasoningEffort) if get_args(part))
    assert set(FACTORS) == set(get_args(Effort)) == set(get_args(literal))


def test_all_that_vllm_knows_is_in_the_table() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    annotation = ChatCompletionRequest.model_fields["reasoning_effort"].annotation
    literal = next(part for part in get_args(annotation) if get_args(part))
    assert set(FACTORS) == set(get_args(literal))


def test_the_documented_table_is_what_comes_out() -> None:
    wide = Limits(max_descriptions=64, max_keep=64)
    rows = [line.split("|") for line in (effort.__doc__ or "").splitlines() if line.startswith("| ")][2:]
    table = {row[1].strip(): tuple(int(number) for number in row[3].split(",")) for row in rows}
    assert table == {name: numbers(options_for(name, PAPER, wide)) for name in FACTORS}


def test_it_is_relative_to_the_models_own_options() -> None:
    own = MIRLOptions(descriptions=4, keep=1, forks=1, gate="confidence")
    assert numbers(options_for("high", own, Limits())) == (8, 2, 1)
    assert options_for("high", own, Limits()).gate == "confidence"
    assert options_for("medium", own, Limits()) == options_for(None, own, Limits()) == own


def test_it_stays_within_the_limits() -> None:
    limits = Limits(max_descriptions=12, max_keep=7, max_forks=3)
    assert numbers(options_for("max", PAPER, limits)) == (12, 7, 3)


@pytest.mark.parametrize(
    ("name", "decoded", "sampled"),
    [
        ("none", (0.25,), 0),
        ("minimal", (0.25,), 0),
        ("low", (0.0, 0.5, 1.0), 4),
        ("medium", (0.0, 0.5, 1.0), 8),
        ("high", (0.0, 0.5, 1.0), 16),
        ("max", (0.0, 0.5, 1.0), 29),
    ],
)
def test_where_descriptions_are_decoded_it_scales_the_samples(
    name: Effort, decoded: tuple[float, ...], sampled: int
) -> None:
    options = options_for(name, MIRLOptions(preset="steered", estimator="blank"), Limits())
    assert (options.contrast, options.descriptions, options.estimator) == (decoded, sampled, "blank")
    Limits().check(options)


def model() -> ModelSettings:
    return ModelSettings(instruction="", options=MIRLOptions(descriptions=4, keep=2, forks=2))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_effort": "none"}, (1, 1, 1)),
        ({"reasoning_effort": "low"}, (2, 1, 2)),
        ({"reasoning_effort": "medium"}, (4, 2, 2)),
        ({"reasoning_effort": None}, (4, 2, 2)),
        ({"reasoning_effort": "high"}, (8, 4, 2)),
        ({"reasoning_effort": "high", "mirl": {"keep": 1}}, (8, 1, 2)),
    ],
)
async def test_the_response_has_the_numbers_that_were_used(
    build: Build, fields: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    harness: Harness = build(model=model())
    body = {"messages": [question()], **fields}
    names = ("descriptions", "keep", "forks")
    evidence = (await harness.ask(body)).json()["mirl"]
    assert evidence["budget"] == dict(zip(names, expected, strict=True))
    (call,) = harness.engine.of_kind("describe")
    assert call.n == len(evidence["descriptions"]) == expected[0]
    forks = harness.engine.of_kind("fork")
    assert (len(forks), {fork.n for fork in forks}) == (expected[1], {expected[2]})
    stages = [chunk["mirl"] for chunk in events(await harness.ask(body, stream=True)) if "mirl" in chunk]
    assert stages[0]["budget"] == stages[-1]["budget"] == evidence["budget"]


async def test_unknown_efforts_are_named(server: Harness) -> None:
    response = await server.ask(reasoning_effort="heroic")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "reasoning_effort")


async def test_too_much_by_name_is_lowered_and_by_number_refused(build: Build) -> None:
    harness: Harness = build(model=model(), limits={"max_descriptions": 5})
    body = {"messages": [question()]}
    assert (await harness.ask(body, reasoning_effort="max")).json()["mirl"]["budget"]["descriptions"] == 5
    refused = await harness.ask(body, mirl={"descriptions": 6})
    assert refused.json()["error"]["param"] == "mirl.descriptions"
