"""The whole demo against a stub: what it prints, for terminals and for pipes, in 80 columns."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mirl_server.cli.demo import __main__ as demo
from mirl_server.cli.demo.attempts import Attempt
from tests.unit.clients.cli.evidence_cases import STEERED
from tests.unit.server.cli.demo.stub_server import client_of


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The requests of a demo that talks to the stub."""
    sent: list[dict[str, Any]] = []

    @contextmanager
    def serving(console: Console) -> Iterator[str]:
        console.print("ready")
        yield "http://demo"

    monkeypatch.setattr(demo, "serving", serving)
    monkeypatch.setattr(demo, "OpenAI", lambda **_: client_of(sent))
    return sent


def printed(monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False, **options)
    monkeypatch.setattr(demo, "Console", lambda **_: console)
    assert demo.main() == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_plain_lines_of_80_columns(
    bodies: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(monkeypatch, width=200)
    assert max(map(cell_len, text.splitlines())) == 80
    assert "\x1b" not in text
    assert "▀" not in text
    assert re.findall(r"Question \d of 4", text) == [f"Question {n} of 4" for n in (1, 2, 3, 4)]
    assert text.count("truth:") == 4
    assert text.count(".png") == 4
    assert text.count("has the returned answer") == 3
    assert "Four questions decide nothing" in text
    # The stub answers 7, and 15 of 16 samples 8: only the first question's truth is 7.
    assert "Right of 4 (tokens): greedy 1 (40), 16 votes 0 (640), MIRL 1 (40).\n" in text


def test_each_question_is_asked_in_three_ways_and_the_last_has_the_gate(
    bodies: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed(monkeypatch, width=80)
    assert [(body["model"], body["seed"]) for body in bodies] == [
        (name, seed)
        for seed in range(4)
        for name in ("mirl-charts:direct", "mirl-charts:direct", "mirl-charts")
    ]
    presets = [body["mirl"]["preset"] for body in bodies if "mirl" in body]
    assert presets == ["waves", "waves", "steered", "gate"]


@pytest.mark.usefixtures("bodies")
def test_a_terminal_with_colours_gets_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, width=80, force_terminal=True, color_system="truecolor", no_color=False)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)
    assert plain.count("▀") == 4 * 48 * 24
    assert max(map(cell_len, plain.replace("\r", "\n").splitlines())) == 80


def test_the_evidence_names_switches_legend_and_fallback() -> None:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    details = STEERED.model_copy(update={"fallback": "no description [was usable]"})
    attempt = Attempt("MIRL, steered", "24", True, 1, 1.0, details)
    demo.print_evidence(console, attempt, lambda text: re.findall(r" ?\w+|\W", text), "the legend")
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[:2] == [
        "the gate was not used: no description [was usable]",
        "MIRL, steered: its descriptions by rank",
    ]
    assert lines[10:15] == [
        "the legend",
        "",
        "words that λ changed, and what each was worth:",
        '  λ = 1 writes "limes 4" where the model alone writes "limes 5" (1.2 nats)',
        '  λ = 1 writes "apples 13" where the model alone writes "apples 12" (0.5 nats)',
    ]
