"""The comparison over HTTP from questions to tables, with arms that need no server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks.arms import GATED, Arm, Reply
from tests.benchmarks.peers import rivals
from tests.benchmarks.peers.environments import commands


@dataclass
class Fake:
    """Answers at once, and knows how many it answered side by side."""

    name: str
    answer: str
    slow: bool = False
    seeds: list[int] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        self.seeds.append(seed)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        return Reply(self.answer, 0.001, 30, 100)


async def test_from_questions_to_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fakes = [Fake(GATED, "2"), Fake("other", "no number"), Fake("peer", "2", slow=True)]

    @contextlib.asynccontextmanager
    async def fake_arms(folder: Path, logs: Path, console: Console) -> AsyncIterator[list[Arm]]:
        yield list(fakes)

    monkeypatch.setattr(rivals, "arms", fake_arms)
    console = Console(quiet=True)
    figures = await rivals.measure(["digits/iid"], "dev", 30, 26, 5, tmp_path, console)

    alone, together = figures["passes"]
    assert [(each["concurrency"], each["arms"][GATED]["n"]) for each in figures["passes"]] == [
        (1, 30),
        (8, 26),
    ]
    assert alone["arms"]["peer"]["n"] == together["arms"]["peer"]["n"] == 5
    assert alone["arms"]["other"]["accuracy"] == 0
    assert 1 < fakes[0].most_at_once <= 8
    # The same seed for the same question, in every arm and in both passes; the warm-up's come first.
    assert fakes[0].seeds[3:] == [*range(30), *range(26)]
    assert fakes[2].seeds[3:] == [*range(5), *range(5)]
    text = rivals.report(figures)
    assert text.count("| peer | 5 |") == 2
    assert figures["about"]["weights"][:12] in text


def test_peers_are_installed_away_from_the_project() -> None:
    command_lines = [" ".join(command) for command in commands(Path("/somewhere"))]
    assert all("/somewhere/" in command for command in command_lines)
    assert any("--no-deps optillm==0.4.0" in command for command in command_lines)
