"""How many tokens each stage may sample, what it cost, and which result stands where answers are missing."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from mirl_core.algorithm.answers.forms import Form, FreeCalls, json_schema
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling, derive_seed
from mirl_core.engines.fake import FakeCall, FakeEngine, FakeText, Kind
from mirl_core.errors import ContextLengthError, RequestError
from mirl_core.pipeline.events import Decided, FellBack, Finished, Gated, Started
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Result
from tests.unit.pipeline.pipeline_cases import (
    CONVERSATION,
    IMAGE,
    SETTINGS,
    THREE,
    chain,
    described,
    events_of,
    finished,
    result_of,
)

UNUSABLE = FakeText("one two three four five six", finish_reason="length")
ROUND = FakeText("<think>round and round", finish_reason="length")
# Words of the conversation, as the fake engine counts its prompt.
PROMPT = len(FakeEngine().encode(str(CONVERSATION.messages[0]["content"])))


def only(engine: FakeEngine, kind: Kind) -> tuple[FakeCall, Sampling]:
    (call,) = engine.of_kind(kind)
    assert call.sampling is not None
    return call, call.sampling


@pytest.mark.parametrize(
    ("most", "options", "limit"),
    [
        (64, {"description_tokens": 9}, 9),
        (8, {"description_tokens": 9}, 8),
        (64, {"description_tokens": 99, "max_total_tokens": 59}, 9),
        (64, {"description_tokens": 5, "max_total_tokens": 59}, 5),
        (64, {"description_tokens": 99, "max_total_tokens": 6000}, 64),
    ],
)
async def test_descriptions_have_half_of_all_tokens(most: int, options: dict[str, Any], limit: int) -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, sampling=Sampling(max_tokens=most, seed=1), descriptions=3, forks=1, **options)
    call, sampling = only(engine, "describe")
    assert (call.n, sampling.max_tokens) == (3, limit)


async def test_chains_share_what_descriptions_left() -> None:
    # "a cat", "a red dog", "fog": 3, 4 and 2 tokens with their closing tags; 50 − 9 = 41 for 3 · 2 chains.
    engine = FakeEngine(THREE, [FakeText("<think>" + "word " * 50)])
    result = await result_of(engine, descriptions=3, keep=3, forks=2, max_total_tokens=50)
    assert [call.sampling.max_tokens for call in engine.of_kind("fork") if call.sampling] == [6, 6, 6]
    assert result.completion_tokens == 9 + 6 * 6
    engine = FakeEngine(THREE)
    await result_of(engine, descriptions=3, keep=3, forks=2, max_total_tokens=5000)
    assert [call.sampling.max_tokens for call in engine.of_kind("fork") if call.sampling] == [61, 60, 62]


@pytest.mark.parametrize(
    ("total", "limit"),
    [(None, 64), (40, 28), (24, 12), (200, 64)],
)
async def test_a_fallback_has_what_is_left_of_all_tokens(total: int | None, limit: int) -> None:
    # Two descriptions of 6 tokens.
    engine = FakeEngine([UNUSABLE], plain=[FakeText("word " * 100)])
    await result_of(engine, descriptions=2, keep=2, forks=1, max_total_tokens=total)
    call, sampling = only(engine, "plain")
    assert (call.n, call.suffixes, sampling.max_tokens) == (1, ((),), limit)
    assert sampling.stop == ("</answer>",)
    # Without an instruction the conversation is rendered already.
    assert len(engine.rendered) == 1


async def test_no_gate_needs_tokens_for_every_description() -> None:
    options: dict[str, Any] = {"descriptions": 3, "keep": 1, "forks": 2, "gate": "none"}
    await result_of(FakeEngine(THREE), **options, max_total_tokens=12)
    engine = FakeEngine(THREE)
    with pytest.raises(RequestError, match="at least 12"):
        await result_of(engine, **options, max_total_tokens=11)
    assert engine.calls == []


async def test_the_context_bounds_what_is_sampled() -> None:
    # One token for <description>: what is behind it may have 4, and behind a description of 3 one token.
    engine = FakeEngine([described("a cat")], max_model_len=PROMPT + 5)
    await result_of(engine, descriptions=1, keep=1, forks=1)
    assert only(engine, "describe")[1].max_tokens == 4
    assert only(engine, "fork")[1].max_tokens == 1
    full = FakeEngine([described("a cat")], max_model_len=PROMPT + 1)
    with pytest.raises(ContextLengthError) as caught:
        await result_of(full, descriptions=1)
    assert caught.value.param == "messages"
    assert f"maximum context length is {PROMPT + 1} tokens" in caught.value.message
    assert f"conversation takes {PROMPT}," in caught.value.message


async def test_a_description_as_long_as_the_whole_answer_is_truncated() -> None:
    # Its three tokens, closing tag included, are all that a trajectory may have.
    result = await result_of(
        FakeEngine([described("a cat"), described("fog")]),
        sampling=Sampling(max_tokens=3),
        descriptions=2,
        keep=2,
        forks=1,
    )
    assert [description.reason for description in result.descriptions] == ["truncated", None]


@pytest.mark.parametrize(
    ("options", "passes"),
    [({}, 1), ({"estimator": "blank"}, 1), ({"estimator": "reference"}, 3), ({"gate": "none"}, 0)],
)
async def test_scored_tokens_count_every_pass(options: dict[str, Any], passes: int) -> None:
    engine = FakeEngine([*THREE, THREE[0]])
    references = [Image.new("RGB", (size, size)) for size in (2, 3, 4)]
    pipeline = Pipeline(engine, SETTINGS, references)
    chosen = MIRLOptions(descriptions=4, keep=2, forks=1, **options)
    run = pipeline.run(CONVERSATION, chosen, Sampling(max_tokens=64, seed=1), RequestContext("r1"))
    result = finished([event async for event in run])
    # Two, three and one tokens of content behind a tag of one; the repeated description is scored once.
    assert result.scored_tokens == passes * 9
    assert len(engine.of_kind("score")) == passes
    stage = result.stages[1]
    assert (stage.stage, stage.generated_tokens) == ("score", 0)
    assert stage.sequences == (3 if passes else 0)


async def test_what_every_stage_cost() -> None:
    engine = FakeEngine(THREE, [chain("1", "so so")], delay=0.001)
    events = await events_of(engine, descriptions=3, keep=2, forks=2, early_stop=False)
    result = finished(events)
    costs = [
        (stage.stage, stage.sequences, stage.generated_tokens, stage.scored_tokens) for stage in result.stages
    ]
    assert costs == [("describe", 3, 9, 0), ("score", 3, 0, 9), ("fork", 4, 28, 0)]
    assert all(0 < stage.seconds < 60 for stage in result.stages)
    # Four tokens of a description and seven of a chain, one after the other.
    assert result.stages[0].seconds >= 0.004
    assert result.stages[2].seconds >= 0.007
    assert [event.stages for event in events if isinstance(event, Gated)] == [result.stages[:2]]
    assert [event.prompt_tokens for event in events if isinstance(event, Started)] == [PROMPT]
    assert result.prompt_tokens == PROMPT
    fallen = await events_of(FakeEngine([UNUSABLE], delay=0.001), descriptions=2)
    assert [event.stages for event in fallen if isinstance(event, FellBack)] == [finished(fallen).stages[:1]]
    describe, plain = finished(fallen).stages
    assert (plain.stage, plain.sequences, plain.generated_tokens) == ("plain", 1, 6)
    assert (describe.sequences, describe.generated_tokens) == (2, 12)
    assert describe.seconds >= 0.006
    assert 0.006 <= plain.seconds < 60


async def test_without_an_answer_the_best_descriptions_first_chain_stands() -> None:
    def unended(suffix: str, branch: int) -> FakeText:
        return FakeText(f"<think>{suffix.split('>')[1].split('<')[0]} {branch}", finish_reason="length")

    # By MI per token 0.5, 3 and 0; the chains of the best come last.
    for options in ({}, {"gate": "confidence"}):
        result = await result_of(FakeEngine(THREE, unended), descriptions=3, keep=3, forks=2, **options)
        best = "fog 0" if options else "a red dog 0"
        assert (result.reasoning, result.content, result.vote) == (best, "", None)
        assert (result.aggregation, result.confidence, result.calibrated) == ("best", None, False)
        assert result.description is not None
        assert result.description.text == best[:-2]
    plain = await result_of(FakeEngine([UNUSABLE], plain=[ROUND]), descriptions=2)
    assert (plain.reasoning, plain.content, plain.description, plain.margin) == (
        "round and round",
        "",
        None,
        None,
    )
    assert plain.representative.score is None


CALIBRATION = Calibration(intercept=-1.0, vote_share=3.0, distinct_share=-2.0)
OPTIONS = MIRLOptions(descriptions=3, keep=2, forks=1, early_stop=False)
CALIBRATED = ModelSettings(instruction="", options=OPTIONS, calibration=CALIBRATION)


@pytest.mark.parametrize(
    ("changed", "calibrated"),
    [({"max_tokens": 48}, True), ({"seed": 7}, True), ({"temperature": 0.5}, False), ({"top_p": 0.9}, False)],
)
async def test_another_distribution_of_samples_loses_a_calibration(
    changed: dict[str, Any], calibrated: bool
) -> None:
    sampling = Sampling(**{"max_tokens": 64, "seed": 1, **changed})
    run = Pipeline(FakeEngine(THREE), CALIBRATED).run(CONVERSATION, OPTIONS, sampling, RequestContext("r1"))
    assert finished([event async for event in run]).calibrated is calibrated


@pytest.mark.parametrize(
    ("top", "form", "calibrated"),
    [
        (None, None, True),
        (0, None, True),
        (2, None, True),
        (None, json_schema(None), False),
        (None, FreeCalls(lambda text: []), False),
    ],
)
async def test_log_probabilities_keep_a_calibration_and_a_form_does_not(
    top: int | None, form: Form | None, calibrated: bool
) -> None:
    engine = FakeEngine(THREE, [chain("{}")])
    sampling = Sampling(max_tokens=64, seed=1, top_logprobs=top)
    run = Pipeline(engine, CALIBRATED).run(CONVERSATION, OPTIONS, sampling, RequestContext("r1"), form=form)
    result: Result = finished([event async for event in run])
    assert (result.content, result.calibrated) == ("{}", calibrated)
    assert (result.confidence == 1.0) is not calibrated
    assert (result.content_tokens is None) is (top is None)
    if top is not None:
        assert result.content_tokens is not None
        assert [(token.text, len(token.likeliest)) for token in result.content_tokens] == [("{}", top)]
    # Only answers are held to a form, and only chains report their tokens' rivals.
    assert only(engine, "describe")[1].structure is None
    assert only(engine, "describe")[1].top_logprobs is None
    held = [call.sampling for call in engine.of_kind("fork") if call.sampling]
    assert {call_sampling.top_logprobs for call_sampling in held} == {top}
    expected = form.after_description(CALIBRATED.tags) if form else None
    assert {call_sampling.structure for call_sampling in held} == {expected}


@pytest.mark.parametrize("form", [json_schema(None), FreeCalls(lambda text: [])])
async def test_a_fallback_is_held_to_the_form_alone(form: Form) -> None:
    engine = FakeEngine([UNUSABLE], plain=[FakeText(' {"a": 1}')])
    run = Pipeline(engine, CALIBRATED).run(
        CONVERSATION, OPTIONS, Sampling(max_tokens=64), RequestContext("r1"), form=form
    )
    result = finished([event async for event in run])
    _, sampling = only(engine, "plain")
    assert (sampling.structure, sampling.stop) == (form.alone(), () if form.alone() else ("</answer>",))
    assert (result.content, result.representative.start) == ('{"a": 1}', 1)


async def test_stop_strings_cut_answers_but_not_calls() -> None:
    form = FreeCalls(lambda text: [("f", "a stop b")])
    for chosen, content in ((None, "1"), (form, '[{"name": "f", "arguments": "a stop b"}]')):
        run = Pipeline(FakeEngine(THREE, [chain("1 stop 2")]), SETTINGS).run(
            CONVERSATION, OPTIONS, Sampling(max_tokens=64, stop=(" stop",)), RequestContext("r1"), form=chosen
        )
        result = finished([event async for event in run])
        assert (result.content, result.representative.calls) == (content, chosen is not None)


async def test_request_ids_seeds_and_stops_of_every_call() -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, sampling=Sampling(max_tokens=64, seed=7, stop=("x",)), descriptions=3, keep=2)
    requests = {
        call.request_id: (call.n, call.sampling.seed, call.sampling.stop)
        for call in engine.calls
        if call.sampling
    }
    assert requests == {
        "r1-describe": (3, derive_seed(7, "describe"), ("</description>",)),
        "r1-fork-0": (2, derive_seed(7, "fork", 0), ("</answer>",)),
        "r1-fork-1": (2, derive_seed(7, "fork", 1), ("</answer>",)),
    }
    assert [call.request_id for call in engine.of_kind("score")] == ["r1-score-0"]
    engine = FakeEngine([UNUSABLE])
    await result_of(engine, sampling=Sampling(max_tokens=64, seed=7), descriptions=1)
    call, sampling = only(engine, "plain")
    assert (call.request_id, sampling.seed) == ("r1-plain", derive_seed(7, "plain"))


async def test_the_random_gates_seed_is_the_requests() -> None:
    same = [described(f"a {word}") for word in ("cat", "dog", "fox", "cow", "hen", "rat")]
    kept = set()
    for seed in range(6):
        sampling = Sampling(max_tokens=64, seed=seed)
        runs = [
            await result_of(FakeEngine(same), sampling=sampling, descriptions=6, keep=1, gate="random")
            for _ in range(2)
        ]
        assert runs[0].descriptions == runs[1].descriptions
        kept.add(next(description.index for description in runs[0].descriptions if description.kept))
    assert len(kept) > 1


async def test_a_rendering_is_used_again_and_the_instruction_rendered_with_it() -> None:
    engine = FakeEngine(THREE)
    pipeline = Pipeline(engine, ModelSettings(instruction="Look first."))
    rendered = await pipeline.render(CONVERSATION, RequestContext("r0"))
    assert engine.rendered[0].messages[-1]["content"][-1]["text"] == "What is it?\n\nLook first."
    run = pipeline.run(CONVERSATION, OPTIONS, Sampling(max_tokens=64), RequestContext("r1"), rendered)
    result = finished([event async for event in run])
    # The conversation once, and once more without its images, to score under.
    assert [len(conversation.images) for conversation in engine.rendered] == [1, 0]
    assert "Look first." in str(engine.rendered[1].messages)
    assert result.prompt_tokens == rendered.prompt_tokens
    assert engine.of_kind("describe")[0].conversation is rendered.inputs


async def test_over_another_engine_everything_else_is_the_same() -> None:
    first, other = FakeEngine(THREE), FakeEngine(THREE)
    pipeline = Pipeline(first, CALIBRATED, [IMAGE]).over(other)
    chosen = OPTIONS.model_copy(update={"estimator": "reference"})
    run = pipeline.run(CONVERSATION, chosen, Sampling(max_tokens=64), RequestContext("r1"))
    assert isinstance([event async for event in run][-1], Finished)
    assert (pipeline.settings, first.calls) == (CALIBRATED, [])
    assert len(other.of_kind("score")) == 1


async def test_the_decision_comes_as_soon_as_it_is_certain_and_once() -> None:
    def later(suffix: str, branch: int) -> FakeText:
        return FakeText(chain("1" if branch < 2 else "2"), delay=0.001 if branch < 2 else 60.0)

    engine = FakeEngine([described("a cat")], later)
    events = await events_of(engine, descriptions=1, keep=1, forks=3)
    (decision,) = [event for event in events if isinstance(event, Decided)]
    assert (decision.outstanding, decision.representative.answer) == (1, "1")
    assert decision.vote is not None
    assert dict(decision.vote.counts) == {"1": 2.0}
    assert engine.aborted == ["r1-fork-0"]
    result = finished(events)
    assert (result.vote, result.representative) == (decision.vote, decision.representative)
    assert [each.finish_reason for each in result.chains] == ["stop", "stop", "abort"]
    assert (result.partial, result.finish_reason) == (False, "stop")
    waited = await events_of(FakeEngine(THREE), descriptions=3, keep=3, forks=1, early_stop=False)
    assert [event.outstanding for event in waited if isinstance(event, Decided)] == [0]


async def test_margin_is_over_the_best_that_says_something_else() -> None:
    three = [described("a cat", -1, -3), described("a cat", -1, -3), described("a dog", -1, -2)]
    result = await result_of(FakeEngine(three), descriptions=3, keep=3, forks=1)
    assert (result.description, result.margin) == (result.descriptions[0], pytest.approx(1.0))
    alone = await result_of(FakeEngine(three[:2]), descriptions=2)
    assert alone.margin is None
