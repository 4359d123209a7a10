"""A run says what it waits for, and nothing more than one line where its input is wrong."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import EngineError
from mirl_core.evaluation.run.command import run
from mirl_core.evaluation.run.progress import Bars
from mirl_core.tasks.command_line import status
from tests.unit.evaluation.run.run_cases import data_file, engine_factory, settings_of
from tests.unit.pipeline.pipeline_cases import chain, described


def shown(bars: Bars, terminal: bool) -> io.StringIO:
    out = io.StringIO()
    bars._progress.live.console = Console(file=out, force_terminal=terminal, width=80)
    return out


async def test_the_start_of_the_engine_is_shown_with_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirl_core.evaluation.report.write_report", lambda folder: ())
    engine = FakeEngine(descriptions=[described("red", -0.1)], chains=lambda suffix, branch: chain("1"))
    file = str(data_file(tmp_path / "set" / "q.jsonl", 2))
    await run(settings_of(tmp_path / "out", data=(file,), methods="direct"), engine_factory(engine))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["starting the engine …", "starting the engine: done in 0 s"]
    await run(settings_of(tmp_path / "out", data=(file,), methods="direct"), engine_factory(engine))
    assert "starting the engine" not in capsys.readouterr().err, "nothing is missing"


def test_what_is_waited_for_leaves_no_bar() -> None:
    bars = Bars()
    out = shown(bars, terminal=False)
    with bars, bars.waiting("starting"):
        assert [task.description for task in bars._progress.tasks] == ["starting"]
    assert bars._progress.tasks == []
    assert out.getvalue().split("\n")[:2] == ["starting …", "starting: done in 0 s"]


def test_what_fails_is_not_said_to_be_done() -> None:
    bars = Bars()
    out = shown(bars, terminal=False)
    with pytest.raises(EngineError), bars, bars.waiting("starting"):
        raise EngineError("no memory")
    assert bars._progress.tasks == []
    assert "done" not in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_status_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    """Bad input, which may follow, is one line elsewhere."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    status("mirl-eval", "loading")
    assert capsys.readouterr().err == ("mirl-eval: loading\n" if terminal else "")
    bars = Bars()
    out = shown(bars, terminal)
    bars.status("reading")
    assert ("reading" in out.getvalue()) is terminal
