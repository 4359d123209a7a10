"""`mirl-eval run` on real vLLM: a few questions, sampled, replayed, confirmed live and reported."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mirl_core.evaluation.bank.store import Bank
from mirl_core.evaluation.run.command import EngineFactory, run
from mirl_core.evaluation.run.setup import RunSettings

if TYPE_CHECKING:
    from mirl_core.engines.base import Engine
    from mirl_core.engines.vllm.engine import VLLMEngine

GATED = "mirl(descriptions=6;keep=3;forks=2)"


def shared(engine: VLLMEngine) -> EngineFactory:
    """The session's engine, which a run must not close."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Engine, None]:
        yield engine

    return opened


async def test_a_run_samples_replays_and_continues(
    vllm_engine: VLLMEngine, bundled_model: Path, tmp_path: Path
) -> None:
    def settings(folder: str) -> RunSettings:
        return RunSettings(
            model=bundled_model,
            data=("digits/iid",),
            methods=f"direct,sc@4,{GATED}",
            live=GATED,
            live_n=2,
            output=tmp_path / folder,
            n=3,
            descriptions=6,
            forks=2,
        )

    await run(settings("whole"), shared(vllm_engine))
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    methods = summary["data"]["digits/iid"]
    assert list(methods) == ["direct", "sc@4", GATED]
    for name, row in methods.items():
        assert row["n"] == 3
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        for figure in ("generated_tokens", "scored_tokens", "complete_trajectories"):
            assert math.isfinite(row[figure]), (name, figure)
    assert methods["direct"]["generated_tokens"] < methods["sc@4"]["generated_tokens"]
    assert methods[GATED]["scored_tokens"] > 0
    live = summary["live"]["digits/iid"][GATED]["live"]
    assert live["n"] == 2
    assert live["engine_seconds"] > 0

    # What a kill leaves: the last line half-written.
    bank = tmp_path / "whole" / "bank"
    shutil.copytree(bank, tmp_path / "killed" / "bank")
    lines = (bank / "digits_iid.jsonl").read_bytes()
    cut = lines.rstrip(b"\n").rfind(b"\n") + 1
    (tmp_path / "killed" / "bank" / "digits_iid.jsonl").write_bytes(lines[: cut + 200])
    assert len(Bank.existing(tmp_path / "killed" / "bank").keys("digits/iid")) == 2
    await run(settings("killed"), shared(vllm_engine))
    again = (tmp_path / "killed" / "bank" / "digits_iid.jsonl").read_bytes()
    assert again[:cut] == lines[:cut]
    keys = Bank.existing(bank).keys("digits/iid")
    assert Bank.existing(tmp_path / "killed" / "bank").keys("digits/iid") == keys
