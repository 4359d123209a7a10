"""Prior votes: who votes, when samples follow, and when all that runs is stopped."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Sample, Sampling, derive_seed
from mirl_core.engines.fake import FakeText
from mirl_core.engines.wrappers.forwarding import ForwardingEngine
from mirl_core.errors import DeadlineError, EngineError, RequestError
from mirl_core.pipeline.choices import run_choices
from mirl_core.pipeline.events import (
    Branched,
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Finished,
    Gated,
    Started,
)
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Result
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION
from tests.unit.pipeline.steered.steered_cases import TinyModel

# λ = 0, 0.5 and 2 decode three different texts on this seed, in this order of length.
SEED = 15
WEIGHTS = (0.0, 0.5, 2.0)


async def texts(seed: int = SEED) -> list[str]:
    """Return the text of each λ's description."""
    model = TinyModel(seed)
    events = await run(model, chains=False, descriptions=0, contrast=WEIGHTS)
    last = events[-1]
    assert isinstance(last, Gated)
    return [description.text for description in last.descriptions]


async def run(
    model: TinyModel, *, chains: bool = True, temperature: float = 1.0, top: int | None = None, **options: Any
) -> list[Event]:
    pipeline = Pipeline(model.engine, ModelSettings(instruction="", tags=model.tags))
    chosen = MIRLOptions(**{"contrast": WEIGHTS, "ahead": 0, "description_tokens": 60, **options})
    sampling = Sampling(max_tokens=100, temperature=temperature, seed=7, top_logprobs=top)
    events = [e async for e in pipeline.run(CONVERSATION, chosen, sampling, CONTEXT, chains=chains)]
    assert model.engine.running == 0
    if isinstance(events[-1], Finished):
        assert events[-1].result.completion_tokens == model.engine.sampled_tokens
    return events


def result(events: Sequence[Event]) -> Result:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.result


def samples(*names: str) -> list[FakeText | str]:
    return [f"{name}</description>" for name in names]


async def model_of(answers: Sequence[str], sampled: dict[str, str] | None = None, **more: Any) -> TinyModel:
    """Return a model whose decoded descriptions, then its samples, have these answers."""
    sampled = sampled or {"thing": "9"}
    chains = dict(zip(await texts(), answers, strict=True)) | sampled
    return TinyModel(SEED, chains=chains, samples=samples(*sampled), **more)


async def test_the_three_texts_differ() -> None:
    assert len(set(await texts())) == 3


async def test_agreeing_decodes_need_no_sample() -> None:
    model = await model_of(["4", "4", "5"])
    events = await run(model, prior_votes=(2, 2, 1))
    answer = result(events)
    assert (answer.content, answer.aggregation) == ("4", "majority")
    assert answer.vote is not None
    assert answer.vote.counts["4"] >= 4
    # A sample has no decoding.
    assert all(description.decoding for description in answer.descriptions)
    assert [d.votes for d in answer.descriptions] == [2, 2, 1]
    assert [chain.votes for chain in answer.chains if chain.finished][:2] == [2, 2]


async def test_samples_follow_in_waves_while_the_vote_is_open() -> None:
    # 2 : 2 : 1, and samples that agree with none: the vote never closes.
    model = await model_of(["4", "5", "6"], {f"thing {n}": f"{20 + n}" for n in range(5)})
    events = await run(model, prior_votes=(2, 2, 1), descriptions=5, wave=2)
    answer = result(events)
    assert [d.index for d in answer.descriptions] == list(range(8))
    branched = [event.descriptions for event in events if isinstance(event, Branched) and event.descriptions]
    assert branched == [3, 2, 2, 1]
    assert len(answer.chains) == 8
    # The tie of 4 and 5 goes to the earlier description, λ = 0.
    assert (answer.content, answer.representative.description) == ("4", 0)


async def test_a_wave_that_closes_the_vote_is_the_last() -> None:
    model = await model_of(["4", "5", "6"], {"thing": "5"})
    answer = result(await run(model, prior_votes=(2, 2, 1), descriptions=8, wave=2))
    # 5 has 2 votes, 4 after a wave, 6 after two: P(6 ahead of 2) is above 0.9, P(4 ahead of 2) below.
    assert answer.content == "5"
    assert len(answer.descriptions) == 3 + 4
    assert answer.vote is not None
    assert answer.vote.counts == {"4": 2.0, "5": 6.0, "6": 1.0}


