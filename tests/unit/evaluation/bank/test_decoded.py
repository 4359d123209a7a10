"""The bank's decodes and their costs are the pipeline's; replays on them are what the pipeline does."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirl_core.algorithm.answers import normalize
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.judge import judged_by
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.bank.sample import sample_question
from mirl_core.evaluation.bank.store import Bank
from mirl_core.evaluation.methods import parse_methods
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.questions import Question, question_seed
from mirl_core.types import Result
from tests.unit.evaluation.bank.bank_cases import in_order
from tests.unit.pipeline.pipeline_cases import SETTINGS, chain, described
from tests.unit.pipeline.steered.steered_cases import TinyModel

PICTURE = Image.new("RGB", (8, 8), (200, 30, 30))
WEIGHTS = (0.0, 0.5, 1.0)
DRAFTS = 3
PLAN = BankPlan(
    descriptions=4,
    forks=2,
    seed=7,
    max_tokens=96,
    contrast=WEIGHTS,
    estimators=("text",),
    draft_tokens=DRAFTS,
)
SAMPLES = [described(words) for words in ("a red cat", "left of 3", "a red cat", "on and")]
ANSWERS = ("1", "2", "1.0", "2 cats", "", "a long sentence that is no short answer at all, no.")
UNSHARED = {"prior_votes": (2, 2, 2), "share_chains": False}


def question() -> Question:
    return Question(
        key="q0",
        text="What is it?",
        answer="1",
        image=lambda: PICTURE,
        describes=lambda text: "red" in text,
    )


class Worded(TinyModel):
    """A tiny model whose chains' answers depend on the description and the seed."""

    def _chain(self, suffix: str, number: int) -> str:
        rng = random.Random(repr((self.seed, suffix)))
        return chain(rng.choice(ANSWERS), "so " * self.length(suffix, rng))

    def length(self, suffix: str, rng: random.Random) -> int:
        """Return the words of a chain's thought."""
        return rng.randint(1, 9)


class Apart(Worded):
    """Chains that end dozens of tokens apart, whichever of them start together."""

    def length(self, suffix: str, rng: random.Random) -> int:
        lengths = {"a red cat": 100, "left of 3": 200, "on and": 300}
        decoded = rng.choice([50, 150, 250, 350])
        return lengths.get(suffix.removeprefix("<description>").removesuffix("</description>"), decoded)


def model(seed: int, samples: Sequence[FakeText] = SAMPLES, kind: type[TinyModel] = Worded) -> FakeEngine:
    engine = kind(seed, samples=samples).engine
    # Distributions follow from token ids, which must not depend on which text comes first.
    for sample in samples:
        engine.encode(sample.text)
    return engine


async def banked(engine: FakeEngine, plan: BankPlan = PLAN) -> BankedQuestion:
    return await sample_question(engine, SETTINGS, question(), plan, data="zoo")


async def live(engine: FakeEngine, temperature: float = 1.0, max_tokens: int = 96, **options: Any) -> Result:
    """The pipeline with the bank's seed."""
    pipeline = Pipeline(engine, SETTINGS)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=question_seed(7, "q0"))
    chosen = MIRLOptions(draft_tokens=DRAFTS, **options)
    async for event in pipeline.run(question().conversation(), chosen, sampling, RequestContext("r")):
        last = event
    assert isinstance(last, Finished)
    return last.result


@pytest.mark.parametrize("seed", range(4))
async def test_decodes_are_the_pipelines(seed: int) -> None:
    bank = await banked(model(seed))
    options = {"contrast": WEIGHTS, "descriptions": 0, "early_stop": False, **UNSHARED}
    result = await live(model(seed), **options, token_mi=True)
    assert [decode.weight for decode in bank.decoded] == list(WEIGHTS)
    for ours, theirs in zip(bank.decoded, result.descriptions, strict=True):
        decoding = theirs.decoding
        assert decoding is not None
        assert (ours.rounds, ours.switches) == (decoding.rounds, len(decoding.switches))
        assert (ours.description.text, ours.description.tokens) == (theirs.text, len(theirs.token_ids))
        assert ours.description.content_tokens == theirs.content_tokens
        assert ours.description.right == ("red" in theirs.text)
        assert ours.description.reason is None
        assert sum(ours.description.logprobs) == pytest.approx(theirs.logprob)
        assert theirs.token_mi is not None
        pairs = zip(ours.description.logprobs, ours.description.marginals["text"], strict=True)
        assert [logprob - marginal for logprob, marginal in pairs] == pytest.approx(theirs.token_mi)
        chains = sorted((c for c in result.chains if c.description == theirs.index), key=lambda c: c.fork)
        assert [(c.fork, c.answer, c.tokens, c.finish_reason) for c in ours.chains] == [
            (c.fork, c.answer, c.tokens, c.finish_reason) for c in chains
        ]
        assert [c.description for c in ours.chains] == [-1, -1]


