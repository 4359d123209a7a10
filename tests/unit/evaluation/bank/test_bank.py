"""The bank holds what the pipeline would have done, once; and survives whatever kills it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, RequestError
from mirl_core.evaluation.bank.fill import fill, fill_live
from mirl_core.evaluation.bank.judge import lowest_group
from mirl_core.evaluation.bank.live import run_live
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.bank.sample import sample_question
from mirl_core.evaluation.bank.store import Bank, LiveBank, fingerprint
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.questions import DataSet, Question, question_seed
from mirl_core.types import Result
from tests.unit.pipeline.pipeline_cases import SETTINGS, chain, described

PICTURE = Image.new("RGB", (8, 8), (200, 30, 30))
CAT = FakeText("a cat</description>", (-0.5, -1.5, -0.25), (-2.0, -3.0))
DOG = FakeText("a red dog</description>", (-1.0, -0.25, -2.0, -0.5), (-4.0, -1.0, -2.5))
ENDLESS = FakeText("on and on", -1.0, finish_reason="length")
EMPTY = described("  ")
PLAN = BankPlan(descriptions=4, forks=2, seed=7, max_tokens=64)


def question(number: int = 0, answer: str = "dog") -> Question:
    return Question(
        key=f"q{number}",
        text="What is it?",
        answer=answer,
        image=lambda: PICTURE,
        family="animals",
        clusters=(f"scene{number}", "glyph"),
        describes=lambda text: "dog" in text,
    )


def data(count: int, name: str = "zoo") -> DataSet:
    return DataSet(name, "dev", tuple(question(number) for number in range(count)))


def chains(suffix: str, branch: int) -> FakeText:
    """Chains that follow their description; a greedy or plain one is no different."""
    return FakeText(chain("dog" if "dog" in suffix else "cat", f"so {branch}"), -0.125)


def engine(*descriptions: FakeText, **arguments: Any) -> FakeEngine:
    return FakeEngine(descriptions or (CAT, DOG, ENDLESS, DOG), chains, **arguments)


async def piped(fake: FakeEngine, **options: Any) -> Result:
    """What the pipeline does with the same seed."""
    chosen = MIRLOptions(descriptions=4, keep=4, forks=2, early_stop=False, **options)
    sampling = Sampling(max_tokens=64, seed=question_seed(7, "q0"))
    run = Pipeline(fake, SETTINGS).run(question().conversation(), chosen, sampling, RequestContext("r"))
    async for event in run:
        last = event
    assert isinstance(last, Finished)
    return last.result


@pytest.mark.parametrize("estimator", ["text", "blank"])
async def test_the_bank_is_what_the_pipeline_did(estimator: str) -> None:
    fake, other = engine(), engine()
    banked = await sample_question(fake, SETTINGS, question(), PLAN, data="zoo")
    result = await piped(other, estimator=estimator, token_mi=True)
    assert len(banked.descriptions) == len(result.descriptions) == 4
    for ours, theirs in zip(banked.descriptions, result.descriptions, strict=True):
        assert (ours.text, ours.tokens) == (theirs.text, len(theirs.token_ids))
        assert ours.content_tokens == theirs.content_tokens == len(ours.logprobs)
        assert ours.reason == (None if theirs.kept else theirs.reason)
        assert sum(ours.logprobs) == pytest.approx(theirs.logprob)
        if ours.reason is None:
            assert sum(ours.marginals[estimator]) == pytest.approx(theirs.marginal)
            pairs = zip(ours.logprobs, ours.marginals[estimator], strict=True)
            assert [logprob - marginal for logprob, marginal in pairs] == pytest.approx(theirs.token_mi)
    key = lambda c: (c.description, c.fork)  # noqa: E731
    theirs = [(c.description, c.fork, c.answer, c.tokens) for c in sorted(result.chains, key=key)]
    assert [(c.description, c.fork, c.answer, c.tokens) for c in banked.chains] == theirs
    seeds = {call.sampling.seed for call in fake.calls if call.sampling and call.sampling.temperature}
    assert seeds == {call.sampling.seed for call in other.calls if call.sampling}


async def test_every_field_is_accounted_for() -> None:
    fake = engine(CAT, DOG, ENDLESS, EMPTY)
    banked = await sample_question(fake, SETTINGS, question(), PLAN, data="zoo")
    assert (banked.key, banked.data, banked.family, banked.truth) == ("q0", "zoo", "animals", "dog")
    assert banked.clusters == ("scene0", "glyph")
    assert [description.reason for description in banked.descriptions] == [None, None, "truncated", "empty"]
    assert [description.right for description in banked.descriptions] == [False, True, False, False]
    assert [description.tokens for description in banked.descriptions[:2]] == [3, 4]
    assert banked.descriptions[0].logprobs == (-0.5, -1.5)
    assert banked.descriptions[0].marginals == {"text": (-2.0, -3.0), "blank": (-2.0, -3.0)}
    assert banked.descriptions[2].marginals == banked.descriptions[3].marginals == {}
    assert [(c.description, c.fork, c.right) for c in banked.chains] == [
        (0, 0, False),
        (0, 1, False),
        (1, 0, True),
        (1, 1, True),
    ]
    first = banked.chains[0]
    surprise = (0.5 + 1.5 + 0.25 + first.tokens * 0.125) / (3 + first.tokens)
    assert first.confidence == pytest.approx(surprise)
    assert first.lowest_confidence == pytest.approx(surprise), "shorter than a window"
    greedy, only = banked.greedy
    assert only is not None
    assert (greedy.text, greedy.marginals, only.description, only.answer) == ("a cat", {}, -1, "cat")
    assert banked.plain_fallback is None
    sampled = sum(sample.tokens for sample in (*banked.descriptions, *banked.chains, greedy, only))
    assert sampled == fake.sampled_tokens
    assert fake.running == 0


async def test_greedy_is_greedy_and_the_picture_is_rendered_once() -> None:
    fake = engine()
    await sample_question(fake, SETTINGS, question(), PLAN)
    cold = [call for call in fake.calls if call.sampling and call.sampling.temperature == 0]
    assert [(call.kind, call.n) for call in cold] == [("describe", 1), ("fork", 1)]
    colours = [c.images[0].getpixel((0, 0)) if c.images else None for c in fake.rendered]
    assert len(fake.rendered) == 3, "with the picture, without one for `text`, with a blank one"
    assert colours.count(None) == 1
    assert {call.sampling.alternatives for call in fake.calls if call.sampling} == {20}


async def test_without_a_usable_description_plain_generation_is_banked() -> None:
    fake = engine(ENDLESS)
    banked = await sample_question(fake, SETTINGS, question(answer="cat"), PLAN)
    assert banked.chains == ()
    assert banked.greedy[1] is None
    plain = banked.plain_fallback
    assert plain is not None
    assert (plain.description, plain.answer, plain.right) == (-1, "cat", True)
    assert plain.confidence == pytest.approx(0.125)
    assert not fake.of_kind("score")


async def test_reference_needs_as_many_pictures_as_the_plan_says() -> None:
    plan = PLAN.model_copy(update={"estimators": ("text", "reference"), "references": 2})
    fake = engine()
    banked = await sample_question(fake, SETTINGS, question(), plan, (PICTURE, PICTURE))
    assert set(banked.descriptions[0].marginals) == {"text", "reference"}
    assert banked.descriptions[0].marginals["reference"] == pytest.approx((-2.0, -3.0))
    with pytest.raises(ConfigError, match="2 reference pictures, but 1 were given"):
        await sample_question(engine(), SETTINGS, question(), plan, (PICTURE,))
    without = plan.model_copy(update={"references": 0})
    banked = await sample_question(engine(), SETTINGS, question(), without)
    assert set(banked.descriptions[0].marginals) == {"text"}


async def test_without_alternatives_there_is_no_confidence() -> None:
    plan = PLAN.model_copy(update={"alternatives": 0})
    banked = await sample_question(engine(), SETTINGS, question(), plan)
    assert {c.confidence for c in banked.chains} == {None}
    assert {c.lowest_confidence for c in banked.chains} == {None}


def test_lowest_group_slides_over_whole_windows() -> None:
    assert lowest_group((), 3) is None
    assert lowest_group((4.0, 2.0), 3) == 3.0
    assert lowest_group((1.0, 1.0, 7.0, 1.0, 4.0, 1.0), 3) == 2.0
    assert lowest_group((5.0, 5.0, 5.0, 1.0, 0.0, 2.0), 3) == 1.0


async def test_a_line_reads_back_and_is_small() -> None:
    long = described(" ".join(["word"] * 60), -1.23456789, -2.3456789)
    plan = PLAN.model_copy(update={"descriptions": 16, "forks": 3})
    banked = await sample_question(engine(long), SETTINGS, question(), plan)
    line = json.dumps(banked.to_json(), separators=(",", ":"))
    assert len(line) < 40_000
    back = BankedQuestion.from_json(json.loads(line))
    assert back.descriptions[3].logprobs == pytest.approx(banked.descriptions[3].logprobs, abs=1e-4)
    assert BankedQuestion.from_json(json.loads(json.dumps(back.to_json()))) == back
    rounded = replace(banked.chains[0], confidence=back.chains[0].confidence)
    assert back.chains[0] == replace(rounded, lowest_confidence=back.chains[0].lowest_confidence)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def opened(tmp_path: Path, model: Path) -> Callable[..., Bank]:
    def open_bank(settings: ModelSettings = SETTINGS, plan: BankPlan = PLAN, part: str = "dev") -> Bank:
        return Bank.open(tmp_path / "bank", model, settings, plan, part)

    return open_bank


async def test_a_finished_question_is_never_run_twice(opened: Callable[..., Bank]) -> None:
    progress: list[tuple[int, int]] = []
    with opened() as bank:
        await fill(bank, engine(), SETTINGS, data(3), PLAN, concurrency=2)
    fake = engine()
    with opened() as bank:
        await fill(bank, fake, SETTINGS, data(5), PLAN, progress=lambda *now: progress.append(now))
        assert sorted(entry.key for entry in bank.load("zoo")) == ["q0", "q1", "q2", "q3", "q4"]
        with pytest.raises(ValueError, match=r"is in .* already"):
            bank.append(bank.load("zoo")[0])
    assert progress == [(3, 5), (4, 5), (5, 5)]
    assert len(fake.of_kind("describe")) == 2 * 2, "two questions, each with its greedy trajectory"


async def test_a_half_written_line_is_dropped_and_cut_off(opened: Callable[..., Bank]) -> None:
    with opened() as bank:
        await fill(bank, engine(), SETTINGS, data(3), PLAN)
        path = bank.path("zoo")
        whole = bank.load("zoo")
    path.write_bytes(path.read_bytes()[:-20])
    with opened() as bank:
        assert bank.load("zoo") == whole[:2]
        assert len(bank.keys("zoo")) == 2
        await fill(bank, engine(), SETTINGS, data(3), PLAN)
        assert sorted(entry.key for entry in bank.load("zoo")) == ["q0", "q1", "q2"]
    assert all(json.loads(line)["data"] == "zoo" for line in path.read_text().splitlines())
    assert len(path.read_text().splitlines()) == 3


async def test_a_cancelled_run_leaves_whole_lines(opened: Callable[..., Bank]) -> None:
    slow = engine(delay=0.002)
    enough = asyncio.Event()

    def progress(finished: int, total: int) -> None:
        if finished == 4:
            enough.set()

    with opened() as bank:
        run = asyncio.create_task(
            fill(bank, slow, SETTINGS, data(40), PLAN, concurrency=3, progress=progress)
        )
        await enough.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        text = bank.path("zoo").read_text()
        assert text.endswith("\n")
        assert 4 <= len(text.splitlines()) == len(bank.load("zoo")) < 40
    assert slow.running == 0


@pytest.mark.parametrize("kind", ["describe", "score", "fork"])
async def test_a_failing_engine_is_raised_as_it_is(opened: Callable[..., Bank], kind: str) -> None:
    failing = engine(fail_at={kind: EngineDeadError("gone")}, delay=0.001)
    with opened() as bank, pytest.raises(EngineDeadError, match="gone"):
        await fill(bank, failing, SETTINGS, data(3), PLAN)
    assert failing.running == 0


async def test_a_refused_question_is_named(opened: Callable[..., Bank]) -> None:
    refusing = engine(fail_at={"render": RequestError("too long", param="messages")})
    with opened() as bank, pytest.raises(RequestError, match="q0: too long"):
        await fill(bank, refusing, SETTINGS, data(1), PLAN)


async def test_what_would_mix_banks_is_refused(opened: Callable[..., Bank], model: Path) -> None:
    with opened() as bank:
        await fill(bank, engine(), SETTINGS, data(1), PLAN)
    opened(SETTINGS.model_copy(update={"options": MIRLOptions(mi_weight=0.5)}))  # replayed, so not held
    for changed, field in (
        ({"plan": PLAN.model_copy(update={"forks": 3})}, "plan.forks"),
        ({"plan": PLAN.model_copy(update={"estimators": ("text",)})}, "plan.estimators"),
        ({"plan": PLAN.model_copy(update={"temperature": 0.5})}, "plan.temperature"),
        ({"settings": ModelSettings(instruction="Look.")}, "settings.instruction"),
        ({"part": "test"}, "part"),
    ):
        with pytest.raises(ConfigError, match="another output folder") as caught:
            opened(**changed)
        assert caught.value.param == field
    (model / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(ConfigError, match="another model") as caught:
        opened()
    assert caught.value.param == "model"


async def test_one_process_writes(opened: Callable[..., Bank]) -> None:
    with opened() as bank, opened() as other:
        await fill(bank, engine(), SETTINGS, data(1), PLAN)
        with pytest.raises(ConfigError, match="another process writes"):
            await fill(other, engine(), SETTINGS, data(2), PLAN)
        bank.close()
        await fill(other, engine(), SETTINGS, data(2), PLAN)
        assert len(other.load("zoo")) == 2


async def test_damage_is_said_with_its_place(opened: Callable[..., Bank], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no records"):
        Bank.existing(tmp_path / "bank")
    with opened() as bank:
        await fill(bank, engine(), SETTINGS, data(2), PLAN)
        path = bank.path("zoo")
    assert Bank.existing(tmp_path / "bank").plan == PLAN.resolved(SETTINGS)
    with pytest.raises(ConfigError, match="records of 'zoo', not of 'zoo!'"):
        bank.load("zoo!")
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(ConfigError, match=r"zoo\.jsonl, line 1, is no record"):
        opened().load("zoo")
    (tmp_path / "bank" / "bank.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable JSON"):
        opened()


def test_fingerprint_knows_what_changes_answers(model: Path) -> None:
    before = fingerprint(model)
    (model / "mirl.json").write_text('{"instruction": ""}')
    (model / "README.md").write_text("new")
    assert fingerprint(model) == before
    (model / "chat_template.jinja").write_text("x")
    assert fingerprint(model) != before
    assert fingerprint("some/name") != fingerprint("other/name")


async def test_live_is_the_pipeline_with_the_banks_seed(tmp_path: Path, model: Path) -> None:
    fake, other = engine(), engine()
    options = MIRLOptions(descriptions=4, keep=4, forks=2, gate="none", early_stop=False)
    played = await run_live(fake, SETTINGS, question(), options, 7, max_tokens=64)
    result = await piped(other, gate="none")
    assert (played.answer, played.right) == (result.content, result.content == "dog")
    assert played.generated_tokens == result.completion_tokens == fake.sampled_tokens
    assert (played.scored_tokens, played.trajectories) == (0, 6)
    assert played.confidence == pytest.approx(result.confidence)
    assert set(played.stage_seconds) == {"describe", "score", "fork"}
    assert 0 < sum(played.stage_seconds.values()) <= played.seconds
    assert [c.sampling.seed for c in fake.calls if c.sampling] == [
        c.sampling.seed for c in other.calls if c.sampling
    ]
    for count in (2, 3):
        with LiveBank.open(tmp_path / "live", model, SETTINGS, options, "dev", 7) as live:
            again = engine()
            await fill_live(live, again, SETTINGS, data(count), options, 7)
            assert len(again.of_kind("describe")) == (2 if count == 2 else 1)
            assert [entry.key for entry in live.load("zoo")] == [f"q{number}" for number in range(count)]
    with pytest.raises(ConfigError, match="another output folder") as caught:
        LiveBank.open(tmp_path / "live", model, SETTINGS, MIRLOptions(), "dev", 7)
    assert caught.value.param == "options.descriptions"
    # Confidences of two kinds don't mix; what is never calibrated doesn't care.
    calibration = Calibration(intercept=0, vote_share=1, distinct_share=1)
    LiveBank.open(
        tmp_path / "live", model, SETTINGS.model_copy(update={"calibration": calibration}), options, "dev", 7
    )
    with pytest.raises(ConfigError, match="another output folder") as caught:
        LiveBank.open(
            tmp_path / "live",
            model,
            SETTINGS.model_copy(update={"calibration": calibration, "options": options}),
            options,
            "dev",
            7,
        )
    assert str(caught.value.param).startswith("calibration")


async def test_an_engine_error_in_a_live_run_comes_out_plain(tmp_path: Path, model: Path) -> None:
    failing = engine(fail_at={"fork": EngineError("lost")})
    with (
        LiveBank.open(tmp_path / "live", model, SETTINGS, MIRLOptions(), "dev") as live,
        pytest.raises(EngineError, match="lost"),
    ):
        await fill_live(live, failing, SETTINGS, data(2), MIRLOptions(), 0)
