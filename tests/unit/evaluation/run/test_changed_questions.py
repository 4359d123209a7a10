"""A run into an existing folder after its questions changed: only results of the present ones are used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.store import Bank
from mirl_core.evaluation.measures.comparison import Side, compare_runs
from mirl_core.evaluation.measures.outcomes import read_rows
from mirl_core.evaluation.report.tables import markdown
from mirl_core.evaluation.run.command import run
from mirl_core.evaluation.run.setup import RunSettings, RunSetup
from mirl_core.tasks.model_files import earlier_fingerprint, fingerprint
from tests.unit.evaluation.run.run_cases import engine_factory, model_folder, no_engine, settings_of
from tests.unit.pipeline.pipeline_cases import chain, described

COUNT = 4
Lines = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's plots take most of a small run's time."""
    monkeypatch.setattr("mirl_core.evaluation.report.write_report", lambda folder: ())


def engine() -> FakeEngine:
    return FakeEngine(
        descriptions=[described("red", -0.1, -2.0), described("blue", -0.2, -0.3)],
        chains=lambda suffix, branch: chain("1" if "red" in suffix else "2"),
    )


def write(folder: Path, lines: Lines) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in (("red.png", (200, 30, 30)), ("blue.png", (30, 30, 200))):
        if not (folder / name).exists():
            Image.new("RGB", (8, 8), colour).save(folder / name)
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines() -> Lines:
    return [
        {
            "image": "red.png",
            "question": f"Question {n}?",
            "answer": "1",
            "id": f"q{n}",
            "choices": ["1", "2", "3"],
        }
        for n in range(COUNT)
    ]


def settings(folder: Path, output: str = "out", **changed: Any) -> RunSettings:
    defaults: dict[str, Any] = {
        "data": (str(folder / "set" / "q.jsonl"),),
        "n": COUNT,
        "methods": "direct,sc@4",
        "live": "sc@4",
    }
    return settings_of(folder / output, **(defaults | changed))


def described_questions(fake: FakeEngine) -> int:
    """Questions that the bank sampled: a live run describes once, the bank twice."""
    return len(fake.of_kind("describe")) // 3


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "summary.json").read_text())


def texts(entries: Lines, folder: Path) -> None:
    entries[1]["question"] = "Another question?"


def choice_texts(entries: Lines, folder: Path) -> None:
    entries[1]["choices"] = ["1", "2", "4"]


def no_choices(entries: Lines, folder: Path) -> None:
    del entries[1]["choices"]


def other_picture(entries: Lines, folder: Path) -> None:
    entries[1]["image"] = "blue.png"


def swapped(entries: Lines, folder: Path) -> None:
    """The ids of two questions are exchanged; one of them has another picture."""
    entries[0]["id"], entries[1]["id"] = "q1", "q0"


def drawn_over(entries: Lines, folder: Path) -> None:
    """The file has its old name, size and all: only its pixels are others."""
    path = folder / "red.png"
    before = path.stat()
    Image.new("RGB", (8, 8), (201, 30, 30)).save(path)
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (texts, 1),
        (choice_texts, 1),
        (no_choices, 1),
        (other_picture, 1),
        (swapped, 2),
        (drawn_over, COUNT),
    ],
)
async def test_a_changed_question_is_sampled_again_and_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Lines, Path], None],
    again: int,
) -> None:
    entries = lines()
    write(tmp_path / "set", entries)
    await run(settings(tmp_path), engine_factory(first := engine()))
    assert described_questions(first) == COUNT
    change(entries, tmp_path / "set")
    write(tmp_path / "set", entries)
    capsys.readouterr()
    await run(settings(tmp_path), engine_factory(second := engine()))
    assert described_questions(second) == again
    noted = f"q.jsonl: {again} question{'s' if again > 1 else ''} ("
    assert capsys.readouterr().err.count(noted) == 2, "of the bank and of the live run"
    # The present records are as those of a run into an empty folder.
    await run(settings(tmp_path, "fresh"), engine_factory(engine()))
    rows = [read_rows(tmp_path / name / "questions" / "q.jsonl.jsonl") for name in ("out", "fresh")]
    assert rows[0] == rows[1]
    # Nothing has changed since.
    capsys.readouterr()
    await run(settings(tmp_path), no_engine())
    assert "sampled again" not in capsys.readouterr().err


async def test_a_question_that_changes_back_finds_its_old_record(tmp_path: Path) -> None:
    entries = lines()
    write(tmp_path / "set", entries)
    await run(settings(tmp_path), engine_factory(engine()))
    before = read_rows(tmp_path / "out/questions/q.jsonl.jsonl")
    bank = (tmp_path / "out/bank/q.jsonl.jsonl").read_bytes()
    changed = lines()
    changed[2]["question"] = "For a day only?"
    write(tmp_path / "set", changed)
    await run(settings(tmp_path), engine_factory(engine()))
    write(tmp_path / "set", entries)
    await run(settings(tmp_path), no_engine())
    assert read_rows(tmp_path / "out/questions/q.jsonl.jsonl") == before
    assert (tmp_path / "out/bank/q.jsonl.jsonl").read_bytes().startswith(bank), "a bank is only appended to"
    assert len(Bank.existing(tmp_path / "out/bank").load("q.jsonl")) == COUNT + 1


