"""Missing libraries of the system are named."""

from __future__ import annotations

import pytest

from mirl_core.engines import system_libraries
from mirl_core.engines.system_libraries import check_libnuma
from mirl_core.errors import ConfigError
from mirl_server.cli import command


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let no library load; return the names of those that were tried."""
    names: list[str] = []

    def missing(name: str) -> None:
        names.append(name)
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(system_libraries.ctypes, "CDLL", missing)
    return names


@pytest.mark.parametrize(("platform", "tried"), [("linux", ["libnuma.so.1"]), ("darwin", [])])
def test_a_missing_libnuma_is_named_on_linux(
    monkeypatch: pytest.MonkeyPatch, loaded: list[str], platform: str, tried: list[str]
) -> None:
    monkeypatch.setattr(system_libraries.sys, "platform", platform)
    if tried:
        with pytest.raises(ConfigError, match=r"libnuma.*apt install libnuma1"):
            check_libnuma()
    else:
        check_libnuma()
    assert loaded == tried


@pytest.mark.parametrize("on_cpu", [True, False])
def test_mirl_serve_checks_it_for_vllm_on_cpus(
    monkeypatch: pytest.MonkeyPatch, loaded: list[str], on_cpu: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "runs_on_cpu", lambda: on_cpu)
    # A model that is not there ends the command where libnuma does not.
    assert command.run(["--model", "/no/such/model"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mirl-serve: error: ")
    assert ("libnuma" in line) == bool(loaded) == on_cpu