async def test_equal_descriptions_share_a_chain_with_all_their_votes() -> None:
    model = await model_of(["4", "5", "6"], {"thing": "5"})
    answer = result(await run(model, prior_votes=(2, 2, 1), descriptions=4, certainty=0.99))
    shared = [d for d in answer.descriptions if d.text == "thing"]
    assert [d.repeats for d in shared] == [None, 3, 3, 3]
    assert [d.kept for d in shared] == [True] * 4
    assert len(answer.chains) == 4
    assert {chain.description: chain.votes for chain in answer.chains} == {0: 2, 1: 2, 2: 1, 3: 4}


async def test_or_every_vote_has_a_chain() -> None:
    model = await model_of(["4", "5", "6"], {"thing": "5"})
    events = await run(
        model, prior_votes=(2, 2, 1), descriptions=2, certainty=0.99, share_chains=False, early_stop=False
    )
    answer = result(events)
    assert sorted((c.description, c.fork) for c in answer.chains) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0),
    ]  # fmt: skip
    assert all(chain.votes == 1 for chain in answer.chains)
    assert all(d.repeats is None for d in answer.descriptions)
    forks = {call.request_id: call.sampling for call in model.engine.of_kind("fork")}
    temperatures = {name: sampling.temperature for name, sampling in forks.items() if sampling}
    assert temperatures == {
        "r1-fork-0-0": 0.0, "r1-fork-0-1": 1.0, "r1-fork-1-0": 0.0, "r1-fork-1-1": 1.0, "r1-fork-2-0": 0.0,
        "r1-fork-3-0": 1.0, "r1-fork-4-0": 1.0,
    }  # fmt: skip


async def test_the_vote_stops_what_still_runs() -> None:
    # The third decode's chain is slow; the first two agree with 4 votes, which is certain enough.
    first, second, third = await texts()
    endless = FakeText("<think>on and on", delay=999.0)
    model = TinyModel(SEED, chains={first: "4", second: "4", third: endless})
    events = await run(model, prior_votes=(2, 2, 1))
    answer = result(events)
    (decided,) = [event for event in events if isinstance(event, Decided)]
    assert decided.vote is not None
    assert (decided.vote.answer, decided.vote.share, answer.content) == ("4", 1.0, "4")
    position = events.index(decided)
    assert not [event for event in events[position:] if isinstance(event, Described)]
    stopped = [d for d in answer.descriptions if d.reason == "stopped"]
    aborted = [c for c in answer.chains if c.finish_reason == "abort"]
    assert len(stopped) + len(aborted) == 1
    assert decided.outstanding == len(aborted)
    assert not any(d.kept for d in stopped)


async def test_without_early_stop_every_chain_ends() -> None:
    model = await model_of(["4", "4", "5"])
    answer = result(await run(model, prior_votes=(3, 2, 1), early_stop=False))
    assert [chain.finish_reason for chain in answer.chains] == ["stop"] * 3
    assert len(answer.descriptions) == 3, "the vote is certain, so nothing is sampled"


async def test_samples_ahead_run_beside_the_decodes() -> None:
    model = await model_of(["4", "4", "4"])
    events = await run(model, descriptions=2, ahead=9, early_stop=False)
    assert events[1] == Branched(descriptions=5)
    assert len(result(events).descriptions) == 5
    assert [d.votes for d in result(events).descriptions] == [1] * 5


async def test_one_description_one_chain() -> None:
    model = await model_of(["4", "5", "6"])
    answer = result(await run(model, contrast=(0.5,), descriptions=0))
    assert (answer.content, len(answer.descriptions), len(answer.chains)) == ("5", 1, 1)
    assert answer.confidence == 1.0
    assert [stage.stage for stage in answer.stages] == ["describe", "score", "fork"]


async def test_triple_weighs_by_mi() -> None:
    model = await model_of(["4", "5", "6"])
    answer = result(
        await run(model, descriptions=0, aggregate="mi_weighted", normalize="sum", mi_weight=0.5, clip=2.0)
    )
    assert answer.aggregation == "mi_weighted"
    assert answer.mi_weight == 0.5
    best = max(answer.descriptions, key=lambda d: d.mi or 0.0)
    assert answer.representative.description == best.index
    for description in answer.descriptions:
        assert description.score == description.mi is not None
        assert description.marginal is not None
        # Scored anew by the engine's own measure.
        content = description.token_ids[: description.content_tokens]
        free = CONVERSATION.with_images(None)
        expected = 0.0
        for at in range(len(content)):
            suffix = (*model.opening, *content[:at])
            ratio = model.likeliest(CONVERSATION, suffix)[content[at]]
            ratio -= 0.5 * model.likeliest(free, suffix)[content[at]]
            expected += min(max(ratio, -2.0), 2.0)
        assert description.mi == pytest.approx(expected)


