"""`questions.html`: what the bank and the lines of questions say, in one bounded and harmless file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirl_core.config import ModelSettings
from mirl_core.evaluation.bank.records import BankedDecoded, BankedQuestion
from mirl_core.evaluation.methods import Method, parse_methods, replay_draws
from mirl_core.evaluation.methods.replay_bank import replay
from mirl_core.evaluation.report.browser import PAGE, Browsed, browse_folder, write_browser
from mirl_core.evaluation.report.browser.pictures import keep_pictures, pictures_of
from mirl_core.evaluation.run.command import run
from mirl_core.tasks.plotting import method_colour
from mirl_core.tasks.questions import Question
from tests.unit.evaluation.run.run_cases import fill_bank, no_engine, settings_of
from tests.unit.evaluation.synthetic import banked_question, banked_questions

METHODS = "sc@16,sc@4,greedy,mirl(descriptions=6;keep=2;forks=2)"
GATE = "mirl(descriptions=6;keep=2;forks=2)"
EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)>"
SUMMARY = {"model": "made-up", "part": "test", "seed": 0}


class Scripts(HTMLParser):
    """The page's tags, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def methods_of(text: str) -> tuple[Method, ...]:
    return parse_methods(text, ModelSettings())


def browsed(questions: Sequence[BankedQuestion], methods: str = METHODS) -> Browsed:
    return Browsed(questions[0].data, replay(questions, methods_of(methods), 3, 0), questions)


def payload(page: Path) -> Any:
    return json.loads(Scripts(page.read_text()).scripts[0])


def written(folder: Path, *data: Browsed, methods: str = METHODS, **bounds: int) -> Any:
    return payload(write_browser(folder, SUMMARY, methods_of(methods), data, **bounds))


def chains_of(question: Mapping[str, Any], method: str) -> list[str | None]:
    """The answers of a method's chains, sorted."""
    ended = [chain for row in question["methods"][method]["rows"] for chain in row[4] if chain]
    texts = [question["answers"][index][0] if index >= 0 else None for index, _ in ended]
    return sorted(texts, key=str)


def test_outcomes_are_those_of_the_lines(tmp_path: Path) -> None:
    data = browsed(banked_questions(5))
    page = written(tmp_path, data)
    assert page["data"] == [{"name": "digits/iid", "shown": 5, "all": 5}]
    assert [(entry["name"], entry["colour"]) for entry in page["methods"]] == [
        (name, method_colour(name)) for name in ("sc@16", "sc@4", "greedy", GATE)
    ]
    for shown, row in zip(page["questions"], data.rows, strict=True):
        assert (shown["key"], shown["truth"], shown["family"]) == (row["key"], row["truth"], row["family"])
        for name, outcomes in row["methods"].items():
            method = shown["methods"][name]
            answer = shown["answers"][method["answer"]] if method["answer"] >= 0 else [None, False]
            assert answer[:2] == [outcomes["answer"][0], bool(outcomes["right"][0])]
            assert method["right"] == bool(outcomes["right"][0])
            assert method["confidence"] == outcomes["confidence"][0]
            assert (method["generated"], method["scored"]) == (
                outcomes["generated_tokens"][0],
                outcomes["scored_tokens"][0],
            )
            assert (method["rights"], method["replays"]) == (sum(outcomes["right"]), 3)


def test_descriptions_and_chains_are_the_banks(tmp_path: Path) -> None:
    banked = banked_question(3)
    page = written(tmp_path, browsed([banked]))
    (question,) = page["questions"]
    draw = replay_draws(banked, 3, 0)[0]
    rows = question["methods"]["sc@4"]["rows"]
    texts = sorted(question["descriptions"][row[0]]["text"] for row in rows)
    assert texts == sorted(banked.descriptions[index].text for index in draw.descriptions[:4])
    answers = {(chain.description, chain.fork): chain.answer for chain in banked.chains}
    assert chains_of(question, "sc@4") == sorted(
        (answers[index, draw.forks[0]] for index in draw.descriptions[:4] if (index, 0) in answers), key=str
    )
    by_text = {description.text: description for description in banked.descriptions}
    for shown in question["descriptions"]:
        description = by_text[shown["text"]]
        assert (shown["right"], shown["reason"]) == (description.right, description.reason)


def test_the_cut_is_the_gates(tmp_path: Path) -> None:
    banked = banked_question(3)
    (question,) = written(tmp_path, browsed([banked]))["questions"]
    rows = question["methods"][GATE]["rows"]
    assert [kept for _, kept, *_ in rows] == [True, True, False, False, False, False]
    scores = [score for _, _, score, *_ in rows if score is not None]
    assert scores == sorted(scores, reverse=True)
    # λ = 1 is the options' default: the score is then the description's MI.
    for number, _, score, *_ in rows:
        assert score == question["descriptions"][number]["mi"]
    assert [reason for *_, reason, _ in rows] == [None, None, "gate", "gate", "gate", "gate"]
    # Each kept description has two chains; null stands for those that the vote did without.
    assert [len(chains) for *_, chains in rows] == [2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "name",
    [
        "direct", "sc@8+stop", "adaptive@16", "esc@16", "deepconf@8", "deepconf-low@8", "oracle-answer@4",
        "gate", "waves", "confidence", "random", "none", "oracle", "auto-conflict", "auto-agreement",
        "auto-traffic", "steered(contrast=0;prior_votes=2;descriptions=4)",
    ],
)  # fmt: skip
def test_every_method_shows_the_chains_that_its_answer_comes_from(tmp_path: Path, name: str) -> None:
    questions = [with_decoded(question) for question in banked_questions(4)]
    page = written(tmp_path, browsed(questions, name), methods=name)
    for question in page["questions"]:
        method = question["methods"][name]
        assert method["rows"] is not None
        answer = question["answers"][method["answer"]][0] if method["answer"] >= 0 else None
        assert answer in chains_of(question, name)


