"""Report and plots are made of summary.json alone, and say what it says."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.measures.outcomes import outcomes_of, read_outcomes, write_rows
from mirl_core.evaluation.measures.statistics import detectable_difference
from mirl_core.evaluation.methods import parse_methods
from mirl_core.evaluation.methods.replay_bank import replay
from mirl_core.evaluation.report import write_report
from mirl_core.evaluation.report.plots import draw_plots
from mirl_core.evaluation.report.summary import (
    add_data,
    choose_baseline,
    new_summary,
    read_summary,
    strict,
    write_summary,
)
from mirl_core.evaluation.report.tables import markdown, p_value
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.markdown_tables import points, table
from tests.unit.evaluation.synthetic import banked_questions

METHODS = "direct,sc@4,sc@16,mirl,mirl(mi_weight=0),mirl(mi_weight=0.5),confidence"
DATA: dict[str, dict[str, Any]] = {"digits/iid": {}, "digits/shifted": {"misled": True}}


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    """A summary of two made-up data sets."""
    methods = parse_methods(METHODS, ModelSettings())
    options = {method.name: getattr(method, "options", None) for method in methods}
    document = new_summary(
        {
            "model": "made-up",
            "fingerprint": "0123456789abcdef" * 4,
            "versions": {"mirl": "1"},
            "settings": ModelSettings(instruction="Look | first.").model_dump(mode="json"),
            "part": "test",
            "seed": 0,
            "draws": 2,
            "bank": {"descriptions": 16},
            "command": "mirl-eval run --data x",
            "methods": {name: chosen and chosen.model_dump(mode="json") for name, chosen in options.items()},
        }
    )
    for name, arguments in DATA.items():
        questions = banked_questions(60, name, **arguments)
        outcomes = outcomes_of(replay(questions, methods, 2, 0))
        live = replace(outcomes["mirl"], seconds=np.full((60, 1), 0.25))
        add_data(document, name, outcomes, {"mirl": live}, questions, ["text", "blank"])
    return json.loads(json.dumps(strict(document), allow_nan=False))


@pytest.fixture(scope="module")
def written(summary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of its report: `report.md` and the plots."""
    folder = tmp_path_factory.mktemp("report")
    write_summary(folder, summary)
    return write_report(folder)


def test_every_figure_of_the_table_is_the_summarys(summary: dict[str, Any]) -> None:
    text = markdown(summary)
    for methods in summary["data"].values():
        for method, row in methods.items():
            low, high = 100 * row["low"], 100 * row["high"]
            assert f"| `{method}` | {100 * row['accuracy']:.1f} [{low:.1f}, {high:.1f}] |" in text
    for title in (
        "# Evaluation of made-up",
        "## Live against replay",
        "## Calibration of the reported confidence",
        "## Selection",
        "## Score and length",
        "## What a right description is worth",
        "## Sample size",
    ):
        assert title in text
    # Only what differs from the defaults, and a bar that doesn't end the cell.
    assert "instruction = 'Look \\| first.'" in text
    assert "options.descriptions" not in text


def test_tables_are_rectangular(summary: dict[str, Any]) -> None:
    widths: set[int] = set()
    for line in [*markdown(summary).splitlines(), ""]:
        if line.startswith("|"):
            widths.add(line.replace("\\|", "").count("|"))
        else:
            assert len(widths) <= 1, line
            widths.clear()


def test_differences_are_to_the_baseline(summary: dict[str, Any]) -> None:
    for name, compared in summary["comparisons"].items():
        assert compared["baseline"] == "sc@16"
        accuracy = summary["data"][name]
        for method, row in compared["methods"].items():
            assert row["difference"] == pytest.approx(
                accuracy[method]["accuracy"] - accuracy["sc@16"]["accuracy"], abs=1e-5
            )
    assert choose_baseline(["direct", "mirl"]) == "direct"


def test_confidence_and_zero_weight_are_the_same_method(summary: dict[str, Any]) -> None:
    for methods in summary["data"].values():
        assert methods["confidence"] == methods["mirl(mi_weight=0)"]


