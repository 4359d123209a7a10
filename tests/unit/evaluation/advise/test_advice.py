"""From banked questions to the advice, its words, its tables and its mirl.json."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.evaluation.advise.advice import Advice
from mirl_core.evaluation.advise.candidates import candidates, estimators_of, methods_text
from mirl_core.evaluation.advise.report import WIDTH, plain, terminal, write_advice
from mirl_core.evaluation.advise.settings import served_settings
from mirl_core.evaluation.advise.words import headline, sentences
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.methods import parse_methods, replay_draws
from tests.unit.evaluation.advise.advise_cases import decoding_question, weighed


def world(count: int, greedy: float, skill: float = 0.6, data: str = "digits/iid") -> list[BankedQuestion]:
    """Questions of which greedy decoding and decodes answer a share `greedy` right."""
    rng = random.Random(f"world-{greedy}")
    return [decoding_question(n, rng.random() < greedy, data, skill=skill) for n in range(count)]


@pytest.fixture(scope="module")
def votes_pay() -> Advice:
    return weighed({"digits/iid": world(80, 0.2, skill=0.75)})


@pytest.fixture(scope="module")
def greedy_pays() -> Advice:
    return weighed({data: world(80, 0.97, 0.4, data) for data in ("digits/iid", "digits/shifted")})


@pytest.fixture(scope="module")
def too_small() -> Advice:
    return weighed({"digits/iid": world(60, 0.9)})


@pytest.fixture(scope="module")
def unlabelled() -> Advice:
    from dataclasses import replace

    return weighed({"digits/iid": [replace(line, truth="") for line in world(60, 0.9)]})


def text_of(advice: Advice) -> str:
    return " ".join(sentences(advice))


def test_votes_are_advised_where_they_gain_with_certainty(votes_pay: Advice) -> None:
    assert votes_pay.advised is not None
    assert votes_pay.decision is not None
    greedy, advised = votes_pay.figures("greedy"), votes_pay.figures(votes_pay.advised.name)
    assert advised.over_greedy is not None
    assert advised.over_greedy.low > 0.01
    assert {"greedy", "fast"} <= set(votes_pay.decision.ruled_out)
    assert advised.tokens.mean > greedy.tokens.mean
    for name, rival in votes_pay.decision.ruled_out.items():
        assert rival.gain.low > 0.01, name
    assert headline(votes_pay) == f"Use {votes_pay.advised.name}"
    assert "is better than greedy by +" in text_of(votes_pay)


def test_greedy_is_advised_where_nothing_gains(greedy_pays: Advice) -> None:
    assert greedy_pays.advised is not None
    assert greedy_pays.advised.name == "greedy"
    assert headline(greedy_pays) == "Use greedy"
    assert "NAME:direct at temperature 0" in text_of(greedy_pays)
    assert "flatter" in text_of(greedy_pays)
    assert list(greedy_pays.by_data) == ["digits/iid", "digits/shifted"]
    whole, iid, shifted = (
        next(figures for figures in methods if figures.name == "greedy").accuracy
        for methods in (greedy_pays.methods, *greedy_pays.by_data.values())
    )
    assert whole is not None
    assert iid is not None
    assert shifted is not None
    assert (whole.n, iid.n, shifted.n) == (160, 80, 80)
    assert whole.mean == pytest.approx((iid.mean + shifted.mean) / 2)


def test_chains_that_slip_get_votes_of_their_own(votes_pay: Advice) -> None:
    # Two chains of a description, right at .88 or .12 each, agree about four times in five.
    assert votes_pay.measures["slips"].estimate.low > 0.1
    assert not votes_pay.share_chains
    assert [c.method for c in votes_pay.candidates if c.name == "steered"] == ["steered(share_chains=false)"]
    assert "Give every vote a separate chain (share_chains false)" in text_of(votes_pay)


def test_a_small_sample_decides_nothing(too_small: Advice) -> None:
    assert too_small.decision is not None
    assert too_small.decision.too_small
    assert too_small.advised is None
    assert headline(too_small) == "Too few questions to decide"
    assert "The sample decides nothing" in text_of(too_small)
    assert "questions would decide" in text_of(too_small)
    assert "flatter" not in text_of(too_small)
    few = weighed({"digits/iid": world(20, 0.2)})
    assert "20 questions with an answer are too few; it takes 50." in text_of(few)


def test_without_answers_the_label_free_figures_remain(unlabelled: Advice, too_small: Advice) -> None:
    assert (unlabelled.questions, unlabelled.labelled) == (60, 0)
    assert (unlabelled.decision, unlabelled.advised) == (None, None)
    free = {"unusable", "distinct", "unanswered", "slips", "follows", "changed", "agreement"}
    assert set(unlabelled.measures) == free
    for key in free:
        assert unlabelled.measures[key] == too_small.measures[key]
    assert unlabelled.share_chains == too_small.share_chains
    for figures in unlabelled.methods:
        assert figures.accuracy is figures.over_greedy is figures.over_votes is None
        assert figures.tokens.mean > 0
    assert "16 votes change the greedy answer in" in text_of(unlabelled)
    assert "right, %" not in terminal(unlabelled)


def test_questions_without_an_answer_only_count_where_none_is_needed() -> None:
    from dataclasses import replace

    lines = world(60, 0.6)
    some = [replace(line, truth="") if number < 30 else line for number, line in enumerate(lines)]
    mixed, half = weighed({"a": some}), weighed({"a": lines[30:]})
    assert (mixed.questions, mixed.labelled) == (60, 30)
    assert mixed.measures["greedy"] == half.measures["greedy"]
    assert mixed.measures["slips"].estimate.n == 60
    assert mixed.figures("sc@8").accuracy == half.figures("sc@8").accuracy


@pytest.mark.parametrize("name", ["votes_pay", "greedy_pays", "too_small", "unlabelled"])
def test_the_report(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    advice: Advice = request.getfixturevalue(name)
    shown = terminal(advice)
    assert max(map(len, shown.splitlines())) <= WIDTH == 80
    facts = {"model": "tiny", "data": list(advice.by_data), "command": "mirl-eval advise"}
    files = write_advice(tmp_path / "out", advice, facts)
    assert [path.name for path in files] == [
        "advice.json",
        "advice.md",
        *["advice.png"] * bool(advice.labelled),
    ]
    record = json.loads((tmp_path / "out" / "advice.json").read_text())
    assert record["advised"] == (advice.advised.name if advice.advised else None)
    assert record["words"] == sentences(advice)
    assert record["measures"]["slips"]["n"] == advice.measures["slips"].estimate.n
    page = (tmp_path / "out" / "advice.md").read_text()
    assert page == plain(advice, facts)
    assert page.startswith(f"# {headline(advice)}\n")
    for text in sentences(advice):
        assert text in page
        assert text in " ".join(shown.split())
    for figures in advice.methods:
        assert f"{figures.name} |" in page
    assert ("advice.png" in page) == bool(advice.labelled)
    if advice.labelled:
        assert (tmp_path / "out" / "advice.png").stat().st_size > 5000
    marked = [line for line in shown.splitlines() if line.startswith("*") and "advised" not in line]
    assert len(marked) == (advice.advised is not None)


@pytest.mark.parametrize("share_chains", [True, False])
@pytest.mark.parametrize(
    "before",
    [
        {},
        {"keep": 1, "forks": 1, "waves": True, "wave": 5, "contrast": [0.0, 1.0], "prior_votes": [1, 2]},
        {"preset": "triple", "distinct": True, "gate": "random", "share_chains": False},
    ],
)
def test_the_settings_serve_what_was_measured(before: dict[str, Any], share_chains: bool) -> None:
    line = decoding_question(3, True)
    model = ModelSettings()
    draws = replay_draws(line, 3, 0)
    compared = candidates(model, share_chains)
    assert [candidate.name for candidate in compared if candidate.options is None] == ["adaptive@16"]
    for candidate in compared:
        if candidate.options is None:
            continue
        written = served_settings({"options": before}, candidate, share_chains)
        options = MIRLOptions.model_validate(written["options"])
        assert options.share_chains is share_chains
        (served,) = parse_methods("mirl", ModelSettings(options=options))
        (measured,) = parse_methods(candidate.method, model)
        for draw in draws:
            ours, theirs = served.play(line, draw), measured.play(line, draw)
            assert (ours.answer, ours.right) == (theirs.answer, theirs.right), candidate.name
            # A server stops a vote that is decided.
            assert ours.generated_tokens <= theirs.generated_tokens


def test_settings_keep_what_does_not_decide_an_answer() -> None:
    (waves,) = [candidate for candidate in candidates(ModelSettings(), True) if candidate.name == "waves"]
    before = {
        "instruction": "Look.",
        "temperature": 0.6,
        "options": {"description_tokens": 64, "timeout": 9.0, "estimator": "blank", "keep": 3},
        "calibration": {"intercept": 1.0, "vote_share": 2.0, "distinct_share": 0.0},
    }
    written = served_settings(before, waves, True)
    options = {"preset": "waves", "description_tokens": 64, "timeout": 9.0, "estimator": "blank"}
    assert written == {"instruction": "Look.", "temperature": 0.6, "options": options}
    # The calibration is that of these options.
    again = served_settings({**written, "calibration": before["calibration"]}, waves, True)
    assert again["calibration"] == before["calibration"]
    assert "calibration" not in served_settings(again, waves, False)
    (paper,) = [candidate for candidate in candidates(ModelSettings(), True) if candidate.name == "paper"]
    # The paper's estimator is part of the preset.
    assert served_settings(before, paper, True)["options"] == {
        "preset": "paper",
        "description_tokens": 64,
        "timeout": 9.0,
    }


def test_candidates_fit_the_model() -> None:
    drops = ModelSettings(options=MIRLOptions(fork_image="drop", estimator="blank"))
    assert "paper" in methods_text(ModelSettings()).split(",")
    assert "paper" not in methods_text(drops).split(",")
    assert estimators_of(ModelSettings()) == ("text",)
    assert estimators_of(drops) == ("blank", "text")
    assert methods_text(drops).count("steered") == 2