async def test_a_corrected_truth_judges_the_old_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No sample depends on the truth, so none is made again."""
    entries = lines()
    write(tmp_path / "set", entries)
    await run(settings(tmp_path), engine_factory(engine()))
    for line in entries[:2]:
        line["answer"] = "3"
    entries[0]["family"] = "sums"
    write(tmp_path / "set", entries)
    await run(settings(tmp_path), no_engine())
    assert "2 questions (q0, q1) have another truth" in capsys.readouterr().err.replace("\n", " ")
    rows = {row["key"]: row for row in read_rows(tmp_path / "out/questions/q.jsonl.jsonl")}
    assert not any(any(rows[key]["methods"]["sc@4"]["right"]) for key in ("q0", "q1"))
    assert any(any(rows[key]["methods"]["direct"]["right"]) for key in ("q2", "q3"))
    assert (rows["q0"]["truth"], rows["q0"]["family"]) == ("3", "sums")
    live = summary(tmp_path)["live"]["q.jsonl"]["sc@4"]
    assert 0 < live["live"]["accuracy"] <= 0.5
    assert 0 < live["replay"]["accuracy"] <= 0.5


def strip_content(folder: Path, *further: str) -> None:
    """Make the records under `folder` those of an earlier version."""
    for path in folder.rglob("*.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            for name in ("content", *further):
                record.pop(name, None)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


async def test_an_earlier_versions_bank_is_used_for_the_same_text_and_truth_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = lines()
    write(tmp_path / "set", entries)
    bankless = settings(tmp_path, live="")
    await run(bankless, engine_factory(engine()))
    strip_content(tmp_path / "out" / "bank")
    entries[1]["question"] = "Another question?"
    entries[2]["answer"] = "2"
    write(tmp_path / "set", entries)
    capsys.readouterr()
    await run(bankless, engine_factory(fake := engine()))
    assert len(fake.of_kind("describe")) == 2 * 2, "another text, and another truth: the picture may be, too"
    errors = capsys.readouterr().err
    assert "2 questions (q1, q2) are not those that were sampled" in errors
    assert "2 questions (q0, q3) are of an earlier version, which noted no pictures" in errors
    assert "NOT checked" in errors
    assert summary(tmp_path)["unchecked_pictures"] == {"q.jsonl": 2}
    assert "| questions with unchecked pictures | q.jsonl: 2" in markdown(summary(tmp_path))
    contents = [bool(row["content"]) for row in read_rows(tmp_path / "out/questions/q.jsonl.jsonl")]
    keys = [row["key"] for row in read_rows(tmp_path / "out/questions/q.jsonl.jsonl")]
    assert dict(zip(keys, contents, strict=True)) == {"q0": False, "q1": True, "q2": True, "q3": False}


async def test_records_that_tell_nothing_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Live outcomes, and banks of the first version, have no text."""
    write(tmp_path / "set", lines())
    await run(settings(tmp_path), engine_factory(engine()))
    strip_content(tmp_path / "out" / "bank", "question")
    strip_content(tmp_path / "out" / "live")
    capsys.readouterr()
    await run(settings(tmp_path), engine_factory(fake := engine()))
    assert described_questions(fake) == COUNT
    assert capsys.readouterr().err.count("noted neither text nor pictures: they are sampled again") == 2


async def test_two_files_of_one_name_dont_share_records(tmp_path: Path) -> None:
    write(tmp_path / "set", lines())
    await run(settings(tmp_path), engine_factory(engine()))
    others = lines()
    for line in others:
        line["image"] = "blue.png"
    path = write(tmp_path / "other", others)
    await run(settings(tmp_path, data=(str(path),)), engine_factory(fake := engine()))
    assert described_questions(fake) == COUNT


async def test_a_picture_that_went_bad_is_named(tmp_path: Path) -> None:
    entries = lines()
    entries[0]["image"] = "data:image/png;base64,AAAA"
    write(tmp_path / "set", entries[1:])
    await run(settings(tmp_path, live=""), engine_factory(engine()))
    entries[1]["image"] = "data:image/png;base64,§§"
    write(tmp_path / "set", entries[1:])
    with pytest.raises(ConfigError, match="line 1: image: can't be read"):
        await run(settings(tmp_path, live=""), no_engine())


