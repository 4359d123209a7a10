"""The script that measures training steps on a GPU runs here, tiny and on the CPU."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.benchmarks.train_step import SIZES, build, main

ROOT = Path(__file__).parents[3]
TINY = ["--device", "cpu", "--size", "tiny", "--image", "56", "--rows", "4", "--length", "6", "--steps", "2"]


@pytest.mark.parametrize(
    "more", [[], ["--dtype", "bfloat16", "--recompute", "--lora", "2", "--accumulate", "2"]]
)
def test_it_trains(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = main([*TINY, *more])
    assert result == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["tokens/trained"] == 2 * 2 * (5 + 11)
    assert result["seconds/train"] > 0
    assert result["trained"] <= result["parameters"]
    assert "mfu" not in result


def test_prompts_are_read_once() -> None:
    once, whole = main(TINY), main([*TINY, "--rows-whole"])
    assert once["tokens/read"] < whole["tokens/read"]
    assert once["loss"] == pytest.approx(whole["loss"], abs=1e-5)


@pytest.mark.parametrize(("size", "billions"), [("3b", 3.75), ("7b", 8.29)])
def test_sizes_are_the_published_ones(size: str, billions: float) -> None:
    import torch

    assert size in SIZES
    parameters = sum(value.numel() for value in build(size, "meta", torch.bfloat16).parameters())
    assert parameters / 1e9 == pytest.approx(billions, abs=0.02)


def test_it_runs_as_a_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train_step.py", *TINY])
    runpy.run_path(str(ROOT / "tests/benchmarks/train_step.py"), run_name="__main__")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["device"] == "cpu"
