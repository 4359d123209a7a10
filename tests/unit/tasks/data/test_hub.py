"""Hugging Face data sets under a mapping of one's own: cells, samples, mistakes, an unreachable hub."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import datasets
import pytest

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import DataSet, is_right
from tests.unit.tasks.data.hub_cases import BLUE, RED, Row, colour, encoded, go_offline, store


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)


OWN = """
splits: {dev: train}
image: [pictures, spare]
question: ask
template: "{hint}: {question}\\n{choices}\\nLetter?"
answer: right
answer_form: index
choices: [A, B, C]
"""


def own(tmp_path: Path, rows: list[Row], mapping: str = OWN, **more: Any) -> DataSet:
    kinds = dict.fromkeys(["hint", "ask", "A", "B", "C"], "text")
    kinds |= {"pictures": datasets.List(datasets.Image()), "spare": datasets.Value("binary"), "right": "int"}
    store(tmp_path / "own-set", "train", rows, kinds)
    (tmp_path / "own.yaml").write_text(mapping)
    name = f"hf:{tmp_path / 'own-set'}"
    return open_data(name, "dev", more.get("limit"), more.get("seed", 0), tmp_path / "own.yaml")


ROW: Row = {"hint": "Look", "ask": "Which?", "A": "dog", "B": "cat", "pictures": [RED], "right": 1}


def test_a_mapping_of_ones_own(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"pictures": [RED, BLUE], "spare": encoded(BLUE), "C": "cow", "right": 2}]
    data = own(tmp_path, rows)
    two, three = data.questions
    assert two.text == "Look: Which?\nA. dog\nB. cat\nLetter?"
    assert three.choices == ("dog", "cat", "cow")
    assert [is_right(two, "B"), is_right(two, "cat"), is_right(two, "A"), is_right(three, "cow")] == [
        True, True, False, True,
    ]  # fmt: skip
    assert [image.size for image in three.conversation().images] == [(6, 4), (5, 3), (5, 3)]
    assert [q.key for q in data.questions] == ["own-set-000000", "own-set-000001"]


def test_a_sample_of_rows_by_seed(tmp_path: Path) -> None:
    rows = [ROW | {"ask": str(n)} for n in range(30)]
    few, more, other = (own(tmp_path, rows, limit=n, seed=s) for n, s in ((4, 1), (9, 1), (9, 2)))
    assert [q.key for q in few.questions] == [q.key for q in more.questions][:4]
    assert {q.key for q in more.questions} != {q.key for q in other.questions}


PLAIN = base64.b64encode(encoded(BLUE)).decode()


@pytest.mark.parametrize(
    ("cell", "good"),
    [(f"data:image/png;base64,{PLAIN}", True), (PLAIN, True), ("no/picture.png", False), (3, False)],
    ids=["url", "base64", "path", "number"],
)
def test_pictures_in_columns_of_text(tmp_path: Path, cell: Any, good: bool) -> None:
    kinds = {"image": "text" if isinstance(cell, str) else "int", "question": "text", "answer": "text"}
    store(tmp_path / "set", "test", [{"image": cell, "question": "?", "answer": "a"}], kinds)
    (tmp_path / "m.yaml").write_text("key: []")
    (question,) = open_data(f"hf:{tmp_path / 'set'}", "test", None, 0, tmp_path / "m.yaml").questions
    if good:
        assert colour(question.image()) == (0, 0, 255)
    else:
        with pytest.raises(ConfigError, match="row 0: image: can't be read"):
            question.image()


@pytest.mark.parametrize(
    ("rows", "mapping", "field", "complaint"),
    [
        (
            [ROW],
            OWN.replace("ask", "asked"),
            "question",
            "question: there is no column 'asked'; there are: ",
        ),
        ([ROW], OWN.replace("{hint}", "{help}"), "template", "template: there is no column 'help'"),
        ([ROW], OWN.replace("train", "validation"), "data", r"can't load .*own-set, split validation: "),
        ([ROW], OWN + "configs: [one]", "data", r"can't load .*own-set \(one\), split train: "),
        ([ROW], OWN + "where: {hint: [none]}", "data", "holds no questions"),
        ([ROW | {"pictures": []}], OWN, "image", "row 0: pictures, spare: there is no picture"),
        ([ROW, ROW | {"right": 2}], OWN, "answer", "row 1: right: '2' is none of 2 choices"),
        ([ROW | {"right": None}], OWN, "answer", "row 0: right: there is no answer"),
        ([ROW], OWN + "shuffle: true", "shuffle", "unknown key 'shuffle'; known keys: answer, answer_form"),
        ([ROW], OWN + "tolerance: 5", "tolerance", "tolerance: Input should be less than 1"),
        ([ROW], "like: mathvisto", "like", "like: 'mathvisto' is none of mathvista"),
        ([ROW], "[1]", "mapping", "must hold keys"),
        ([ROW], "a: b: c", "mapping", "mapping: can't read"),
    ],
)
def test_mistakes_are_one_line_and_name_the_field(
    tmp_path: Path, rows: list[Row], mapping: str, field: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        own(tmp_path, rows, mapping)
    assert caught.value.param == field
    assert "\n" not in caught.value.message


def test_like_takes_a_ready_mapping_but_its_path(tmp_path: Path) -> None:
    kinds = dict.fromkeys(["id", "question", "answer", "image_source", "category"], "text") | {
        "image": "image"
    }
    row = {"id": "7", "question": "?", "answer": "yes", "image": RED}
    store(tmp_path / "copy", "test", [row], kinds)
    (tmp_path / "m.yaml").write_text("like: pope")
    (question,) = open_data(f"hf:{tmp_path / 'copy'}", "test", None, 0, tmp_path / "m.yaml").questions
    assert question.key == "copy-7"


def test_an_unreachable_hub_and_unknown_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hf:pope: can't load lmms-lab/POPE, split test: ") as caught:
        open_data("hf:pope", "test", 5, 0)
    assert "\n" not in caught.value.message
    with pytest.raises(
        ConfigError, match=r"hf:poppe has no ready mapping; give --mapping FILE.yaml, or one of"
    ):
        open_data("hf:poppe", "test", 5, 0)
    with pytest.raises(ConfigError, match="only hf: data sets take a mapping"):
        open_data("digits/iid", "test", 5, 0, tmp_path / "m.yaml")