def with_decoded(banked: BankedQuestion) -> BankedQuestion:
    """The question with a decoded description: its first usable description, with the chains of that."""
    index = next(index for index, description in enumerate(banked.descriptions) if description.reason is None)
    chains = tuple(replace(chain, description=-1) for chain in banked.chains if chain.description == index)
    decoded = BankedDecoded(0.0, banked.descriptions[index], 0, (0,), (), (), chains)
    return replace(banked, decoded=(decoded,), drafts=(7,))


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    banked = banked_question(1)
    hostile = replace(
        banked,
        question=EVIL,
        truth=EVIL,
        descriptions=tuple(replace(description, text=EVIL) for description in banked.descriptions),
        chains=tuple(replace(chain, answer=EVIL) for chain in banked.chains),
    )
    path = write_browser(tmp_path, SUMMARY | {"model": EVIL}, methods_of(METHODS), [browsed([hostile])])
    page = Scripts(path.read_text())
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    shown = json.loads(page.scripts[0])
    assert shown["model"] == EVIL
    assert shown["questions"][0]["text"] == EVIL
    assert shown["questions"][0]["descriptions"][0]["text"] == EVIL
    assert "innerHTML" not in page.scripts[1]


def test_the_page_names_no_other_host_and_no_other_file(tmp_path: Path) -> None:
    path = write_browser(tmp_path, SUMMARY, methods_of(METHODS), [browsed(banked_questions(2))])
    page = path.read_text()
    assert "://" not in page
    assert "default-src 'none'; img-src data:;" in page
    assert "unsafe-inline" not in page
    assert re.findall(r"(?:src|href)=", page.partition("<body>")[0]) == []


def test_a_bound_on_the_size_leaves_questions_of_every_data_set(tmp_path: Path) -> None:
    sets = [browsed(banked_questions(12, name)) for name in ("digits/iid", "digits/shifted")]
    assert [entry["shown"] for entry in written(tmp_path, *sets, count=5)["data"]] == [5, 5]
    page = written(tmp_path, *sets, largest=20_000)
    counts = [entry["shown"] for entry in page["data"]]
    assert 0 < sum(counts) < 24
    assert abs(counts[0] - counts[1]) <= 1
    assert len(json.dumps(page["questions"], separators=(",", ":"))) < 20_000
    assert [entry["all"] for entry in page["data"]] == [12, 12]


def test_outcomes_that_the_bank_no_longer_replays_to_stand_without_a_story(tmp_path: Path) -> None:
    data = browsed(banked_questions(1))
    data.rows[0]["methods"]["sc@4"]["generated_tokens"][0] += 1
    (question,) = written(tmp_path, data)["questions"]
    assert question["methods"]["sc@4"]["rows"] is None
    assert question["methods"]["sc@16"]["rows"] is not None


def test_pictures_are_kept_inside_the_run(tmp_path: Path) -> None:
    question = Question("../../evil", "?", "1", lambda: Image.new("RGB", (8, 8), (200, 30, 30)))
    keep_pictures(tmp_path / "out", "../digits", [question])
    (kept,) = pictures_of(tmp_path / "out", "../digits", question.key)
    assert kept.startswith("data:image/png;base64,")
    assert pictures_of(tmp_path / "out", "../digits", "other") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


async def test_a_run_writes_the_page_and_report_writes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plots take longer than all else here, and other tests draw them.
    monkeypatch.setattr("mirl_core.evaluation.report.write_report", lambda folder: [])
    settings = settings_of(tmp_path / "out", browse=2, n=3)
    fill_bank(settings)
    await run(settings, no_engine())
    page = tmp_path / "out" / PAGE
    before = page.read_bytes()
    shown = payload(page)
    assert shown["data"] == [{"name": "digits/iid", "shown": 2, "all": 3}]
    assert [len(question["pictures"]) for question in shown["questions"]] == [1, 1]
    assert str(tmp_path) not in before.decode()
    page.unlink()
    assert browse_folder(tmp_path / "out", 2) == page
    assert page.read_bytes() == before
    browse_folder(tmp_path / "out", 2, ["sc@4"])
    assert [method["name"] for method in payload(page)["methods"]] == ["sc@4"]
    # A run of an earlier version kept no pictures: a world draws them again.
    for picture in (tmp_path / "out" / "pictures").rglob("*.img"):
        picture.unlink()
    browse_folder(tmp_path / "out", 2)
    assert page.read_bytes() == before


def test_a_folder_without_a_bank_has_no_page(tmp_path: Path) -> None:
    names = ("data", "comparisons", "reliability", "selection", "length", "causality", "live")
    (tmp_path / "summary.json").write_text(json.dumps({name: {} for name in names}))
    assert browse_folder(tmp_path) is None
    assert not (tmp_path / PAGE).exists()
