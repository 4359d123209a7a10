"""The commands of docs/tutorial.md run as they stand, in a newcomer's shell, on few questions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mirl_core.bundled import CHARTS
from tests.helpers.documented_commands import NewcomersShell, blocks

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("real_vllm"), pytest.mark.timeout(900)]

QUESTIONS = 4
"""In place of each `--n` of the tutorial."""


Printed = tuple[Path, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    """Run all commands in their order; return the folder, and each command with what it printed."""
    shell = NewcomersShell(tmp_path_factory.mktemp("tutorial"))
    commands = [
        command
        for block in blocks("docs/tutorial.md")
        if block.language == "sh"
        for command in block.commands
    ]
    outputs = []
    for command in commands:
        done = shell.run(re.sub(r"--n \d+", f"--n {QUESTIONS}", command))
        if "mirl-eval calibrate" in command:
            # So few questions are refused, as the tutorial says; the model's own file stands in for the fit.
            assert done.returncode == 2, done.stderr
            shutil.copy(CHARTS.path / "mirl.json", shell.folder / "out/tutorial/mirl.json")
        else:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        outputs.append((command, done.stdout + done.stderr))
    return shell.folder, outputs


def output(printed: Printed, words: str) -> str:
    """Return what the one command with these words printed."""
    (text,) = [text for command, text in printed[1] if words in command]
    return text


def test_one_answer_is_shown(printed: Printed) -> None:
    assert "tokens" in output(printed, "mirl ask --serve")


def test_the_run_and_its_report_have_both_methods(printed: Printed) -> None:
    folder = printed[0]
    for text in (output(printed, "mirl-eval run"), output(printed, "mirl-eval report out/tutorial")):
        assert "charts/shifted" in text
        assert {"sc@16", "mirl"} <= set(text.split())
        # So few questions decide nothing, as the tutorial says.
        assert f"n = {QUESTIONS} decides nothing" in text
    assert (folder / "out/tutorial/report.md").is_file()
    assert list((folder / "out/tutorial/plots").glob("*.png"))


def test_the_published_figures_are_those_of_the_tutorial(printed: Printed) -> None:
    (quoted,) = [block.code for block in blocks("docs/tutorial.md") if block.language == "text"]
    rows = [line.split() for line in output(printed, "--show mirl,sc@16").splitlines()]
    without_p = [[word for word in row if word != "–"] for row in rows]
    assert [line for line in quoted.splitlines() if line and line.split() not in without_p] == []


def test_two_methods_are_compared(printed: Printed) -> None:
    assert "charts/shifted" in output(printed, "mirl-eval compare")


def test_a_calibration_takes_more_questions_and_a_server_takes_its_file(printed: Printed) -> None:
    assert f"{QUESTIONS} voted questions are too few; it takes 50" in output(printed, "mirl-eval calibrate")
    assert "calibration: out/tutorial/mirl.json" in output(printed, "--dry-run")
