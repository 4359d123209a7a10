"""`mirl-eval plan` on the command line: tables, JSON, and what bad input gets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mirl_core.evaluation.cli import main

ENGINE = ["--prefill-rate", "20000", "--decode-rate", "1:150,16:2000,64:6000"]
REQUEST = [
    "--text-tokens", "80", "--image-tokens", "1200", "--description-tokens", "60", "--chain-tokens", "200",
]  # fmt: skip


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run the command in this process; return its exit code, standard output and error."""

    def ended(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["mirl-eval", "plan", *words])
        with pytest.raises(SystemExit) as exited:
            main()
        return exited.value.code, *capsys.readouterr()

    return ended


def test_tables_fit_eighty_columns(plan) -> None:  # type: ignore[no-untyped-def]
    long = "gate(descriptions=6;keep=2;mi_weight=0.35;normalize=sum)"
    code, out, err = plan(*REQUEST, *ENGINE, "--rate", "1000", "--methods", f"greedy,sc@16,waves,{long}")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for word in ("sc@16", "waves", "GPUs", "loaded", "scored"):
        assert word in out


def test_json_holds_every_stage_and_the_ratios(plan) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = plan(*REQUEST, *ENGINE, "--rate", "1000", "--json")
    assert code == 0
    result = json.loads(out)
    gate = result["methods"]["gate"]
    stages = {name: seconds for name, seconds in gate["gpu_seconds"].items() if name != "total"}
    assert set(stages) == {"render", "describe", "score", "fork"}
    assert sum(stages.values()) == pytest.approx(gate["gpu_seconds"]["total"])
    assert gate["gpus"] == pytest.approx(1000 * gate["gpu_seconds"]["total"] / 0.7)
    assert gate["ratios"]["gpu_seconds"] == pytest.approx(
        gate["gpu_seconds"]["total"] / result["methods"]["sc@16"]["gpu_seconds"]["total"]
    )
    assert result["reference"] == "sc@16"


def test_a_model_brings_its_options(plan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mirl.json").write_text('{"options": {"descriptions": 4, "keep": 2, "forks": 1}}')
    words = [*REQUEST, *ENGINE, "--methods", "mirl", "--json"]
    code, out, _ = plan(*words, "--model", str(tmp_path))
    assert code == 0
    assert json.loads(out)["methods"]["mirl"]["tokens"]["describe"]["generated"] == 4 * 60


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([*REQUEST], "prefill_rate"),
        ([*REQUEST, "--prefill-rate", "10"], "decode_rate"),
        ([*REQUEST, *ENGINE, "--decode-rate", "fast"], "decode_rate"),
        ([*REQUEST, *ENGINE, "--rate", "0"], "rate"),
        ([*REQUEST, *ENGINE, "--rate", "nan"], "rate"),
        ([*REQUEST, *ENGINE, "--rate", "soon"], "rate"),
        ([*REQUEST, *ENGINE, "--utilization", "1"], "utilization"),
        ([*REQUEST, *ENGINE, "--batch", "0"], "batch"),
        ([*REQUEST, *ENGINE, "--text-tokens", "0"], "text_tokens"),
        ([*REQUEST, *ENGINE, "--chain-tokens", "-5"], "chain_tokens"),
        ([*REQUEST, *ENGINE, "--methods", "adaptive@16"], "methods"),
        ([*REQUEST, *ENGINE, "--methods", "sc@16+stop"], "methods"),
        ([*REQUEST, *ENGINE, "--methods", "oracle"], "methods"),
        ([*REQUEST, *ENGINE, "--methods", "gate(keep=0)"], "methods"),
        ([*REQUEST, *ENGINE, "--methods", "gate(estimator=reference)"], "methods"),
        (
            [*REQUEST, *ENGINE, "--methods", "steered(draft_tokens=1)", "--description-tokens", "5000"],
            "methods",
        ),
        ([*REQUEST, *ENGINE, "--expect", "luck=1"], "expect"),
        ([*REQUEST, *ENGINE, "--rates", "nowhere.json"], "rates"),
        ([*REQUEST, *ENGINE, "--model", "nowhere"], "model"),
        ([*REQUEST[2:], *ENGINE], "text-tokens"),
    ],
)
def test_bad_input_is_one_line_and_code_2(plan, words: list[str], named: str) -> None:  # type: ignore[no-untyped-def]
    code, out, err = plan(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert named in err.replace("--", "")