async def test_mi_is_there_where_it_costs_nothing_and_all_of_it_on_request() -> None:
    model = await model_of(["4", "5", "6"], {"thing": "7"})
    known = result(await run(model, descriptions=1))
    assert [d.mi is not None for d in known.descriptions] == [False, True, True, False]
    assert all(d.score is None and d.token_mi is None for d in known.descriptions)
    assert known.mi_weight == 1.0
    full = result(await run(await model_of(["4", "5", "6"], {"thing": "7"}), descriptions=1, token_mi=True))
    for description in full.descriptions:
        assert description.token_mi is not None
        assert len(description.token_mi) == description.content_tokens
        assert description.token_texts is not None
        assert len(description.token_texts) == description.content_tokens
        assert "".join(description.token_texts).strip() == description.text
        assert sum(description.token_mi) == pytest.approx(description.mi)
    assert full.scored_tokens > known.scored_tokens


@pytest.mark.parametrize("estimator", ["text", "blank"])
async def test_the_image_free_prompt_is_rendered_once(estimator: str) -> None:
    model = await model_of(["4", "5", "6"], {f"thing {n}": f"{20 + n}" for n in range(4)})
    await run(model, descriptions=4, token_mi=True, estimator=estimator)
    assert len(model.engine.of_kind("render")) == 2
    assert len(model.engine.rendered[1].images) == (estimator == "blank")


async def test_prose_is_not_sampled_again() -> None:
    prose = "The {} in the picture is sleeping on a sofa of some length."
    model = await model_of([prose.format("dog"), prose.format("cat"), prose.format("hen")])
    answer = result(await run(model, prior_votes=(2, 2, 1), descriptions=8))
    assert (answer.aggregation, answer.vote, answer.confidence) == ("best", None, None)
    assert len(answer.descriptions) == 3
    assert answer.content == prose.format("dog")


async def test_at_temperature_0_there_is_nothing_to_sample() -> None:
    model = await model_of(["4", "5", "6"])
    answer = result(await run(model, temperature=0.0, descriptions=8, ahead=2))
    assert len(answer.descriptions) == 3


async def test_only_descriptions() -> None:
    model = await model_of(["4", "5", "6"])
    events = await run(model, chains=False, descriptions=8, ahead=2)
    last = events[-1]
    assert isinstance(last, Gated)
    assert [d.kept for d in last.descriptions] == [True] * 3
    assert [stage.stage for stage in last.stages] == ["describe", "score"]
    assert not model.engine.of_kind("fork")


async def test_without_a_usable_description_the_answer_is_plain() -> None:
    model = TinyModel(SEED, samples=["never ends"], plain=["<answer>plain</answer>"])
    events = await run(model, descriptions=2, description_tokens=2)
    assert [event for event in events if isinstance(event, FellBack)]
    answer = result(events)
    assert (answer.content, answer.fallback) == ("plain", "no usable description")
    assert {d.reason for d in answer.descriptions} == {"truncated"}
    assert len(answer.descriptions) == 5
    only = await run(TinyModel(SEED), chains=False, descriptions=2, description_tokens=2)
    assert isinstance(only[-1], FellBack)


async def test_samples_have_the_branches_of_a_gated_request() -> None:
    model = await model_of(["4", "5", "6"], {"thing": "7", "other": "8"})
    await run(model, descriptions=2, certainty=0.99)
    described = [call.sampling for call in model.engine.of_kind("describe")]
    sampled = [s for s in described if s is not None and s.temperature > 0]
    seed = derive_seed(7, "describe")
    assert [(s.seed, s.first_branch) for s in sampled] == [(seed, 0), (seed, 1)]
    assert sampled[1].branch_seed(0) == derive_seed(seed, 1)
    forks = {call.request_id: call.sampling for call in model.engine.of_kind("fork")}
    chain = forks["r1-fork-4-0"]
    assert chain is not None
    assert chain.branch_seed(0) == derive_seed(derive_seed(7, "fork", 1), 0)


