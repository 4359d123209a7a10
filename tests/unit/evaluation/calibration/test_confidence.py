"""What `mirl-eval calibrate` makes of votes, and what it does where they teach nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirl_core.algorithm.confidence import probability, traits_of
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.calibration.confidence import FEWEST, Votes, fit, votes_of
from mirl_core.evaluation.calibration.options import Grid
from mirl_core.evaluation.calibration.run import calibrate_run, confidence_run
from mirl_core.evaluation.methods import parse_methods, replay_draws
from mirl_core.evaluation.run.setup import RunSettings
from tests.unit.evaluation.bank.bank_cases import question, reasoned, said
from tests.unit.evaluation.run.run_cases import fill_bank, model_folder, no_engine, settings_of
from tests.unit.evaluation.synthetic import banked_questions

OPTIONS: dict[str, Any] = {"descriptions": 6, "keep": 3, "forks": 2, "description_tokens": 64}
BOUNDS = {"least_logprob", "least_mi", "most_unusable"}
OWN = ModelSettings(instruction="", options=MIRLOptions(**OPTIONS))


def made_up(truth: Calibration, questions: int = 6000, draws: int = 1, seed: int = 0) -> Votes:
    """Votes that are right as often as `truth` says."""
    rng = np.random.default_rng(seed)
    share, distinct = rng.uniform(0.2, 1, (questions, draws)), rng.uniform(0.1, 1, (questions, draws))
    odds = np.vectorize(lambda vote_share, distinct_share: probability(truth, vote_share, distinct_share))(
        share, distinct
    )
    right = (rng.uniform(size=share.shape) < odds).astype(np.float64)
    return Votes(("world",) * questions, share, distinct, -share, share / 2, share / 4, right)


def test_fit_finds_what_the_votes_were_made_with() -> None:
    truth = Calibration(intercept=0.5, vote_share=3.0, distinct_share=-2.5)
    calibration = fit(made_up(truth)).calibration
    assert calibration is not None
    # A fortieth of 0.2 to 1, which is the shares' range, lies above 0.98, and one below 0.22.
    assert calibration.least_logprob == pytest.approx(-0.98, abs=0.011)
    assert calibration.least_mi == pytest.approx(0.11, abs=0.011)
    assert calibration.most_unusable == pytest.approx(0.245, abs=0.011)
    for name, value in truth.model_dump(exclude=BOUNDS).items():
        assert getattr(calibration, name) == pytest.approx(value, abs=0.4)
        assert getattr(calibration, name) == round(getattr(calibration, name), 2)


def test_fit_lowers_the_error_and_says_so_by_data_set() -> None:
    votes = made_up(Calibration(intercept=-2, vote_share=2, distinct_share=-1), 400, 4)
    votes = replace(votes, data=("one",) * 150 + ("two",) * 250)
    rows = fit(votes).rows
    assert [(row.data, row.votes) for row in rows] == [("one", 600), ("two", 1000), ("all", 1600)]
    for row in rows:
        assert row.confidence_error < 0.1 < row.share_error
        assert row.confidence == pytest.approx(row.right, abs=0.1)


def test_a_question_counts_once_however_many_of_its_draws_voted() -> None:
    votes = made_up(Calibration(intercept=-1, vote_share=2, distinct_share=-1), 200)
    # The same vote four times over in the first half: as evidence, no more than once.
    again = replace(
        votes,
        **{
            name: np.repeat(getattr(votes, name), 4, axis=1)
            for name in ("share", "distinct", "logprob", "mi", "unusable", "right")
        },
    )
    again.share[100:, 1:] = np.nan
    assert fit(again).calibration == fit(votes).calibration


def test_votes_that_a_share_separates_perfectly_give_finite_weights() -> None:
    votes = made_up(Calibration(intercept=0, vote_share=0, distinct_share=0), 100)
    calibration = fit(replace(votes, right=(votes.share > 0.6).astype(np.float64))).calibration
    assert calibration is not None
    assert 5 < calibration.vote_share < 100


def test_shares_that_never_vary_give_the_rate() -> None:
    votes = made_up(Calibration(intercept=0, vote_share=0, distinct_share=0), 200)
    right = (np.arange(200) % 4 > 0).astype(np.float64)[:, None]
    ones = np.ones((200, 1))
    calibration = fit(replace(votes, share=ones, distinct=ones, right=right)).calibration
    assert calibration is not None
    assert probability(calibration, 1.0, 1.0) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"share": np.full((60, 2), np.nan)}, "no question was voted on"),
        ({"right": np.ones((60, 2))}, "every vote was right"),
        ({"right": np.zeros((60, 2))}, "every vote was wrong"),
    ],
)
def test_votes_that_teach_nothing(changed: dict[str, Any], says: str) -> None:
    votes = made_up(Calibration(intercept=0, vote_share=0, distinct_share=0), 60, 2)
    assert fit(votes).calibration is not None
    fitted = fit(replace(votes, **changed))
    assert fitted.calibration is None
    assert says in fitted.left_out


def test_too_few_questions() -> None:
    votes = made_up(Calibration(intercept=0, vote_share=0, distinct_share=0), FEWEST - 1, 8)
    assert f"{FEWEST - 1} voted questions are too few" in fit(votes).left_out


def test_votes_are_the_replays_own() -> None:
    banked = banked_questions(5)
    votes = votes_of(banked, OWN, 3, seed=1)
    calibration = Calibration(intercept=-1, vote_share=2, distinct_share=-1)
    (method,) = parse_methods("mirl", OWN.model_copy(update={"calibration": calibration}))
    for row, entry in enumerate(banked):
        for column, draw in enumerate(replay_draws(entry, 3, 1)):
            played = method.play(entry, draw)
            share, distinct = votes.share[row, column], votes.distinct[row, column]
            traits = traits_of(method.described(entry, draw))  # type: ignore[union-attr]
            assert traits is not None
            assert (traits.logprob, traits.unusable) == (
                votes.logprob[row, column],
                votes.unusable[row, column],
            )
            assert traits.mi == votes.mi[row, column]
            assert played.confidence == pytest.approx(probability(calibration, share, distinct))
            assert votes.right[row, column] == played.right


def test_fallbacks_and_best_are_no_votes() -> None:
    broken = question([said("", reason="empty")] * 6, [], plain=reasoned(-1, 0, "1"))
    free: list[BankedQuestion] = banked_questions(1)
    best = OWN.model_copy(update={"options": OWN.options.model_copy(update={"aggregate": "best"})})
    assert not votes_of([broken], OWN, 2, 0).voted.any()
    assert not votes_of(free, best, 2, 0).voted.any()


def run_of(folder: Path, n: int = 60, **changed: Any) -> RunSettings:
    settings = settings_of(folder / "bank", part="dev", n=n, descriptions=6, forks=2, replays=2, **changed)
    model_folder(settings.model, temperature=0.8, options=OPTIONS)
    fill_bank(settings)
    return settings


async def test_confidence_only_keeps_everything_else(tmp_path: Path) -> None:
    settings = run_of(tmp_path)
    target = settings.model / "mirl.json"
    before = json.loads(target.read_text())
    fitted = await confidence_run(settings, target, no_engine())
    assert fitted.calibration is not None
    read = ModelSettings.load(settings.model)
    assert read is not None
    assert read.calibration == fitted.calibration
    assert json.loads(target.read_text()) == before | {"calibration": fitted.calibration.model_dump()}
    record = json.loads((tmp_path / "bank" / "confidence.json").read_text())
    assert record["calibration"] == fitted.calibration.model_dump()
    assert record["rows"][0]["data"] == "digits/iid"
    # The bank is as good as before, and the same again comes to the same.
    assert await confidence_run(settings, target, no_engine()) == fitted


async def test_calibrate_fits_the_options_that_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(
        Grid(), mi_weight=(1.0,), keep=(2,), normalize=("token",), clip=(None,), adaptive_keep=(None,)
    )
    monkeypatch.setattr("mirl_core.evaluation.calibration.run.Grid", lambda: small)
    settings = run_of(tmp_path)
    choice, fitted = await calibrate_run(settings, tmp_path / "new.json", 200.0, no_engine())
    assert fitted.calibration is not None
    written = ModelSettings.model_validate(json.loads((tmp_path / "new.json").read_text()))
    assert written.calibration == fitted.calibration
    assert written.options.model_dump() == choice.settings.options.model_dump()
    (tmp_path / "new.json").unlink()
    # What calibrate chose, calibrated by itself, comes to the same.
    model_folder(settings.model, temperature=0.8, options=choice.settings.options.model_dump())
    assert await confidence_run(settings, tmp_path / "new.json", no_engine()) == fitted


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"n": 20}, "20 voted questions are too few"),
        ({"fork_image": "drop"}, "filled with fork_image drop, and the settings say keep"),
    ],
)
async def test_confidence_only_writes_nothing_where_it_finds_nothing(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    settings = run_of(tmp_path, **changed)
    before = (settings.model / "mirl.json").read_text()
    with pytest.raises(ConfigError, match=says):
        await confidence_run(settings, settings.model / "mirl.json", no_engine())
    assert (settings.model / "mirl.json").read_text() == before


async def test_options_that_the_bank_is_too_small_for(tmp_path: Path) -> None:
    settings = run_of(tmp_path)
    model_folder(settings.model, temperature=0.8, options=OPTIONS | {"descriptions": 9})
    with pytest.raises(ConfigError, match="--descriptions 9"):
        await confidence_run(settings, tmp_path / "new.json", no_engine())