async def test_compare_leaves_out_what_is_not_the_same_question(tmp_path: Path) -> None:
    entries = lines()
    write(tmp_path / "set", entries)
    await run(settings(tmp_path, "a"), engine_factory(engine()))
    entries[0]["question"] = "Another question?"
    entries[1]["answer"] = "2"
    write(tmp_path / "set", entries)
    await run(settings(tmp_path, "b"), engine_factory(engine()))
    a, b = Side(tmp_path / "a", "sc@4"), Side(tmp_path / "b", "sc@4")
    (row,) = compare_runs(a, b)
    assert (row.left_out, row.comparison.difference.n, row.unchecked) == (("q0", "q1"), COUNT - 2, 0)
    assert row.to_json()["left_out"] == ["q0", "q1"]
    shutil.copytree(tmp_path / "b", tmp_path / "old")
    strip_content(tmp_path / "old" / "questions")
    (row,) = compare_runs(a, Side(tmp_path / "old", "sc@4"))
    assert (row.left_out, row.unchecked) == (("q1",), COUNT - 1)
    # Within a run there is nothing to check.
    (row,) = compare_runs(Side(tmp_path / "old", "sc@4"), Side(tmp_path / "old", "direct"))
    assert (row.left_out, row.unchecked, row.comparison.difference.n) == ((), 0, COUNT)
    for line in entries:
        line["image"] = "blue.png"
    write(tmp_path / "set", entries)
    await run(settings(tmp_path, "c"), engine_factory(engine()))
    with pytest.raises(ConfigError, match=r"those under the same keys differ \(q0, q1, q2 and 1 more\)"):
        compare_runs(a, Side(tmp_path / "c", "sc@4"))


def test_other_reference_pictures_are_another_bank(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "refs", reference_images=["a.png"])
    Image.new("RGB", (8, 8), (1, 2, 3)).save(model / "a.png")
    changed: dict[str, Any] = {"estimators": ("text", "reference"), "references": 1, "model": model}
    write(tmp_path / "set", lines())
    first = RunSetup(settings(tmp_path, **changed))
    (tmp_path / "out" / "bank").mkdir(parents=True)
    (tmp_path / "out" / "bank" / "bank.json").write_text(json.dumps(first.bank.header))
    RunSetup(settings(tmp_path, **changed))
    Image.new("RGB", (8, 8), (1, 2, 4)).save(model / "a.png")
    with pytest.raises(ConfigError, match="another set of reference pictures") as caught:
        RunSetup(settings(tmp_path, **changed))
    assert caught.value.param == "references"
    earlier = {name: value for name, value in first.bank.header.items() if name != "references"}
    (tmp_path / "out" / "bank" / "bank.json").write_text(json.dumps(earlier))
    assert "noted no reference pictures: NOT checked" in RunSetup(settings(tmp_path, **changed)).bank.notes[0]
    (model / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"reference_images: .*a\.png can't be read"):
        RunSetup(settings(tmp_path, **changed))


def test_weights_that_differ_in_the_middle_are_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirl_core.tasks.model_files._WHOLE", 1000)
    monkeypatch.setattr("mirl_core.tasks.model_files._BLOCK", 100)
    unchanged = settings(tmp_path)
    write(tmp_path / "set", lines())
    weights = unchanged.model / "model.safetensors"
    weights.write_bytes(bytes(6400))
    before, earlier = fingerprint(unchanged.model), earlier_fingerprint(unchanged.model)
    header = RunSetup(unchanged).bank.header
    weights.write_bytes(bytes(3200) + b"\1" + bytes(3199))
    assert fingerprint(unchanged.model) != before
    assert earlier_fingerprint(unchanged.model) == earlier, "both ends are as they were"
    (tmp_path / "out" / "bank").mkdir(parents=True)
    path = tmp_path / "out" / "bank" / "bank.json"
    path.write_text(json.dumps(header))
    with pytest.raises(ConfigError, match="another model"):
        RunSetup(unchanged)
    path.write_text(json.dumps(header | {"model": earlier}))
    assert "only both ends of the model's large files" in RunSetup(unchanged).bank.notes[0]
    weights.write_bytes(bytes(6399) + b"\1")
    with pytest.raises(ConfigError, match="another model"):
        RunSetup(replace(unchanged))


async def test_a_bank_that_is_continued_with_another_version_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "set", lines())
    bankless = settings(tmp_path, live="")
    await run(bankless, engine_factory(engine()))
    path = tmp_path / "out" / "bank" / "bank.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"versions": header["versions"] | {"mirl": "0.0.1"}}))
    capsys.readouterr()
    await run(bankless, no_engine())
    assert "0.0.1" not in capsys.readouterr().err, "nothing is sampled"
    write(tmp_path / "set", [*lines(), {**lines()[0], "id": "new"}])
    await run(replace(bankless, n=COUNT + 1), engine_factory(engine()))
    words = f"begun with mirl 0.0.1, and is continued with {header['versions']['mirl']}"
    assert words in capsys.readouterr().err.replace("\n", " ")
