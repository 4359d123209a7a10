"""A run's display fits 80 columns: the bar in a line, the figures in the next; plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from mirl_core.training.rl.report.console import Board

FIGURES = {
    "reward/answer": 0.53125,
    "reward/description": 12.3456,
    "kl": 0.000123,
    "mismatch/mean": 0.00213,
    "grad_norm": 123.456,
    "seconds/step": 6.5,
}

LINE = "answers 0.531  descriptions 12.3  kl 0.000123  mismatch 0.00213  gradient 123"


class Clock:
    """Seconds that pass only where a test says so."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def shown(terminal: bool, name: str = "rl-digits-mirl", width: int = 80, steps: int = 1) -> list[str]:
    """What a board shows of some steps of 6.5 s, up to step 1234, and an evaluation, without control
    sequences."""
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, width=width, force_terminal=terminal, get_time=clock, _environ={})
    with Board(name, 2000, console=console) as board:
        board.say("starting the rollout engine on bundled")
        board.begin(1234 - steps)
        for step in range(1235 - steps, 1235):
            clock.seconds += 6.5
            board.show(step, FIGURES)
        board.show(1234, {"look/digits/iid/accuracy": 0.715, "look/digits/iid/described": 0.6})
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    # A carriage return begins a line that is drawn again.
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize(
    "name", ["run", "rl-digits-mirl", "a-name-that-is-longer-than-the-space-for-it", "[x]{y}"]
)
@pytest.mark.parametrize(
    ("steps", "times"),
    # One step makes no speed; after two, 766 steps of 6.5 s are left.
    [(1, "0:00:06 -:--:--"), (2, "0:00:13 1:22:59")],
)
def test_a_terminal_of_80_columns_shows_the_bar_and_all_figures(name: str, steps: int, times: str) -> None:
    lines = shown(terminal=True, name=name, steps=steps)
    assert max(map(len, lines)) <= 80
    bar, figures = lines[-2:]
    assert bar.startswith(name[:20])
    assert "1234/2000" in bar
    assert bar.endswith(f" {times}")
    assert figures == LINE
    assert "step 1234: digits/iid: accuracy 71.5%  described 60.0%" in lines


def test_a_narrow_terminal_cuts_the_figures_and_keeps_the_bar() -> None:
    bar, figures = shown(terminal=True, width=50)[-2:]
    assert "1234/2000" in bar
    assert figures.startswith("answers 0.531  descriptions 12.3")
    assert len(figures) <= 50
    assert figures.endswith("…")


def test_elsewhere_every_step_is_a_plain_line() -> None:
    assert shown(terminal=False) == [
        "starting the rollout engine on bundled",
        f"step 1234/2000  6.5 s  {LINE}",
        "step 1234: digits/iid: accuracy 71.5%  described 60.0%",
    ]
