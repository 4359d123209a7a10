"""`mirl-eval run` without a model: full banks are replayed, others are filled by a scripted engine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import ConfigError, EngineError
from mirl_core.evaluation.bank.store import Bank
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.run.command import live_options, names, run
from mirl_core.evaluation.run.setup import RunSetup
from tests.unit.evaluation.run.run_cases import (
    data_file,
    engine_factory,
    fill_bank,
    model_folder,
    no_engine,
    settings_of,
)
from tests.unit.pipeline.pipeline_cases import chain, described

KEYS = {
    "accuracy",
    "low",
    "high",
    "n",
    "generated_tokens",
    "scored_tokens",
    "complete_trajectories",
    "confidence",
    "ece",
}


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def engine() -> FakeEngine:
    """Half of the descriptions are right and lead to the answer 1."""
    return FakeEngine(
        descriptions=[described("red", -0.1, -2.0), described("blue", -0.2, -0.3)],
        chains=lambda suffix, branch: chain("1" if "red" in suffix else "2"),
    )


async def test_a_full_bank_is_replayed_without_a_model(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "out", data=("digits/iid", "digits/shifted"))
    fill_bank(settings)
    await run(settings, no_engine())
    summary = summary_of(tmp_path / "out")
    assert list(summary["data"]) == ["digits/iid", "digits/shifted"]
    for methods in summary["data"].values():
        assert list(methods) == ["direct", "sc@4", "mirl(descriptions=6;keep=2)"]
        for figures in methods.values():
            assert set(figures) >= KEYS
            assert figures["n"] == 12
            assert 0 <= figures["low"] <= figures["accuracy"] <= figures["high"] <= 1
            assert math.isfinite(figures["generated_tokens"])
    # One chain of one description, and four of them: without early stop the cost is four times as high.
    iid = summary["data"]["digits/iid"]
    assert iid["sc@4"]["generated_tokens"] == pytest.approx(4 * iid["direct"]["generated_tokens"], rel=0.2)
    assert iid["direct"]["scored_tokens"] == 0
    assert iid["mirl(descriptions=6;keep=2)"]["scored_tokens"] > 0
    rows = [
        json.loads(line) for line in (tmp_path / "out/questions/digits_iid.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 12
    assert all(len(row["methods"]["sc@4"]["right"]) == 3 for row in rows)
    mean = sum(sum(row["methods"]["sc@4"]["right"]) for row in rows) / 36
    assert iid["sc@4"]["accuracy"] == pytest.approx(mean, abs=1e-5)


async def test_report_names_what_was_run_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "out", command="mirl-eval run --data digits/iid")
    fill_bank(settings)
    await run(settings, no_engine())
    report = (tmp_path / "out" / "report.md").read_text()
    summary = summary_of(tmp_path / "out")
    for words in ("tiny", summary["fingerprint"][:16], "digits/iid: 12", "mirl-eval run --data digits/iid"):
        assert words in report
    assert summary["part"] == "test"
    assert summary["bank"]["descriptions"] == 6
    assert str(tmp_path) not in report
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()
    for plot in (tmp_path / "out" / "plots").iterdir():
        assert f"plots/{plot.name}" in report


async def test_other_methods_replay_the_same_bank(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "out")
    fill_bank(settings)
    await run(settings, no_engine())
    before = summary_of(tmp_path / "out")["data"]["digits/iid"]["sc@4"]
    await run(settings_of(tmp_path / "out", methods="sc@4,random(descriptions=4;keep=2)"), no_engine())
    after = summary_of(tmp_path / "out")["data"]["digits/iid"]
    assert list(after) == ["sc@4", "random(descriptions=4;keep=2)"]
    assert after["sc@4"] == before


async def test_methods_that_learn_from_traffic_are_prepared(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "out", methods="auto-traffic(descriptions=6;keep=2)")
    fill_bank(settings)
    await run(settings, no_engine())
    figures = summary_of(tmp_path / "out")["data"]["digits/iid"]["auto-traffic(descriptions=6;keep=2)"]
    assert figures["scored_tokens"] > 0


async def test_an_interrupted_run_continues_and_comes_to_the_same(tmp_path: Path) -> None:
    data = data_file(tmp_path / "set" / "q.jsonl", 24)
    changed: dict[str, Any] = {
        "data": (str(data),),
        "n": 24,
        "methods": "direct,sc@4,mirl(descriptions=4;keep=2)",
    }
    whole = settings_of(tmp_path / "whole", **changed)
    await run(whole, engine_factory(engine()))
    broken = settings_of(tmp_path / "broken", **changed)
    fails = FakeEngine(
        descriptions=[described("red", -0.1, -2.0), described("blue", -0.2, -0.3)],
        chains=_breaks_after(250),
    )
    with pytest.raises(EngineError, match="worn out"):
        await run(broken, engine_factory(fails))
    banked = Bank.existing(tmp_path / "broken" / "bank").keys("q.jsonl")
    assert 0 < len(banked) < 24
    again = engine()
    await run(broken, engine_factory(again))
    assert again.closed
    # A describe call for every question that was not there, and one for each's greedy trajectory.
    assert len(again.of_kind("describe")) == 2 * (24 - len(banked))
    expected, resumed = summary_of(tmp_path / "whole"), summary_of(tmp_path / "broken")
    assert expected["data"] == resumed["data"]


def _breaks_after(count: int) -> Any:
    left = [count]

    def script(suffix: str, branch: int) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise EngineError("worn out")
        return chain("1" if "red" in suffix else "2")

    return script


async def test_live_runs_stand_beside_their_replay_and_are_not_repeated(tmp_path: Path) -> None:
    data = data_file(tmp_path / "set" / "q.jsonl", 5)
    live = "mirl(descriptions=4;keep=2),sc@4"
    settings = settings_of(tmp_path / "out", data=(str(data),), methods="direct,sc@4", live=live, live_n=3)
    await run(settings, engine_factory(engine()))
    summary = summary_of(tmp_path / "out")
    assert list(summary["data"]["q.jsonl"]) == ["direct", "sc@4", "mirl(descriptions=4;keep=2)"]
    both = summary["live"]["q.jsonl"]["mirl(descriptions=4;keep=2)"]
    assert both["live"]["n"] == both["replay"]["n"] == 3
    # The engine is scripted: the pipeline and its replay must agree to the token.
    for name in ("accuracy", "scored_tokens", "complete_trajectories"):
        assert both["live"][name] == pytest.approx(both["replay"][name]), name
    assert both["live"]["engine_seconds"] > 0
    assert both["replay"]["engine_seconds"] is None
    assert "Live against replay" in (tmp_path / "out" / "report.md").read_text()
    await run(settings, no_engine())
    assert summary_of(tmp_path / "out")["live"] == summary["live"]


async def test_unusable_descriptions_fall_back_and_count(tmp_path: Path) -> None:
    data = data_file(tmp_path / "set" / "q.jsonl", 2)
    dumb = FakeEngine(descriptions=[FakeText("no end", -1.0)], plain=[chain("1")])
    settings = settings_of(tmp_path / "out", data=(str(data),), methods="mirl(descriptions=4;keep=2)")
    await run(settings, engine_factory(dumb))
    summary = summary_of(tmp_path / "out")
    assert summary["data"]["q.jsonl"]["mirl(descriptions=4;keep=2)"]["accuracy"] == 1
    assert summary["selection"]["q.jsonl"] == []


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"methods": "sc@16"}, "descriptions", "--descriptions 16"),
        ({"methods": "mirl(descriptions=4;forks=5)"}, "forks", "--forks 5"),
        ({"methods": "nonsense"}, "methods", "nonsense"),
        ({"data": ("digits/ood",)}, "data", "digits/ood"),
        ({"data": ("digits/iid", "digits/iid")}, "data", "twice"),
        ({"part": "train"}, "part", "train"),
        ({"estimators": ("texts",)}, "estimators", "texts"),
        ({"live": "oracle(descriptions=4)"}, "live", "oracle"),
        ({"live": "greedy"}, "live", "greedy"),
    ],
)
async def test_wrong_settings_name_the_field_before_anything_is_sampled(
    tmp_path: Path, changed: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        await run(settings_of(tmp_path / "out", **changed), no_engine())
    assert caught.value.param == field


async def test_oracle_needs_data_that_knows_right_descriptions(tmp_path: Path) -> None:
    data = data_file(tmp_path / "set" / "q.jsonl", 2)
    settings = settings_of(tmp_path / "out", data=(str(data),), methods="oracle(descriptions=4)")
    with pytest.raises(ConfigError, match="leave out oracle"):
        await run(settings, no_engine())


async def test_a_bank_of_another_seed_is_refused(tmp_path: Path) -> None:
    fill_bank(settings_of(tmp_path / "out"))
    with pytest.raises(ConfigError, match="output folder"):
        await run(settings_of(tmp_path / "out", seed=1), no_engine())


def test_live_options_do_what_the_method_replays(tmp_path: Path) -> None:
    setup = RunSetup(settings_of(tmp_path / "out"))
    sc, stop, direct, gated = setup.methods("sc@5,sc@5+stop,direct,confidence(keep=2)")
    plain = live_options(sc, setup)
    assert (plain.gate, plain.descriptions, plain.forks, plain.early_stop) == ("none", 5, 1, False)
    assert live_options(stop, setup).early_stop
    assert live_options(direct, setup).descriptions == 1
    assert (live_options(gated, setup).gate, live_options(gated, setup).keep) == ("confidence", 2)


def test_chains_that_saw_something_else_are_not_calibrated(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "out")
    model_folder(settings.model, calibration={"intercept": 0, "vote_share": 1, "distinct_share": 1})
    for fork_image, calibrated in (("keep", True), ("drop", False)):
        (method,) = RunSetup(replace(settings, fork_image=fork_image)).methods("mirl")
        assert isinstance(method, Gated)
        assert (method.calibration is not None) is calibrated


def test_names_are_a_list_with_commas() -> None:
    assert names(" a, b,,c ") == ("a", "b", "c")
