"""JSON-lines data sets."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import open_data
from mirl_core.tasks.data.files import read_image
from mirl_core.tasks.questions import is_right


def png(colour: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def write(folder: Path, *lines: dict[str, Any] | str) -> str:
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "a.png").write_bytes(png())
    path = folder / "set.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


GOOD = {"image": "pictures/a.png", "question": "What colour?", "answer": "red"}


def test_a_file_is_read(tmp_path: Path) -> None:
    name = write(
        tmp_path,
        GOOD,
        "",
        {"image": data_url(png("blue")), "question": "Sum?", "answer": 12, "id": "sum", "family": "sums"},
        GOOD | {"answer": "cat", "choices": ["dog", "cat"]},
    )
    data = open_data(name, "test", None, 0)
    plain, summed, picked = data.questions
    assert (data.name, data.part) == (name, "test")
    assert [q.key for q in data.questions] == ["set-000001", "sum", "set-000004"]
    assert plain.image().getpixel((0, 0)) == (255, 0, 0)
    assert summed.image().getpixel((0, 0)) == (0, 0, 255)
    assert (summed.family, summed.clusters, summed.answer) == ("sums", (), "12")
    assert picked.text == "What colour?\nA. dog\nB. cat"
    assert is_right(picked, "(b)")
    assert is_right(picked, "Cat.")
    assert not is_right(picked, "dog")
    assert is_right(summed, "twelve")


def test_unlabelled_questions_are_for_readers_that_want_them(tmp_path: Path) -> None:
    bare = {name: value for name, value in GOOD.items() if name != "answer"}
    name = write(tmp_path, GOOD, bare, bare | {"choices": ["dog", "cat"]}, bare | {"answer": None})
    data = open_data(name, "test", None, 0, unlabelled=True)
    assert [q.answer for q in data.questions] == ["red", "", "", ""]
    assert data.questions[2].text == "What colour?\nA. dog\nB. cat"
    for question in data.questions[1:]:
        for answer in ("", "red", "A", None):
            assert not is_right(question, answer)
    with pytest.raises(ConfigError, match="line 2: answer: Field required") as caught:
        open_data(name, "test", None, 0)
    assert caught.value.param == "answer"
    with pytest.raises(ConfigError, match="line 2: answer"):
        open_data(write(tmp_path, GOOD, GOOD | {"answer": ""}), "test", None, 0, unlabelled=True)


def test_a_sample_depends_on_the_seed_and_only_grows(tmp_path: Path) -> None:
    name = write(tmp_path, *[GOOD | {"id": f"q{n}"} for n in range(40)])

    def keys(limit: int | None, seed: int) -> list[str]:
        return [q.key for q in open_data(name, "dev", limit, seed).questions]

    assert keys(None, 7) == [f"q{n}" for n in range(40)]
    assert keys(5, 7) == keys(12, 7)[:5]
    assert keys(12, 7) != keys(12, 8)
    assert sorted(keys(99, 7)) == sorted(keys(None, 0))


def test_a_file_may_be_too_short_to_skip_from(tmp_path: Path) -> None:
    name = write(tmp_path, *[GOOD | {"id": f"q{n}"} for n in range(4)])
    assert [q.key for q in open_data(name, "dev", None, 0, skip=3).questions] == ["q3"]
    with pytest.raises(ConfigError, match=r"skip: .* has only 4 questions$") as refused:
        open_data(name, "dev", 10, 0, skip=4)
    assert refused.value.param == "skip"


@pytest.mark.parametrize(
    ("line", "field", "complaint"),
    [
        ("{", "data", "line 2: not JSON"),
        ({"image": "pictures/a.png", "question": "?"}, "answer", "line 2: answer: Field required"),
        (GOOD | {"answer": ""}, "answer", "line 2: answer"),
        (GOOD | {"answer": True}, "answer", "line 2: answer"),
        (GOOD | {"choises": ["a"]}, "choises", "unknown key 'choises'; known keys: answer, choices"),
        (GOOD | {"image": "b.png"}, "image", "line 2: image: there is no file '.*b.png'"),
        (GOOD | {"choices": ["dog", "cat"]}, "answer", "line 2: answer: 'red' is none of the choices"),
        (GOOD | {"choices": ["B", "A"], "answer": "A"}, "answer", "one option's letter and another's text"),
        (GOOD | {"id": "set-000001"}, "id", "line 2: id: 'set-000001' has been on an earlier line"),
        ("[1]", "", "line 2: "),
    ],
)
def test_a_mistake_is_one_line_with_line_and_field(
    tmp_path: Path, line: dict[str, Any] | str, field: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        open_data(write(tmp_path, GOOD, line), "test", None, 0)
    assert caught.value.param == field
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "image", [data_url(b"no picture"), "data:image/png,plain", "data:image/png;base64,§§", "pictures/cut.png"]
)
def test_a_broken_picture_is_reported_when_it_is_opened(tmp_path: Path, image: str) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cut.png").write_bytes(png()[:50])
    (question,) = open_data(write(tmp_path, GOOD | {"image": image}), "test", None, 0).questions
    with pytest.raises(ConfigError, match=r"set.jsonl: line 1: image: can't be read") as caught:
        question.image()
    assert caught.value.param == "image"


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no questions"):
        open_data(write(tmp_path, ""), "test", None, 0)
    with pytest.raises(ConfigError, match="can't read"):
        open_data(str(tmp_path / "none.jsonl"), "test", None, 0)


def test_pictures_become_rgb_with_white_behind_what_is_transparent() -> None:
    clear = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(clear, "PNG")
    assert read_image(clear.getvalue()).getpixel((0, 0)) == (255, 255, 255)
    deep = io.BytesIO()
    Image.new("I;16", (2, 2), 128 * 256).save(deep, "PNG")
    assert read_image(deep.getvalue()).getpixel((0, 0)) == (128, 128, 128)