def test_the_gate_beats_the_vote_where_the_made_up_world_says_so(summary: dict[str, Any]) -> None:
    shifted = summary["comparisons"]["digits/shifted"]["methods"]
    assert shifted["mirl"]["difference"] > 0
    assert shifted["mirl(mi_weight=0)"]["high"] < shifted["mirl"]["difference"]


def test_p_values_are_adjusted_over_the_data_sets(summary: dict[str, Any]) -> None:
    first, second = (summary["comparisons"][name]["methods"] for name in DATA)
    assert list(first) == list(second) == [name for name in METHODS.split(",") if name != "sc@16"]
    for method in first:
        ours, theirs = first[method], second[method]
        smaller, larger = sorted((ours, theirs), key=lambda row: row["bootstrap_p"])
        assert smaller["holm_p"] == pytest.approx(min(1.0, 2 * smaller["bootstrap_p"]), rel=1e-5)
        assert larger["holm_p"] == pytest.approx(max(smaller["holm_p"], larger["bootstrap_p"]))
    # `direct` is worse than the vote in both made-up worlds.
    assert first["direct"]["holm_p"] < 0.05
    text = markdown(summary)
    for row in (first["direct"], second["mirl"]):
        mcnemar, adjusted = (p_value(row[name]) for name in ("mcnemar_p", "holm_p"))
        assert f"{points(row)} | {mcnemar} | {adjusted} |" in text


def test_summaries_of_earlier_versions_have_no_adjusted_p_values(
    summary: dict[str, Any], tmp_path: Path
) -> None:
    old = json.loads(json.dumps(summary))
    for compared in old["comparisons"].values():
        for row in compared["methods"].values():
            del row["bootstrap_p"], row["holm_p"]
    del old["faithfulness"]
    write_summary(tmp_path, old)
    row = old["comparisons"]["digits/iid"]["methods"]["direct"]
    cells = f"{points(row)} | {p_value(row['mcnemar_p'])} | – |"
    assert cells in markdown(read_summary(tmp_path))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1.0, "1.000"), (0.0434, "0.043"), (0.001, "0.001"), (0.00099, "<0.001")]
)
def test_p_values_have_three_decimals(value: float | None, text: str) -> None:
    assert p_value(value) == text


def test_sample_size_names_what_the_sample_can_show(summary: dict[str, Any]) -> None:
    row = summary["comparisons"]["digits/iid"]["methods"]["mirl"]
    least = detectable_difference(row["discordance"], 60, row["design_effect"])
    assert least is not None
    needed = row["needed_for_2_points"]
    assert f"| {row['design_effect']:.2f} | {needed} | {100 * least:.1f} |" in markdown(summary)


def test_chains_after_right_and_wrong_descriptions_are_shown_where_the_bank_can_tell(
    summary: dict[str, Any],
) -> None:
    text = markdown(summary)
    assert "## Chains after right and wrong descriptions" in text
    for name, rows in summary["faithfulness"].items():
        for kind, words in (("after_right", "right"), ("after_wrong", "wrong")):
            row = rows[kind]
            low, high = 100 * row["low"], 100 * row["high"]
            cells = f"{row['n']} | {100 * row['share']:.1f} [{low:.1f}, {high:.1f}]"
            assert f"| {name} | {words} | {cells} |" in text
    # A data set that can't tell, and a summary from before there was such a table.
    for unknown in ({"faithfulness": {"digits/iid": None}}, {"faithfulness": None}):
        assert "## Chains after" not in markdown(summary | unknown)


def test_plots_are_pictures_with_something_on_them(written: list[Path]) -> None:
    plots = written[1:]
    assert [plot.stem for plot in plots] == ["accuracy-cost", "reliability", "selection", "mi-weight"]
    for plot in plots:
        pixels = np.asarray(Image.open(plot).convert("L"))
        assert pixels.shape[1] > 600
        assert (pixels < 200).mean() > 0.005, plot


