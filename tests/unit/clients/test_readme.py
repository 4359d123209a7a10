"""The examples of the client's README run, in their order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mirl_client
from mirl_client.cli.command import parser
from tests.unit.clients.stub import Stub
from tests.unit.server.harness import png

README = (Path(__file__).parents[3] / "clients" / "python" / "README.md").read_text()


def test_its_python_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub()
    monkeypatch.setattr(mirl_client, "Mirl", stub.client)
    monkeypatch.setattr(mirl_client, "AsyncMirl", stub.async_client)
    monkeypatch.chdir(tmp_path)
    for name in ("chart.png", "monday.png", "tuesday.png"):
        (tmp_path / name).write_bytes(png())
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 7
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 0.75"
    assert "kept: 3" in lines
    assert "decided, with 3 chains still running" in lines
    assert "answer: 24" in lines
    assert "a dog 0.5 (-0.5, 1.0)" in lines
    assert "['24', '24', '24']" in lines
    assert lines[-1] == "Finished"


def test_its_commands_are_the_commands_own() -> None:
    (block,) = [text for text in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "mirl ask" in text]
    for line in block.splitlines():
        words = re.findall(r'"[^"]*"|\S+', line.split("#")[0].split("| ")[-1])
        assert words[0] == "mirl"
        parsed = parser().parse_args([word.strip('"') for word in words[1:]])
        assert len(parsed.words) >= 2