async def test_greedy_chains_come_first_and_have_the_pipelines_seeds() -> None:
    fake, other = model(1), model(1)
    await banked(fake)
    await live(other, contrast=WEIGHTS, descriptions=0, early_stop=False, **UNSHARED)
    ours = [c for c in fake.of_kind("fork") if c.request_id.startswith("bank-zoo-q0-decoded")]
    theirs = other.of_kind("fork")
    settings = lambda call: (call.request_id[-3:], call.sampling.temperature, call.sampling.seed)  # noqa: E731
    assert sorted(map(settings, ours)) == sorted(map(settings, theirs))
    assert [c.sampling.temperature for c in ours if c.sampling].count(0.0) == 3
    assert fake.running == 0


@pytest.mark.parametrize("weights", [WEIGHTS, (0.5,), (0.0, 1.0), (0.0,), (1.0, 0.5)])
@pytest.mark.parametrize("seed", [0, 5])
async def test_a_set_of_decodes_costs_the_union_of_its_work(weights: tuple[float, ...], seed: int) -> None:
    bank = await banked(model(seed))
    result = await live(model(seed), contrast=weights, descriptions=0, early_stop=False)
    (method,) = parse_methods(
        f"mirl(contrast={','.join(map(str, weights))};descriptions=0;early_stop=false)",
        ModelSettings(),
    )
    played = method.play(bank, in_order(bank))
    assert played.generated_tokens == result.completion_tokens
    assert played.scored_tokens == result.scored_tokens
    assert played.trajectories == len(result.chains)
    assert normalize(played.answer or "") == normalize(result.content)
    switches = [decode.switches for decode in bank.decoded if decode.weight in weights]
    assert any(switches) or weights == (0.0,), "an example without a switch shows nothing"