def test_plots_are_left_out_where_there_is_nothing_to_draw(summary: dict[str, Any], tmp_path: Path) -> None:
    # A single method that doesn't vote, on data that can't tell right descriptions.
    bare = summary | {
        "data": {"x": {"direct": summary["data"]["digits/iid"]["direct"]}},
        "methods": {"direct": None},
        "selection": {"x": []},
        "reliability": {"x": {}},
    }
    assert [plot.stem for plot in draw_plots(bare, tmp_path)] == ["accuracy-cost"]


def test_many_methods_and_data_sets_get_a_plot_too(summary: dict[str, Any], tmp_path: Path) -> None:
    row = summary["data"]["digits/iid"]["direct"]
    many = {f"mirl(keep={k};forks={m})": row for k in range(1, 5) for m in range(1, 4)}
    crowded = summary | {"data": {f"set {i}": many | {"sc@4": row} for i in range(5)}, "selection": {}}
    assert "accuracy-cost" in [plot.stem for plot in draw_plots(crowded, tmp_path)]


def test_report_is_redrawn_from_the_file_alone(
    written: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written[0].parent
    assert before / "report.md" in written
    shutil.copytree(before, tmp_path, dirs_exist_ok=True)
    # The model's name is in no plot.
    plots = [tmp_path / plot.relative_to(before) for plot in written[1:]]
    monkeypatch.setattr("mirl_core.evaluation.report.plots.draw_plots", lambda *arguments: plots)
    changed = json.loads((tmp_path / "summary.json").read_text()) | {"model": "renamed"}
    write_summary(tmp_path, changed)
    write_report(tmp_path)
    first = (before / "report.md").read_text()
    assert (tmp_path / "report.md").read_text() == first.replace("made-up", "renamed")


def test_plots_may_show_some_methods_while_tables_keep_all(written: list[Path], tmp_path: Path) -> None:
    shutil.copytree(written[0].parent, tmp_path, dirs_exist_ok=True)
    crowded = (tmp_path / "plots/accuracy-cost.png").read_bytes()
    write_report(tmp_path, ["direct", "mirl"])
    assert all(f"| `{name}` |" in (tmp_path / "report.md").read_text() for name in METHODS.split(","))
    assert (tmp_path / "plots/accuracy-cost.png").read_bytes() != crowded
    with pytest.raises(ConfigError, match="no method 'nothing'") as refused:
        write_report(tmp_path, ["direct", "nothing"])
    assert refused.value.param == "show"


@pytest.mark.parametrize(
    ("content", "words"), [(None, "summary.json"), ("{", "not readable"), ("{}", "not written")]
)
def test_folders_without_a_summary_are_named(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        write_report(tmp_path)


def test_summary_is_strict_json(tmp_path: Path) -> None:
    path = write_summary(tmp_path / "new", {"a": [math.nan, math.inf, 1 / 3, 1e-9], "b": {"c": None}})
    assert json.loads(path.read_text()) == {"a": [None, None, 0.333333, 1e-9], "b": {"c": None}}


def test_outcomes_survive_the_file(tmp_path: Path) -> None:
    questions = banked_questions(5)
    rows = replay(questions, parse_methods("direct,sc@4", ModelSettings()), 3, 0)
    path = tmp_path / "questions" / f"{file_name('digits/iid')}.jsonl"
    write_rows(path, rows)
    read, expected = read_outcomes(path), outcomes_of(rows)
    assert list(read) == ["direct", "sc@4"]
    for name, outcomes in read.items():
        np.testing.assert_array_equal(outcomes.right, expected[name].right)
        np.testing.assert_array_equal(outcomes.confidence, expected[name].confidence)
        assert outcomes.clusters == expected[name].clusters
    path.write_text('{"key": 1}\n')
    with pytest.raises(ConfigError, match="not written by"):
        read_outcomes(path)


def test_an_empty_table_is_nothing() -> None:
    assert table(["a"], []) == ""
