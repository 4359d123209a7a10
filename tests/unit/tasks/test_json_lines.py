"""JSON lines end at "\\n" alone, whatever other line ends and marks they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.calibration.run import read_mirl_json
from mirl_core.evaluation.measures.outcomes import read_rows, write_rows
from mirl_core.tasks.data import open_data
from mirl_core.tasks.data.mappings import Mapping, read_mapping
from mirl_core.tasks.json_lines import numbered_lines, parse_line
from mirl_core.training.recipe import read_yaml
from mirl_core.training.rl.report.monitor import Lines, cut_back, read_lines
from tests.unit.evaluation.run.run_cases import data_file

MARK = "\ufeff"
ENDS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r"
TEXTS = st.text(st.sampled_from('ab 1\t\n"\\é' + MARK + ENDS) | st.characters(codec="utf-8"), min_size=1)


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "set.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4), end=st.sampled_from(["\n", "\r\n"]), escaped=st.booleans()
)
@example(texts=[ENDS], end="\n", escaped=False)
def test_any_text_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], end: str, escaped: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    lines = [json.dumps({"text": text}, ensure_ascii=escaped) for text in texts]
    for content in (
        end.join(lines),
        end.join(lines) + end,
        MARK + end.join(lines),
        end.join(["", *lines, " "]),
    ):
        path = file(folder, content)
        assert [parse_line(line)["text"] for _, line in numbered_lines(path)] == texts
    # What was appended and never finished is left out.
    path = file(folder, "".join(f"{line}\n" for line in lines) + '{"text": "unfin')
    assert [parse_line(line)["text"] for _, line in numbered_lines(path, appended=True)] == texts


def test_every_reader_takes_every_line_end(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": 1, "text": ENDS}, {"step": 2, "text": MARK + "a"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    log = Lines(tmp_path / "log.jsonl")
    for row in rows:
        log.log(row["step"], row)
    log.close()
    assert read_lines(tmp_path / "log.jsonl") == rows
    cut_back(tmp_path / "log.jsonl", 1)
    assert read_lines(tmp_path / "log.jsonl") == rows[:1]


@pytest.mark.parametrize("end", list(ENDS))
def test_a_data_files_questions_hold_any_line_end(tmp_path: Path, end: str) -> None:
    data_file(tmp_path / "pictures.jsonl", 1)
    line = {"image": "red.png", "question": f"What is the sum{end}of all?", "answer": f"27{end}"}
    text = json.dumps(line, ensure_ascii=False)
    for content in (text, f"{MARK}{text}\n", f"{text}\n{MARK}{text}\n", f"\n{text}\r\n"):
        questions = open_data(str(file(tmp_path, content)), "test", None, 0).questions
        assert {question.text for question in questions} == {line["question"]}
        assert len(questions) == content.count("{")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n\xff\n", "line 2: not UTF-8 at byte 1 of the line"),
        ('{"image": "red.png", "question": "?", "answer": "1"}'.encode("utf-16"), "line 1: not UTF-8"),
        ("[" * 100_000, "line 1: not JSON: nested too deeply"),
        ('{"answer": ' + "1" * 5000 + "}", "line 1: not JSON: Exceeds the limit"),
        ('{"image": "red.png"}\r{"image": "red.png"}', "line 1: not JSON: Extra data"),
        (
            '{"image": "red.png", "question": "\\ud83d", "answer": "1"}',
            "line 1: question: Input should be a valid string",
        ),
        (
            '{"image": "red.png", "question": "?", "answer": "1", "choices": ["\\udc00"]}',
            "line 1: choices: holds half a character",
        ),
    ],
)
def test_what_is_no_json_line_is_named_by_its_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    data_file(tmp_path / "pictures.jsonl", 1)
    with pytest.raises(ConfigError, match=words) as caught:
        open_data(str(file(tmp_path, content)), "test", None, 0)
    assert "\n" not in caught.value.message


def test_settings_and_recipes_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "mirl.json").write_text('{"temperature": 0.5}', encoding="utf-8-sig")
    loaded = ModelSettings.load(tmp_path)
    assert loaded is not None
    assert loaded.temperature == 0.5
    assert read_mirl_json(tmp_path, tmp_path / "none.json") == {"temperature": 0.5}
    (tmp_path / "recipe.yaml").write_text("steps: 3\n", encoding="utf-8-sig")
    assert read_yaml(tmp_path / "recipe.yaml") == {"steps": 3}
    (tmp_path / "mapping.yaml").write_text("question: ask\n", encoding="utf-8-sig")
    assert read_mapping(tmp_path / "mapping.yaml", Mapping()).question == "ask"
