"""Every ready mapping, on small files of the published shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import open_data
from mirl_core.tasks.data.mappings import READY
from mirl_core.tasks.questions import DataSet, is_right
from tests.unit.tasks.data.hub_cases import BLUE, RED, colour, go_offline, store


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)


def ready(tmp_path: Path, name: str, changes: str = "", part: str = "test", **more: Any) -> DataSet:
    """The ready mapping, whose path alone is another."""
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(f"path: {tmp_path / 'set'}\n{changes}")
    return open_data(f"hf:{name}", part, more.get("limit"), more.get("seed", 0), mapping)


def test_mathvista(tmp_path: Path) -> None:
    kinds = {
        "pid": "text", "question": "text", "image": "text", "decoded_image": "image",
        "choices": datasets.List(datasets.Value("string")), "unit": "text",
        "precision": datasets.Value("float64"), "answer": "text", "question_type": "text",
        "answer_type": "text",
        "metadata": {"category": datasets.Value("string"), "task": datasets.Value("string")},
        "query": "text",
    }  # fmt: skip
    shared = {
        "image": "images/1.jpg",
        "decoded_image": RED,
        "metadata": {"category": "x", "task": "figure QA"},
    }
    rows = [
        shared
        | {"pid": "1", "question": "How far?", "unit": "m", "precision": 1.0, "answer": "1.2"}
        | {"query": "Hint: one decimal place.\nQuestion: How far? (Unit: m)", "answer_type": "float"},
        shared
        | {"pid": "2", "question": "Which?", "choices": ["145°", "35°"], "answer": "145°"}
        | {
            "query": "Hint: the letter.\nQuestion: Which?\nChoices:\n(A) 145°\n(B) 35°",
            "answer_type": "text",
        },
        shared | {"pid": "3", "query": "Question: Which?", "answer": "[0, 2]", "answer_type": "list"},
        shared | {"pid": "4", "query": "Question: How many?", "answer": "4", "answer_type": "integer"},
    ]
    store(tmp_path / "set", "testmini", rows, kinds)
    far, which, listed, many = ready(tmp_path, "mathvista").questions
    assert [far.key, which.key] == ["mathvista-1", "mathvista-2"]
    assert far.text == "Hint: one decimal place.\nQuestion: How far? (Unit: m)"
    assert far.family == "figure QA"
    assert colour(far.image()) == (255, 0, 0)
    assert [is_right(far, a) for a in ("1.2", "1.21 m", "6/5", "1.3", "far")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert which.text.endswith("(A) 145°\n(B) 35°")
    assert [is_right(which, a) for a in ("A", "(A)", "145°", "35°", "B")] == [True] * 3 + [False] * 2
    assert [is_right(listed, a) for a in ("[0, 2]", "[0,2]", "0")] == [True, True, False]
    assert [is_right(many, a) for a in ("4", "four", "4.4")] == [True, True, False]


def test_mathverse(tmp_path: Path) -> None:
    kinds = {
        "sample_index": "text", "problem_index": "text", "problem_version": "text", "question": "text",
        "image": "image", "answer": "text", "question_type": "text",
        "metadata": {"split": datasets.Value("string"), "subject": datasets.Value("string")},
        "query_wo": "text", "query_cot": "text", "question_for_eval": "text",
    }  # fmt: skip
    question_text = "The angle CED is ()\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°"
    shared = {"problem_index": "1", "image": RED, "answer": "D", "question_for_eval": question_text}
    rows = [
        shared
        | {"sample_index": "1", "problem_version": "Text Dominant", "question": question_text}
        | {
            "query_cot": f"Please first conduct reasoning.\nQuestion: {question_text}",
            "question_type": "multi-choice",
        },
        shared
        | {"sample_index": "5", "problem_version": "Vision Only", "question": ""}
        | {"query_cot": "According to the question shown in the image, answer."},
        shared
        | {"sample_index": "6", "problem_index": "2", "problem_version": "Text Lite", "question": "Find L."}
        | {"query_cot": "Question: Find L.", "question_for_eval": "Find L.", "answer": "14"},
    ]
    store(tmp_path / "set", "testmini", rows, kinds, config="testmini")
    text, vision, free = ready(tmp_path, "mathverse").questions
    assert text.text.count("A:40°") == 1
    assert text.choices == ("40°", "60°", "120°", "140°")
    assert vision.text == "According to the question shown in the image, answer."
    assert (text.family, vision.family) == ("Text Dominant", "Vision Only")
    assert text.clusters == vision.clusters != free.clusters
    for question in (text, vision):
        assert [is_right(question, a) for a in ("D", "140°", "140 degrees", "C", "40°")] == [True] * 3 + [
            False
        ] * 2
    assert [is_right(free, a) for a in ("14", "14.0", "13")] == [True, True, False]


def test_mathvision(tmp_path: Path) -> None:
    kinds = {
        "id": "text", "question": "text", "options": datasets.List(datasets.Value("string")), "image": "text",
        "decoded_image": "image", "answer": "text", "solution": "text", "level": "int", "subject": "text",
    }  # fmt: skip
    rows = [
        {"id": "3", "question": "Which kite has the longest string?\n<image1>", "options": list("ABCDE")}
        | {"image": "images/3.jpg", "decoded_image": BLUE, "answer": "C", "level": 1, "subject": "length"},
        {"id": "4", "question": "How many?\n<image1>", "options": [], "decoded_image": RED}
        | {"answer": "7", "level": 2, "subject": "counting"},
    ]
    store(tmp_path / "set", "test", rows, kinds)
    store(tmp_path / "set", "testmini", rows[:1], kinds)
    kite, many = ready(tmp_path, "mathvision").questions
    assert kite.text == "Which kite has the longest string?\n<image1>\nA. A\nB. B\nC. C\nD. D\nE. E"
    assert many.text == "How many?\n<image1>"
    assert [is_right(kite, "(C)"), is_right(kite, "D"), is_right(many, "seven")] == [True, False, True]
    assert colour(kite.image()) == (0, 0, 255)
    assert [q.key for q in ready(tmp_path, "mathvision", part="testmini").questions] == ["mathvision-3"]
    with pytest.raises(ConfigError, match="hf:mathvision has no part 'dev'; there are: test, testmini"):
        ready(tmp_path, "mathvision", part="dev")


def test_mmmu(tmp_path: Path) -> None:
    pictures = [f"image_{n}" for n in range(1, 8)]
    kinds = {"id": "text", "question": "text", "options": "text", "explanation": "text"}
    kinds |= dict.fromkeys(pictures, "image")
    kinds |= dict.fromkeys(["img_type", "answer", "topic_difficulty", "question_type", "subfield"], "text")
    rows = [
        {"id": "validation_Art_1", "question": "<image 1> Who painted this?", "answer": "B", "image_1": RED}
        | {"options": "['Goya', \"van Gogh's pupil\"]", "subfield": "Painting"},
        {"id": "validation_Art_2", "question": "<image 1> and <image 2>?", "options": "[]", "image_1": RED}
        | {"image_2": BLUE, "answer": "['2/3', '0.67']", "subfield": "Comparison"},
    ]
    other = [{**rows[0], "id": "validation_Math_1", "answer": "A"}]
    store(tmp_path / "set", "validation", rows, kinds, config="Art")
    store(tmp_path / "set", "validation", other, kinds, config="Math")
    data = ready(tmp_path, "mmmu", "configs: [Art, Math]")
    who, both, third = data.questions
    assert who.text == "<image 1> Who painted this?\nA. Goya\nB. van Gogh's pupil"
    assert [is_right(who, "B"), is_right(who, "van Gogh's pupil"), is_right(who, "A")] == [True, True, False]
    assert [is_right(both, a) for a in ("2/3", "0.67", "0.7")] == [True, True, False]
    assert [colour(image) for image in both.conversation().images] == [(255, 0, 0), (0, 0, 255)]
    assert (len(who.conversation().images), third.key) == (1, "mmmu-validation_Math_1")
    assert len(READY["mmmu"].configs) == 30


def test_mmstar(tmp_path: Path) -> None:
    kinds = {
        "index": "int", "question": "text", "image": "image", "answer": "text", "category": "text",
        "l2_category": "text",
        "meta_info": {name: datasets.Value("string") for name in ("source", "split", "image_path")},
    }  # fmt: skip
    where = "Options: A: The case is on the book., B: The case is beneath the cat., C: On the bed., D: No."
    rows = [
        {"index": 0, "question": f"Where is it?\n{where}", "image": RED, "answer": "A", "category": "coarse"},
        {"index": 1, "question": "Hint: A, B, C or D.\nQuestion: m?\nChoices:\n(A) 4\n(B) 5", "image": RED}
        | {"answer": "B", "category": "math"},
    ]
    store(tmp_path / "set", "val", rows, kinds)
    suitcase, maths = ready(tmp_path, "mmstar").questions
    assert suitcase.text == rows[0]["question"]
    assert suitcase.choices[1:] == ("The case is beneath the cat.", "On the bed.", "No.")
    assert [is_right(suitcase, a) for a in ("A", "the case is on the book", "B")] == [True, True, False]
    assert [is_right(maths, a) for a in ("(B)", "5", "4")] == [True, True, False]
    assert (maths.family, maths.key) == ("math", "mmstar-1")


def test_hallusionbench(tmp_path: Path) -> None:
    texts = ["category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id"]
    kinds: dict[str, Any] = dict.fromkeys(
        [*texts, "question", "gt_answer_details", "gt_answer", "filename"], "text"
    )
    kinds["image"] = "image"
    shared = {"category": "VS", "subcategory": "chart", "visual_input": "1", "set_id": "0", "image": RED}
    rows = [
        shared | {"figure_id": "1", "question_id": "0", "question": "Is China first?", "gt_answer": "0"},
        shared | {"figure_id": "2", "question_id": "0", "question": "Is China first?", "gt_answer": "1"},
        shared | {"figure_id": "2", "question_id": "0", "question": "Is China first?", "gt_answer": "1"},
        shared | {"set_id": "1", "figure_id": "1", "question_id": "0", "question": "Up?", "gt_answer": "1"},
    ]
    store(tmp_path / "set", "image", rows, kinds)
    store(tmp_path / "set", "non_image", [row | {"image": None} for row in rows], kinds)
    first, second, again, third = ready(tmp_path, "hallusionbench").questions
    assert [is_right(first, a) for a in ("No.", "no, it is not", "yes")] == [True, True, False]
    assert is_right(second, "Yes")
    assert first.key == "hallusionbench-VS-chart-0-1-0"
    assert again.key == f"{second.key}-2"
    assert first.clusters == second.clusters == again.clusters != third.clusters
    with pytest.raises(ConfigError, match="row 0: image: there is no picture"):
        ready(tmp_path, "hallusionbench", "splits: {test: non_image}")


def test_pope(tmp_path: Path) -> None:
    kinds = dict.fromkeys(["id", "question_id", "question", "answer", "image_source"], "text")
    kinds |= {"image": "image", "category": "text"}
    shared = {"question_id": "1", "question": "Is there a snowboard in the image?", "image": RED}
    rows = [
        shared | {"id": "0", "answer": "yes", "category": "adversarial", "image_source": "COCO_val2014_1"},
        shared | {"id": "3000", "answer": "no", "category": "popular", "image_source": "COCO_val2014_1"},
        shared | {"id": "6000", "answer": "no", "category": "random", "image_source": "COCO_val2014_2"},
    ]
    store(tmp_path / "set", "test", rows, kinds)
    a, b, c = ready(tmp_path, "pope").questions
    assert [is_right(a, "Yes."), is_right(a, "no"), is_right(b, "No, there is none")] == [True, False, True]
    assert a.clusters == b.clusters == ("pope-COCO_val2014_1",) != c.clusters
    assert [q.key for q in ready(tmp_path, "pope", "where: {category: [popular]}").questions] == ["pope-3000"]


def test_chartqa_is_judged_by_relaxed_accuracy(tmp_path: Path) -> None:
    kinds = {
        "image": "image", "query": "text", "label": datasets.List(datasets.Value("string")),
        "human_or_machine": datasets.ClassLabel(names=["human", "machine"]),
    }  # fmt: skip
    rows = [
        {"image": RED, "query": "How many?", "label": ["14"], "human_or_machine": 0},
        {"image": RED, "query": "Which?", "label": ["Yes"], "human_or_machine": 1},
    ]
    store(tmp_path / "set", "test", rows, kinds)
    store(tmp_path / "set", "val", rows[:1], kinds)
    many, which = ready(tmp_path, "chartqa").questions
    assert [is_right(many, a) for a in ("14", "14.7", "14.8", "13.3", "fourteen", "14%")] == [
        True, True, False, True, True, False,
    ]  # fmt: skip
    assert [is_right(which, a) for a in ("yes", "No")] == [True, False]
    assert [many.family, which.family] == ["human", "machine"]
    assert [q.key for q in ready(tmp_path, "chartqa", part="dev").questions] == ["chartqa-000000"]


def test_every_ready_mapping_has_a_test() -> None:
    tested = {name.removeprefix("test_").split("_")[0] for name in globals() if name.startswith("test_")}
    assert set(READY) <= tested
