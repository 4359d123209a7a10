"""Describe → score → gate → fork → vote on a scripted engine: the order of things and every defined fate."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.config import ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import RequestError
from mirl_core.pipeline.events import ChainDone, Decided, Described, FellBack, Finished, Gated, Started
from tests.unit.pipeline.pipeline_cases import (
    CONVERSATION,
    IMAGE,
    THREE,
    chain,
    described,
    events_of,
    finished,
    result_of,
)


def by_description(answers: dict[str, str]):
    """Chains that answer by what the description before them says."""

    def answer(suffix: str, branch: int) -> str:
        return chain(next(value for key, value in answers.items() if key in suffix))

    return answer


async def test_events_come_in_order() -> None:
    events = await events_of(FakeEngine(THREE), descriptions=3, keep=2, forks=2, early_stop=False)
    kinds = [type(event) for event in events]
    assert kinds == [Started, *[Described] * 3, Gated, *[ChainDone] * 4, Decided, Finished]


async def test_gate_keeps_the_descriptions_that_owe_most_to_the_image() -> None:
    engine = FakeEngine(THREE, by_description({"dog": "dog", "cat": "cat", "fog": "fog"}))
    result = await result_of(engine, descriptions=3, keep=1, forks=2)
    kept = [description for description in result.descriptions if description.kept]
    assert [description.text for description in kept] == ["a red dog"]
    assert kept[0].mi == pytest.approx(3 * 3.0)
    assert kept[0].mi_per_token == pytest.approx(3.0)
    assert [d.reason for d in result.descriptions] == ["gate", None, "gate"]
    assert result.content == "dog"
    assert result.description == kept[0]


async def test_confidence_gate_never_scores() -> None:
    engine = FakeEngine(THREE, by_description({"dog": "dog", "cat": "cat", "fog": "fog"}))
    result = await result_of(engine, descriptions=3, keep=1, forks=1, gate="confidence")
    assert result.content == "fog"
    assert not engine.of_kind("score")
    assert result.scored_tokens == 0
    assert result.description is not None
    assert result.description.mi is None


async def test_no_gate_forks_every_description() -> None:
    result = await result_of(
        FakeEngine(THREE), descriptions=3, keep=1, forks=2, gate="none", early_stop=False
    )
    assert len(result.chains) == 6
    assert {chain.description for chain in result.chains} == {0, 1, 2}


async def test_weight_blends_confidence_and_information() -> None:
    engine = FakeEngine(THREE)
    result = await result_of(engine, descriptions=3, keep=1, forks=1, mi_weight=0.5)
    scores = [description.score for description in result.descriptions]
    assert scores == pytest.approx([-1 + 0.75, -1 + 2.0, -0.1 + 0.05])


async def test_auto_weighs_by_what_the_image_explains_of_all_usable_samples() -> None:
    # Content: "a cat" 2 tokens twice, "a red dog" 3, the truncated one none: 1 − (2·2 + 3) / (2·2·1.5 + 3·4).
    engine = FakeEngine([*THREE[:2], THREE[0], FakeText("never ends", -9.0, -9.0, "length")])
    events = await events_of(engine, descriptions=4, keep=1, forks=1, mi_weight="auto")
    result = finished(events)
    assert result.mi_weight == pytest.approx(1 - 7 / 18)
    assert [event.mi_weight for event in events if isinstance(event, Gated)] == [result.mi_weight]
    assert result.description is not None
    assert result.description.mi == pytest.approx(3 * (-1 + result.mi_weight * 4))
    assert [description.score for description in result.descriptions[:2]] == pytest.approx(
        [-1 + result.mi_weight * 1.5, -1 + result.mi_weight * 4]
    )
    assert result.descriptions[3].mi is None


async def test_auto_gates_as_its_number_does() -> None:
    auto = await result_of(FakeEngine(THREE), descriptions=3, keep=2, forks=1, mi_weight="auto", clip=0.7)
    fixed = await result_of(
        FakeEngine(THREE), descriptions=3, keep=2, forks=1, mi_weight=auto.mi_weight, clip=0.7
    )
    assert auto.descriptions == fixed.descriptions
    assert auto.mi_weight == fixed.mi_weight
    assert auto.scored_tokens == fixed.scored_tokens


async def test_auto_scores_even_where_it_comes_to_confidence() -> None:
    engine = FakeEngine([described("a cat", -2.0, -2.0)])
    result = await result_of(engine, descriptions=2, mi_weight="auto")
    assert (result.mi_weight, len(engine.of_kind("score"))) == (0.0, 1)
    assert (result.descriptions[0].mi, result.descriptions[0].marginal) == (-4.0, -4.0)


@pytest.mark.parametrize("gate", ["confidence", "random", "none"])
async def test_auto_scores_no_marginals_for_gates_that_need_none(gate: str) -> None:
    engine = FakeEngine(THREE)
    result = await result_of(engine, descriptions=3, gate=gate, mi_weight="auto")
    assert not engine.of_kind("score")
    assert {description.mi for description in result.descriptions} == {result.mi_weight} == {None}
    with_token_mi = await result_of(
        FakeEngine(THREE), descriptions=3, gate=gate, mi_weight="auto", token_mi=True
    )
    assert with_token_mi.mi_weight == pytest.approx(1 - (2 + 3 + 0.1) / (3 + 12 + 0.1))
    assert all(description.token_mi for description in with_token_mi.descriptions)


@pytest.mark.parametrize(
    ("options", "weight"),
    [({}, 1.0), ({"mi_weight": 0.5}, 0.5), ({"mi_weight": 0}, 0.0), ({"gate": "random"}, None)],
)
async def test_the_weight_that_was_used_is_reported(options: dict[str, Any], weight: float | None) -> None:
    assert (await result_of(FakeEngine(THREE), descriptions=3, **options)).mi_weight == weight


async def test_identical_descriptions_are_scored_once_and_keep_their_multiplicity() -> None:
    engine = FakeEngine([described("a cat"), described("a cat"), described("a dog")])
    result = await result_of(engine, descriptions=3, keep=3, forks=1, early_stop=False)
    (call,) = engine.of_kind("score")
    assert len(call.suffixes) == 2
    assert len(result.chains) == 3
    stage = next(stage for stage in result.stages if stage.stage == "score")
    assert stage.sequences == 2


async def test_distinct_drops_repeats() -> None:
    engine = FakeEngine([described("a cat"), described("a cat"), described("a dog")])
    result = await result_of(engine, descriptions=3, keep=3, forks=1, distinct=True)
    assert [d.reason for d in result.descriptions] == [None, "duplicate", None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FakeText("a cat that never ends", finish_reason="length"), "truncated"),
        (FakeText("  </description>"), "empty"),
        (FakeText("a cat", finish_reason="stop"), "unparsable"),
        (FakeText("a cat <think> hm </think></description>"), "unparsable"),
    ],
)
async def test_unusable_descriptions_never_go_on(text: FakeText, reason: str) -> None:
    engine = FakeEngine([text, described("a dog")])
    result = await result_of(engine, descriptions=2, keep=2, forks=1)
    assert [d.reason for d in result.descriptions] == [reason, None]
    assert {chain.description for chain in result.chains} == {1}


async def test_without_a_usable_description_it_falls_back_and_says_so() -> None:
    engine = FakeEngine([FakeText("never ends", finish_reason="length")], plain=[chain("7")])
    events = await events_of(engine, descriptions=4)
    assert [type(event) for event in events[-4:]] == [FellBack, ChainDone, Decided, Finished]
    fell_back, last = events[-4], events[-1]
    assert isinstance(fell_back, FellBack)
    assert isinstance(last, Finished)
    assert fell_back.reason == last.result.fallback == "no usable description"
    assert last.result.content == "7"
    assert last.result.description is None
    assert last.result.mi_weight is None
    assert [stage.stage for stage in last.result.stages] == ["describe", "plain"]


async def test_fallback_prompts_without_the_instruction() -> None:
    engine = FakeEngine([FakeText("never ends", finish_reason="length")])
    await result_of(engine, settings=ModelSettings(instruction="Look first."), descriptions=1)
    assert "Look first." in str(engine.rendered[0].messages)
    assert "Look first." not in str(engine.rendered[-1].messages)


async def test_a_chain_without_an_answer_has_no_vote() -> None:
    chains = [FakeText("<think>round and round", finish_reason="length"), chain("4"), chain("4")]
    result = await result_of(FakeEngine(chains=chains), descriptions=3, keep=3, forks=1, early_stop=False)
    assert result.vote is not None
    assert result.vote.counts == {result.vote.answer: 2}
    assert result.confidence == 1.0


async def test_without_any_answer_the_result_is_empty_and_says_length() -> None:
    chains = [FakeText("<think>round and round", finish_reason="length")]
    result = await result_of(FakeEngine(chains=chains), descriptions=2, keep=2, forks=1)
    assert (result.content, result.finish_reason, result.vote) == ("", "length", None)
    assert result.reasoning == "round and round"


async def test_prose_takes_the_best_descriptions_chain_verbatim() -> None:
    prose = "A long red dog sleeps on a mat beside the door, dreaming; its tail moves now and then."
    other = "Somebody left a mat here, and on the mat there lies something that could be a cat or a fox."
    engine = FakeEngine(THREE, by_description({"dog": prose, "cat": other, "fog": other}))
    result = await result_of(engine, descriptions=3, keep=3, forks=1)
    assert result.content == prose
    assert (result.vote, result.confidence, result.aggregation) == (None, None, "best")


async def test_early_stop_aborts_the_siblings_and_counts_their_tokens() -> None:
    def slow_last(suffix: str, branch: int) -> FakeText:
        late = "fog" in suffix
        return FakeText(chain("1", "word " * (30 if late else 1)), delay=0.02 if late else 0.0)

    engine = FakeEngine(THREE, slow_last)
    events = await events_of(engine, descriptions=3, keep=3, forks=1)
    last = events[-1]
    assert isinstance(last, Finished)
    decided = next(event for event in events if isinstance(event, Decided))
    assert decided.outstanding == 1
    aborted = [chain for chain in last.result.chains if chain.finish_reason == "abort"]
    assert len(aborted) == 1
    assert aborted[0].tokens < 30
    assert last.result.representative == decided.representative
    assert last.result.completion_tokens == engine.sampled_tokens


async def test_forks_continue_the_exact_tokens_of_the_description() -> None:
    engine = FakeEngine(THREE)
    result = await result_of(engine, descriptions=3, keep=3, forks=1)
    opening = engine.encode("<description>")
    continued = {call.suffixes[0] for call in engine.of_kind("fork")}
    assert continued == {(*opening, *description.token_ids) for description in result.descriptions}


async def test_one_trajectory_is_bounded_by_max_tokens() -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, sampling=Sampling(max_tokens=12), descriptions=3, keep=3, forks=1)
    totals = [
        call.sampling.max_tokens + len(call.suffixes[0]) - 1
        for call in engine.of_kind("fork")
        if call.sampling is not None
    ]
    assert totals == [12] * 3


async def test_every_branch_has_a_seed_of_its_own() -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, descriptions=3, keep=3, forks=1)
    seeds = [call.sampling.seed for call in engine.calls if call.sampling]
    assert len(set(seeds)) == len(seeds) == 4
    again = FakeEngine(THREE)
    await result_of(again, descriptions=3, keep=3, forks=1)
    assert seeds == [call.sampling.seed for call in again.calls if call.sampling]


async def test_the_image_is_rendered_once_and_the_score_has_none() -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, descriptions=3, keep=3, forks=2)
    assert [len(conversation.images) for conversation in engine.rendered] == [1, 0]


async def test_blank_scores_under_a_mean_coloured_image() -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, descriptions=3, keep=3, forks=2, estimator="blank")
    (blank,) = engine.rendered[1].images
    assert blank.size == IMAGE.size
    assert blank.getpixel((0, 0)) == IMAGE.getpixel((0, 0))


async def test_reference_without_images_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="reference_images") as caught:
        await result_of(FakeEngine(THREE), estimator="reference")
    assert caught.value.param == "mirl.estimator"


async def test_dropping_the_image_forks_from_text_alone() -> None:
    engine = FakeEngine(THREE)
    await result_of(engine, descriptions=3, keep=3, forks=1, fork_image="drop")
    assert [len(call.conversation.images) for call in engine.of_kind("fork")] == [0] * 3
    assert [len(call.conversation.images) for call in engine.of_kind("describe")] == [1]


async def test_the_users_stop_applies_to_the_answer() -> None:
    engine = FakeEngine(THREE, [chain("7 apples and pears", "apples and so on")])
    result = await result_of(engine, sampling=Sampling(max_tokens=64, stop=(" and",)), descriptions=3)
    assert result.content == "7 apples"
    assert result.reasoning == "apples and so on"


async def test_token_mi_is_returned_when_requested() -> None:
    plain = await result_of(FakeEngine(THREE), descriptions=3)
    assert all(description.token_mi is None for description in plain.descriptions)
    result = await result_of(FakeEngine(THREE), descriptions=3, token_mi=True)
    for description in result.descriptions:
        assert description.token_mi is not None
        assert len(description.token_mi) == description.content_tokens
        assert sum(description.token_mi) == pytest.approx(description.mi)


async def test_max_total_tokens_bounds_everything_sampled() -> None:
    endless = FakeText("<think>" + "word " * 500)
    engine = FakeEngine(THREE, [endless])
    result = await result_of(engine, descriptions=3, keep=3, forks=2, max_total_tokens=100)
    assert result.completion_tokens <= 100
    with pytest.raises(RequestError, match="max_total_tokens") as caught:
        await result_of(FakeEngine(THREE), max_total_tokens=5)
    assert caught.value.param == "mirl.max_total_tokens"


async def test_a_conversation_that_fills_the_context_is_refused() -> None:
    words = len(FakeEngine().encode(str(CONVERSATION.messages[0]["content"])))
    engine = FakeEngine(THREE, max_model_len=words)
    with pytest.raises(RequestError) as caught:
        await result_of(engine)
    assert caught.value.param == "messages"


async def test_margin_is_the_lead_over_a_different_description() -> None:
    result = await result_of(FakeEngine(THREE), descriptions=3, keep=1, forks=1)
    assert result.margin == pytest.approx(3.0 - 0.5)
