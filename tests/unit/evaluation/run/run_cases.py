"""Runs without a model: a folder that looks like one, a small data file, and banks that are already full."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from mirl_core.engines.base import Engine
from mirl_core.engines.fake import FakeEngine
from mirl_core.evaluation.bank.records import BankedChain, BankedQuestion
from mirl_core.evaluation.run.command import EngineFactory
from mirl_core.evaluation.run.setup import RunSettings, RunSetup
from mirl_core.tasks.content import content_digest
from mirl_core.tasks.questions import Question
from tests.unit.evaluation.synthetic import banked_question


def model_folder(folder: Path, **mirl_json: object) -> Path:
    """A folder that passes for a model's, as long as nobody loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "mirl.json").write_text(json.dumps({"instruction": "", **mirl_json}))
    return folder


def data_file(path: Path, count: int) -> Path:
    """Questions whose answer is 1, on one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(path.parent / "red.png")
    lines = [
        {"image": "red.png", "question": f"Question {number}?", "answer": "1", "id": f"q{number}"}
        for number in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def settings_of(folder: Path, **changed: Any) -> RunSettings:
    """A run on `digits/iid` with the output in `folder`."""
    defaults: dict[str, Any] = {
        "model": model_folder(folder.parent / "tiny"),
        "data": ("digits/iid",),
        "methods": "direct,sc@4,mirl(descriptions=6;keep=2)",
        "output": folder,
        "n": 12,
        "descriptions": 6,
        "forks": 2,
        "replays": 3,
    }
    return RunSettings(**(defaults | changed))


def fill_bank(settings: RunSettings, count: int | None = None, **made: Any) -> None:
    """Bank made-up samples for the first `count` questions of every data set, all by default."""
    setup = RunSetup(settings)
    with setup.bank as bank:
        for data in setup.data:
            for number, question in enumerate(data.questions[:count]):
                if question.key in bank.keys(data.name):
                    continue
                line = banked_question(
                    number, data.name, descriptions=settings.descriptions, forks=settings.forks, **made
                )
                bank.append(of_question(line, question))


def of_question(line: BankedQuestion, question: Question) -> BankedQuestion:
    """The made-up record as one of `question`, with its truth in the place of the made-up one."""

    def chain(banked: BankedChain) -> BankedChain:
        if banked.answer is None:
            return replace(banked, right=False)
        return replace(banked, answer=question.answer if banked.right else f"not {banked.answer}")

    description, greedy = line.greedy
    return replace(
        line,
        key=question.key,
        question=question.text,
        content=content_digest(question),
        truth=question.answer,
        clusters=question.clusters,
        chains=tuple(map(chain, line.chains)),
        greedy=(description, chain(greedy) if greedy else None),
        plain_fallback=chain(line.plain_fallback) if line.plain_fallback else None,
    )


def no_engine() -> EngineFactory:
    """Fails the test if a run asks for a model."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Engine, None]:
        raise AssertionError("a run whose bank is complete loads no model")
        yield

    return opened


def engine_factory(engine: FakeEngine) -> EngineFactory:
    """Opens `engine`, and closes it."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Engine, None]:
        try:
            yield engine
        finally:
            await engine.close()

    return opened