@pytest.mark.parametrize("weight", [0.5, 1.0])
async def test_tokens_scored_by_themselves_count_for_each_decode(
    weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the two likeliest tokens are read, so that some plausible ones lack an image-free term.
    for module in ("drafts", "image_free"):
        monkeypatch.setattr(f"mirl_core.pipeline.steered.{module}.LIKELIEST", 2)
    bank = await banked(model(3))
    assert 1 in bank.verified
    result = await live(model(3), contrast=(weight,), descriptions=0)
    (decode,) = [entry for entry in bank.decoded if entry.weight == weight]
    assert sum(bank.verified[number] for number in decode.verified) == result.scored_tokens


@pytest.mark.parametrize("aggregate", ["auto", "majority", "mi_weighted", "best"])
@pytest.mark.parametrize("share_chains", [True, False])
async def test_replay_in_order_is_the_pipeline(aggregate: Any, share_chains: bool) -> None:
    votes, waves = 0, 0
    for seed in range(12):
        options = {
            "contrast": WEIGHTS,
            "prior_votes": (2, 2, 1),
            "descriptions": 4,
            "share_chains": share_chains,
            "aggregate": aggregate,
            "early_stop": False,
            "wave": 1 + seed % 3,
        }
        bank = await banked(model(seed))
        result = await live(model(seed), **options)
        own = ModelSettings(options=MIRLOptions(**options))
        (method,) = parse_methods("mirl", own)
        played = method.play(bank, in_order(bank))
        assert normalize(played.answer or "") == normalize(result.content)
        assert played.generated_tokens == result.completion_tokens
        assert played.scored_tokens == result.scored_tokens
        assert played.trajectories == len(result.chains)
        share = None if result.vote is None else pytest.approx(result.vote.share)
        assert played.confidence == share
        votes += result.vote is not None
        waves += len(result.descriptions) > len(WEIGHTS)
    assert waves or aggregate == "best"
    assert votes or aggregate == "best"


@pytest.mark.parametrize("ahead", [0, 1, 4])
async def test_replay_stops_where_the_pipeline_stops(ahead: int) -> None:
    # Nothing is verified, so that the fake engine's time is the clock's: a token a turn of the event loop.
    options = {"contrast": (0.0,), "prior_votes": (2,), "descriptions": 4, "ahead": ahead}
    (method,) = parse_methods("mirl", ModelSettings(options=MIRLOptions(**options)))
    plan = PLAN.model_copy(update={"max_tokens": 500})
    stopped = 0
    for seed in range(12):
        bank = await banked(model(seed, kind=Apart), plan)
        result = await live(model(seed, kind=Apart), max_tokens=500, **options)
        played = method.play(bank, in_order(bank))
        assert normalize(played.answer or "") == normalize(result.content)
        assert played.trajectories == sum(chain.finished for chain in result.chains)
        # The event loop takes a few turns more to start a chain, and to stop the others.
        assert played.generated_tokens == pytest.approx(result.completion_tokens, abs=24)
        assert (played.confidence is None) == (result.vote is None)
        if result.vote is not None:
            assert played.confidence == pytest.approx(result.vote.share)
        stopped += any(not chain.finished for chain in result.chains)
    assert stopped


async def test_plain_generation_is_banked_where_no_decode_is_usable() -> None:
    plan = PLAN.model_copy(update={"contrast": (0.0,), "description_tokens": 2})
    fake = FakeEngine([FakeText("never ends", -1.0)], plain=[chain("1")])
    bank = await banked(fake, plan)
    (decode,) = bank.decoded
    assert (decode.description.reason, decode.chains, decode.drafts) == ("truncated", (), (0,))
    assert bank.plain_fallback is not None
    assert bank.plain_fallback.answer == "1"


async def test_further_temperatures_hold_trajectories_for_votes() -> None:
    plan = PLAN.model_copy(update={"contrast": (), "temperatures": (0.5, 1.5)})
    fake = model(2)
    bank = await banked(fake, plan)
    assert sorted(bank.at_temperatures) == ["0.5", "1.5"]
    for temperature in (0.5, 1.5):
        calls = [call for call in fake.calls if call.sampling and call.sampling.temperature == temperature]
        assert [(call.kind, call.n) for call in calls] == [("describe", 4)] + [("fork", 1)] * 4
        result = await live(model(2), temperature, descriptions=4, forks=1, gate="none", early_stop=False)
        samples = bank.at_temperatures[f"{temperature:g}"]
        assert [description.text for description in samples.descriptions] == [
            description.text for description in result.descriptions
        ]
        assert [description.logprobs for description in samples.descriptions] == [()] * 4
        assert {chain.confidence for chain in samples.chains} == {None}
        name = f"sc@4(temperature={temperature})"
        (method,) = parse_methods(name, ModelSettings())
        played = method.play(bank, in_order(bank))
        assert played.generated_tokens == result.completion_tokens
        assert normalize(played.answer or "") == normalize(result.content)


async def test_methods_play_on_the_samples_of_their_temperature() -> None:
    bank = await banked(model(2), PLAN.model_copy(update={"contrast": (), "temperatures": (0.5,)}))
    warm = bank.at_temperatures["0.5"]
    longer = replace(warm, chains=tuple(replace(c, tokens=c.tokens + 10) for c in warm.chains))
    bank = replace(bank, at_temperatures={"0.5": longer})
    for name, chains in (("direct", 1), ("sc@3", 3), ("adaptive@1", 1), ("esc@2", 2)):
        options = f"{name}(temperature=0.5)"
        here, there = parse_methods(f"{name},{options}", ModelSettings())
        spent = here.play(bank, in_order(bank)).generated_tokens
        assert there.play(bank, in_order(bank)).generated_tokens == spent + 10 * chains


async def test_a_line_reads_back_and_stays_small() -> None:
    plan = PLAN.model_copy(
        update={"descriptions": 16, "forks": 3, "contrast": (0.0, 0.25, 0.5, 1.0), "temperatures": (0.5,)}
    )
    long = [described(" ".join(["word"] * 60), -1.23456789)]
    bank = await banked(model(0, long), plan)
    line = json.dumps(bank.to_json(), separators=(",", ":"))
    assert len(line) < 50_000
    back = BankedQuestion.from_json(json.loads(line))
    assert (back.drafts, back.verified) == (bank.drafts, bank.verified)
    assert [decode.chains for decode in back.decoded] == [decode.chains for decode in bank.decoded]
    assert BankedQuestion.from_json(json.loads(json.dumps(back.to_json()))) == back


async def test_lines_and_banks_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    plain = PLAN.model_copy(update={"contrast": ()})
    old = (await banked(model(0), plain)).to_json()
    later = {"decoded", "drafts", "verified", "at_temperatures"}
    assert not later & set(old)
    back = BankedQuestion.from_json(old)
    assert (back.decoded, back.drafts, back.verified, back.at_temperatures) == ((), (), (), {})
    assert back.to_json() == old
    fields = {"contrast", "contrast_estimator", "plausibility", "draft_tokens", "temperatures"}
    (tmp_path / "config.json").write_text("{}")
    with Bank.open(tmp_path / "bank", tmp_path, SETTINGS, plain, "dev") as bank:
        bank.append(back)
    assert not fields & set(json.loads((tmp_path / "bank" / "bank.json").read_text())["plan"])
    assert Bank.existing(tmp_path / "bank").plan.contrast == ()
    with pytest.raises(ConfigError, match="another output folder") as caught:
        Bank.open(tmp_path / "bank", tmp_path, SETTINGS, PLAN, "dev")
    assert caught.value.param == "plan.contrast"


def test_plans_say_how_descriptions_are_decoded() -> None:
    own = ModelSettings(options=MIRLOptions(estimator="blank", plausibility=0.2, draft_tokens=4))
    plan = BankPlan(contrast=(1.0, 0.0, 1.0), temperatures=(0.7, 0.3)).resolved(own)
    assert (plan.contrast, plan.temperatures) == ((0.0, 1.0), (0.3, 0.7))
    assert (plan.contrast_estimator, plan.plausibility, plan.draft_tokens) == ("blank", 0.2, 4)
    kept = BankPlan(contrast=(1.0,), plausibility=0.3).resolved(own)
    assert kept.plausibility == 0.3
    none = BankPlan(plausibility=0.3).resolved(own)
    assert none == BankPlan().resolved(own)


async def test_a_record_is_judged_by_the_present_truth() -> None:
    def bare(truth: str) -> Question:
        return replace(question(), answer=truth, describes=None)

    plan = PLAN.model_copy(update={"temperatures": (0.5,)})
    labelled = await sample_question(model(0), SETTINGS, bare("1"), plan)
    blind = await sample_question(model(0), SETTINGS, bare(""), plan)
    assert blind.truth == ""
    assert not any(chain.right for chain in blind.chains)
    assert any(chain.right for chain in labelled.chains)
    assert any(chain.right for decode in labelled.decoded for chain in decode.chains)
    assert labelled.greedy[1] is not None
    assert labelled.greedy[1].right
    assert judged_by(blind, bare("1")) == labelled
    assert judged_by(blind, bare("")) is blind
    assert judged_by(labelled, bare("1")) is labelled
    # A corrected truth judges what was sampled before, too.
    for truth in ("2", "77"):
        other = judged_by(labelled, bare(truth))
        assert other == await sample_question(model(0), SETTINGS, bare(truth), plan)
        assert other.chains != labelled.chains
    assert not any(chain.right for chain in other.chains)
    dumb = FakeEngine([FakeText("never ends", -1.0)], plain=[chain("1")])
    nothing = plan.model_copy(update={"description_tokens": 2})
    record = await sample_question(dumb, SETTINGS, bare(""), nothing)
    judged = judged_by(record, bare("1"))
    for fallback in (judged.plain_fallback, judged.at_temperatures["0.5"].plain_fallback):
        assert fallback is not None
        assert fallback.right
