"""`mirl-eval run` and `calibrate` with methods that decode: what they bank, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mirl_core.config import ModelSettings
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.calibration.confidence import votes_of
from mirl_core.evaluation.calibration.run import calibrate_run, confidence_run
from mirl_core.evaluation.measures.outcomes import read_rows
from mirl_core.evaluation.methods import parse_methods
from mirl_core.evaluation.run.command import live_options, numbers, run
from mirl_core.evaluation.run.needs import check, plan_for
from mirl_core.evaluation.run.setup import RunSettings, RunSetup
from tests.unit.evaluation.run.run_cases import (
    data_file,
    engine_factory,
    model_folder,
    no_engine,
    settings_of,
)
from tests.unit.pipeline.pipeline_cases import described
from tests.unit.pipeline.steered.steered_cases import TinyModel

STEERED = "mirl(contrast=0,0.5;prior_votes=2,1;descriptions=2)"


def engine(seed: int = 1) -> FakeEngine:
    """All samples are equal, so that every draw of them is."""
    return TinyModel(seed, samples=[described("a red cat")]).engine


def of_file(tmp_path: Path, count: int = 2, **changed: Any) -> RunSettings:
    data = data_file(tmp_path / "set" / "q.jsonl", count)
    return settings_of(tmp_path / "out", data=(str(data),), **changed)


def plan_in(tmp_path: Path) -> BankPlan:
    header = json.loads((tmp_path / "out" / "bank" / "bank.json").read_text())
    return BankPlan.model_validate(header["plan"])


def rows_of(tmp_path: Path) -> list[dict[str, Any]]:
    return read_rows(tmp_path / "out" / "questions" / "q.jsonl.jsonl")


async def test_a_run_banks_what_its_methods_need(tmp_path: Path) -> None:
    methods = f"direct,sc@4,{STEERED},fast(contrast=1),sc@2(temperature=0.5)"
    await run(of_file(tmp_path, methods=methods), engine_factory(engine()))
    plan = plan_in(tmp_path)
    assert (plan.contrast, plan.temperatures) == ((0.0, 0.5, 1.0), (0.5,))
    assert (plan.contrast_estimator, plan.plausibility, plan.draft_tokens) == ("text", 0.1, 8)
    # All of it serves other methods, which load no model.
    for others in ("fast(contrast=0.5),direct(temperature=0.5)", "sc@4", STEERED):
        await run(of_file(tmp_path, methods=others), no_engine())
    (row, _) = rows_of(tmp_path)
    entry = row["methods"][STEERED]
    assert len(entry["ticks"]) == 3
    assert all(isinstance(ticks, int) and ticks > 0 for ticks in entry["ticks"])


async def test_without_need_nothing_is_decoded(tmp_path: Path) -> None:
    fake = engine()
    await run(of_file(tmp_path, methods="direct,gate(descriptions=6;forks=2)"), engine_factory(fake))
    header = json.loads((tmp_path / "out" / "bank" / "bank.json").read_text())
    later = {"contrast", "contrast_estimator", "plausibility", "draft_tokens", "temperatures"}
    assert not later & set(header["plan"])
    assert not [call for call in fake.calls if "decoded" in call.request_id]
    assert all("ticks" not in entry for entry in rows_of(tmp_path)[0]["methods"].values())
    with pytest.raises(ConfigError, match=r"plan\.contrast.*another output folder") as caught:
        await run(of_file(tmp_path, methods=STEERED), no_engine())
    assert caught.value.param == "plan.contrast"


async def test_options_say_what_to_bank_beyond_the_methods(tmp_path: Path) -> None:
    settings = of_file(tmp_path, methods="direct", contrast=(1.0, 0.25), temperatures=(0.7, 0.3))
    await run(settings, engine_factory(engine()))
    plan = plan_in(tmp_path)
    assert (plan.contrast, plan.temperatures) == ((0.25, 1.0), (0.3, 0.7))
    await run(of_file(tmp_path, methods="fast(contrast=0.25)"), no_engine())


async def test_a_steered_live_run_is_its_replay(tmp_path: Path) -> None:
    name = f"{STEERED.removesuffix(')')};early_stop=false)"
    live = f"{name},sc@2(temperature=0.5)"
    settings = of_file(tmp_path, 4, methods="direct", live=live, replays=1)
    await run(settings, engine_factory(engine()))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for method in (name, "sc@2(temperature=0.5)"):
        both = summary["live"]["q.jsonl"][method]
        for figure in ("generated_tokens", "scored_tokens", "complete_trajectories"):
            assert both["live"][figure] == pytest.approx(both["replay"][figure]), (method, figure)
    await run(settings, no_engine())


def test_live_options_are_the_methods(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "out", fork_image="drop", methods=STEERED)
    setup = RunSetup(settings)
    steered, fast, warm = setup.methods(f"{STEERED},fast,sc@5(temperature=0.5)")
    assert live_options(steered, setup).contrast == (0.0, 0.5)
    assert live_options(steered, setup).fork_image == "drop"
    assert live_options(fast, setup).contrast == (0.25,)
    assert live_options(warm, setup).descriptions == 5
    model_folder(settings.model, options={"preset": "triple"})
    decoding = RunSetup(settings_of(tmp_path / "other"))
    direct, voting = decoding.methods("direct,sc@5")
    assert (live_options(direct, decoding).contrast, live_options(voting, decoding).votes) == ((), ())


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"methods": STEERED, "contrast": (0.0,)}, "contrast", "--contrast 0,0.5"),
        ({"methods": STEERED, "contrast": ()}, "contrast", "--contrast 0,0.5"),
        ({"methods": "direct", "contrast": (-1.0,)}, "contrast", "greater than or equal to 0"),
        ({"methods": "direct", "contrast": tuple(range(9))}, "contrast", "at most 8 items"),
        ({"methods": "direct", "temperatures": (0.0,)}, "temperatures", "greater than 0"),
        (
            {"methods": "sc@2(temperature=0.5)", "temperatures": (0.3,)},
            "temperatures",
            "--temperatures 0.3,0.5",
        ),
        ({"methods": "steered"}, "descriptions", "--descriptions 8"),
        (
            {
                "methods": f"{STEERED[:-1]};prior_votes=3,1;share_chains=false)".replace(
                    "prior_votes=2,1;", ""
                )
            },
            "forks",
            "--forks 3",
        ),
        (
            {"methods": "fast,fast(plausibility=0.2)"},
            "methods",
            r"decodes with plausibility 0\.2, and fast with 0\.1",
        ),
        ({"methods": "fast(estimator=reference)"}, "estimators", "--estimators"),
        ({"methods": "paper(descriptions=6)", "fork_image": "drop"}, "fork_image", "--fork-image keep"),
        ({"live": "adaptive@2(temperature=0.5)"}, "live", "presets"),
    ],
)
async def test_wrong_settings_name_the_field_before_anything_is_sampled(
    tmp_path: Path, changed: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        await run(settings_of(tmp_path / "out", **changed), no_engine())
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("methods", "banked", "planned"),
    [
        ("direct", None, ((), None)),
        ("mirl(contrast=0)", None, ((0.0,), None)),
        ("mirl(contrast=1,0.5;plausibility=0.3),fast(plausibility=0.3)", None, ((0.25, 0.5, 1.0), 0.3)),
        # A bank that holds enough is taken as it is, and one that doesn't is not enlarged.
        ("direct", {"contrast": (0.5,), "plausibility": 0.2}, ((0.5,), 0.2)),
        ("mirl(contrast=0)", {"contrast": (0.0, 0.5), "plausibility": 0.2}, ((0.0, 0.5), 0.2)),
        ("fast", {"contrast": (0.0, 0.5), "plausibility": 0.2}, ((0.25,), 0.1)),
    ],
)
def test_plans_hold_what_is_needed(
    methods: str, banked: dict[str, Any] | None, planned: tuple[Sequence[float], float | None]
) -> None:
    plan = plan_for(
        parse_methods(methods, ModelSettings()),
        BankPlan(),
        None if banked is None else BankPlan(**banked),
    )
    assert (plan.contrast, plan.plausibility) == planned


@pytest.mark.parametrize(
    ("methods", "banked", "planned"),
    [("sc@4", None, 0), ("sc@4,deepconf-low@4", None, 20), ("sc@4", 20, 20), ("deepconf@4", 0, 0)],
)
def test_likeliest_tokens_are_banked_where_a_method_votes_by_them(
    methods: str, banked: int | None, planned: int
) -> None:
    parsed = parse_methods(methods, ModelSettings())
    plan = plan_for(parsed, BankPlan(), None if banked is None else BankPlan(alternatives=banked))
    assert plan.alternatives == planned
    if "deepconf" in methods and not planned:
        with pytest.raises(ConfigError, match="deepconf@4 needs a bank that was begun with it"):
            check(parsed, plan, [])
    else:
        check(parsed, plan, [])


def test_a_bank_of_other_decodes_serves_greedy_ones_alone() -> None:
    plan = BankPlan(contrast=(0.0, 1.0), plausibility=0.2).resolved(ModelSettings())
    greedy, contrastive = parse_methods("mirl(contrast=0),fast(contrast=1)", ModelSettings())
    check([greedy], plan, [])
    with pytest.raises(ConfigError, match=r"plausibility 0\.1, and the bank with 0\.2"):
        check([contrastive], plan, [])


async def test_votes_of_a_model_that_decodes_are_calibrated(tmp_path: Path) -> None:
    settings = of_file(tmp_path, 3, methods="mirl", part="dev")
    options = {"contrast": [0, 1], "prior_votes": [2, 1], "descriptions": 2, "early_stop": False}
    model_folder(settings.model, options=options)
    await run(settings, engine_factory(engine(3)))
    setup = RunSetup(settings)
    (data,) = setup.data
    banked = setup.banked(data)
    votes = votes_of(banked, setup.model_settings, 2, 0)
    # Two decodes, and a wave of two equal samples.
    assert len({decode.description.text for decode in banked[0].decoded}) == 2
    assert votes.distinct.tolist() == [[0.75, 0.75]] * 3
    # A file whose options need other decodes than the bank holds.
    target = tmp_path / "mirl.json"
    target.write_text(json.dumps({"options": {**options, "contrast": [0, 0.5]}}))
    with pytest.raises(ConfigError, match=r"--contrast 0,0\.5,1"):
        await confidence_run(settings, target, no_engine())
    with pytest.raises(ConfigError, match="--confidence-only") as caught:
        await calibrate_run(settings, tmp_path / "new.json", None, no_engine())
    assert caught.value.param == "contrast"


def test_numbers_are_a_list_with_commas() -> None:
    assert numbers(None, "contrast") is None
    assert numbers("", "contrast") == ()
    assert numbers("0, .5,1", "contrast") == (0.0, 0.5, 1.0)
    with pytest.raises(ConfigError, match="no list of numbers") as caught:
        numbers("0;1", "contrast")
    assert caught.value.param == "contrast"
