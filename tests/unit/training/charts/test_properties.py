"""Properties of a charts stage: statistics by hand, and the command from a folder to JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mirl_core.errors import ConfigError
from mirl_core.training.charts.properties import SECTIONS, paired, read_numbers, read_words, share, vote
from mirl_core.training.charts.trainer import ChartsTrainer
from mirl_core.training.cli import main
from tests.unit.training.charts.charts_cases import copy_tokenizer, small_recipe


def test_votes_ignore_missing_answers_and_ties_go_to_the_earliest() -> None:
    assert vote(["", "3", "", "4", "4"]) == "4"
    assert vote(["5", "3"]) == "5"
    assert vote(["", ""]) == ""


def test_shares_have_wilsons_interval() -> None:
    assert share([True] * 5 + [False] * 5) == {"percent": 50.0, "interval": (23.7, 76.3), "n": 10}
    assert share([]) == {"percent": None, "interval": None, "n": 0}


def test_outcomes_of_one_scene_count_as_dependent() -> None:
    hits = [True, True, False, False] * 10
    alone, together = share(hits), share(hits, [n // 2 for n in range(40)])
    assert alone["percent"] == together["percent"] == 50.0
    assert alone["n"] == together["n"] == 40
    # Twenty scenes whose two outcomes are equal inform as much as twenty outcomes.
    widths = [figures["interval"][1] - figures["interval"][0] for figures in (alone, together)]
    assert widths[1] / widths[0] == pytest.approx(2**0.5, rel=0.1)


def test_equal_pairs_have_clopper_and_pearsons_interval() -> None:
    """Two pairs leave room for a share of 1 - √0.025 = 0.842 of others."""
    assert paired([True, False], [True, False]) == {"points": 0.0, "interval": (-84.2, 84.2), "n": 2}
    assert paired([True, True], [False, False]) == {"points": 100.0, "interval": (-68.4, 100.0), "n": 2}


def test_lists_are_read_in_their_order() -> None:
    assert read_words("headroom, forced", SECTIONS, "parts") == ("headroom", "forced")
    assert read_numbers("1, 0.4", "temperatures") == (1.0, 0.4)
    with pytest.raises(ConfigError, match="'nothing' is not one of calibration, forced, headroom"):
        read_words("nothing", SECTIONS, "parts")
    for wrong in ("hot", "0", "inf"):
        with pytest.raises(ConfigError, match="is not a number above 0"):
            read_numbers(wrong, "temperatures")


def test_the_command_measures_a_folder(
    tmp_path: Path,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder)))
    trainer.save()
    written = tmp_path / "figures.json"
    words = ["properties", str(trainer.folder), "--kinds", "half", "--n", "3", "--parts", "calibration"]
    monkeypatch.setattr(sys, "argv", ["mirl-train", *words, "--output", str(written)])
    with pytest.raises(SystemExit) as exited:
        main()
    done = capsys.readouterr()
    assert exited.value.code == 0, done.err
    figures = json.loads(done.out)
    assert figures["half"]["calibration"]["values_right"]["n"] >= 9
    assert json.loads(written.read_text()) == {"folder": "stage", "n": 3, "start": 1000, **figures}


def test_a_folder_without_a_stage_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mirl_core.training.cli", "properties", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == f"mirl-train: {tmp_path}/tokenizer.json does not exist: name the folder of a charts stage\n"
    )