async def test_chains_without_the_image() -> None:
    model = await model_of(["4", "4", "4"])
    events = await run(model, fork_image="drop")
    assert isinstance(events[0], Started)
    assert result(events).prompt_tokens == events[0].prompt_tokens
    assert [len(call.conversation.images) for call in model.engine.of_kind("fork")] == [0, 0, 0]
    assert {len(call.conversation.images) for call in model.engine.of_kind("describe")} == {1}


@pytest.mark.parametrize("kind", ["describe", "score", "fork"])
async def test_an_error_ends_the_request(kind: str) -> None:
    model = await model_of(["4", "5", "6"], fail_at={kind: EngineError("broken")})
    with pytest.raises(EngineError, match="broken"):
        await run(model, descriptions=4, ahead=2)
    assert model.engine.running == 0


async def test_a_deadline_returns_the_best_vote_so_far() -> None:
    first, second, third = await texts()
    endless = FakeText("<think>on and on", delay=999.0)
    model = TinyModel(SEED, chains={first: "4", second: endless, third: endless})
    answer = result(await run(model, timeout=2.0, descriptions=8))
    assert (answer.partial, answer.content) == (True, "4")
    assert len(answer.descriptions) == 3


async def test_a_deadline_before_any_description_is_an_error() -> None:
    model = TinyModel(SEED, delay=0.05)
    with pytest.raises(DeadlineError, match="while describing the image"):
        await run(model, timeout=0.1, ahead=2)
    assert model.engine.running == 0


async def test_a_budget_holds() -> None:
    model = await model_of(["4", "5", "6"], {f"thing {n}": f"{20 + n}" for n in range(8)})
    options: dict[str, Any] = {"descriptions": 8, "ahead": 2, "draft_tokens": 3}
    answer = result(await run(model, **options, max_total_tokens=400))
    assert answer.completion_tokens <= 400
    with pytest.raises(RequestError, match="need at least 40"):
        await run(model, **options, max_total_tokens=39)


async def test_choices_decode_the_same_and_sample_otherwise() -> None:
    model = await model_of(["4", "5", "6"], {f"thing {n}": f"{20 + n}" for n in range(4)})
    pipeline = Pipeline(model.engine, ModelSettings(instruction=""))
    options = MIRLOptions(contrast=WEIGHTS, descriptions=2)
    results: tuple[Result, ...] | None = None
    async for event in run_choices(pipeline, CONVERSATION, options, Sampling(100, seed=7), CONTEXT, 2):
        results = event.results or results
    assert results is not None
    decoded = [[d.text for d in choice.descriptions if d.decoding] for choice in results]
    assert decoded[0] == decoded[1] == await texts()
    assert sum(choice.completion_tokens for choice in results) == model.engine.sampled_tokens
    seeds = {
        call.sampling.seed
        for call in model.engine.of_kind("describe")
        if call.sampling and call.sampling.temperature > 0
    }
    assert len(seeds) == 2


async def test_events_come_in_order() -> None:
    model = await model_of(["4", "5", "6"], {"thing": "5"})
    events = await run(model, prior_votes=(2, 2, 1), descriptions=8)
    assert isinstance(events[1], Branched)
    done = [event.chain.description for event in events if isinstance(event, ChainDone)]
    described = [event.description.index for event in events if isinstance(event, Described)]
    for index in done:
        before = next(
            i for i, e in enumerate(events) if isinstance(e, Described) and e.description.index == index
        )
        after = next(
            i for i, e in enumerate(events) if isinstance(e, ChainDone) and e.chain.description == index
        )
        assert before < after
    assert sorted(described) == list(range(len(described)))
    started = sum(event.chains for event in events if isinstance(event, Branched))
    assert started == len(done)


async def test_a_draft_without_a_token_is_the_last() -> None:
    class Silent(ForwardingEngine):
        """Has no room for a description's first token."""

        async def generate(self, *call: Any) -> AsyncGenerator[Sample, None]:
            yield Sample(0, (), (), "", "length")

    model = TinyModel(SEED)
    pipeline = Pipeline(Silent(model.engine), ModelSettings(instruction=""))
    options = MIRLOptions(contrast=WEIGHTS, descriptions=0)
    events = [
        event async for event in pipeline.run(CONVERSATION, options, Sampling(9), CONTEXT, chains=False)
    ]
    described = [event.description for event in events if isinstance(event, Described)]
    assert [description.reason for description in described] == ["truncated"] * 3
    assert isinstance(events[-1], FellBack)
