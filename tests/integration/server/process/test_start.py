"""Starts of real servers: what they print, how a start fails, vLLM's own commands, the list of its flags."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from mirl_core import __version__
from mirl_core.bundled import CHARTS, MODELS
from mirl_server.cli.dry_run import changed_flags
from mirl_server.cli.flags.vllm import LIST, read_vllm_flags, runs_on_cpu, vllm_version
from mirl_server.settings.server import ServerSettings
from tests.helpers.documented_commands import NewcomersShell, commands, way
from tests.helpers.servers import MIRL_SERVE, running
from tests.helpers.waiting import wait_until
from tests.integration.server.server_cases import engine_starts

NO_CHOICE = {name: value for name, value in os.environ.items() if name != "VLLM_LOGGING_LEVEL"}
"""The environment of an operator who chose no log level, which tests otherwise do."""


def test_the_list_of_flags_is_the_installed_vllms() -> None:
    from mirl_server.vllm.flag_list import flag_list

    assert json.loads(LIST.read_text(encoding="utf-8")) == json.loads(json.dumps(flag_list())), (
        "run python -m mirl_server.vllm.flag_list"
    )
    from vllm.platforms import current_platform

    assert runs_on_cpu() == current_platform.is_cpu()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["mirl-tiny", "--port", "9000", "--no-enable-prefix-caching"],
        ["--model", str(CHARTS.path), "--max-model-len", "1k", "--served-model-name", "a", "b", "-tp", "2"],
        ["--kv-cache-memory-bytes=1G", "--limit-mm-per-prompt.image", "2", "--allowed_origins", '["*"]'],
        ["--log-level", "info", "--api-key", "k"],
    ],
)
def test_a_dry_run_resolves_flags_as_vllms_parser_does(words: list[str]) -> None:
    from mirl_server.vllm.flags import parse_vllm, unlike_vllm

    light = changed_flags(read_vllm_flags(words).values, runs_on_cpu())
    whole = unlike_vllm(parse_vllm(words))
    whole.pop("log-level", None)
    assert {name: value for name, value in light.items() if name != "log-level"} == whole


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_a_start_says_what_it_serves_and_little_else(tmp_path: Path) -> None:
    """Also Ctrl-C in a terminal: the whole group gets it, and the server stops as on any signal."""
    out, errors = tmp_path / "out", tmp_path / "errors"
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            [*MIRL_SERVE, "--port", "0"], stdout=stdout, stderr=stderr, start_new_session=True, env=NO_CHOICE
        )
        try:
            wait_until(lambda: process.poll() is not None or "\n  try " in out.read_text(), 240)
            lines = out.read_text().splitlines()
            url = lines[1].rpartition(" ")[2]
            assert lines[0] == f"mirl-serve {__version__} loads mirl-charts with vLLM {vllm_version()} …"
            assert lines[1] == f"MIRL {__version__} serves mirl-charts at {url}"
            assert [line.split()[0] for line in lines[2:7]] == ["gate", "confidence", "plain", "try", "log"]
            for path in ("/", "/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/ready"):
                assert httpx.get(f"{url}{path}", timeout=30).status_code == 200, path
            document = httpx.get(f"{url}/openapi.json", timeout=30).json()
            assert document["info"]["title"] == "MIRL"
            assert document["paths"]["/tokenize"]["post"]["tags"] == ["vLLM"]
            assert errors.read_text() == ""
            # A line for each request, as before.
            wait_until(lambda: "path=/docs status=200" in out.read_text(), 10)
            assert len(lines) == 7
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(40) == 0
            assert "Traceback" not in out.read_text() + errors.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_ctrl_c_while_the_engine_loads_is_quiet() -> None:
    process = subprocess.Popen(
        [*MIRL_SERVE, "--port", "0"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True, env=NO_CHOICE,
    )  # fmt: skip
    try:
        wait_until(lambda: engine_starts(process), 240)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (130, "")
        assert len(out.splitlines()) == 1
        assert psutil.wait_procs(family, timeout=5)[1] == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_a_port_that_is_taken_while_the_engine_loads_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        # Bound and not listening: the early check finds the port free, as it is.
        with (tmp_path / "errors").open("wb") as stderr:
            process = subprocess.Popen(
                [*MIRL_SERVE, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=stderr, env=NO_CHOICE
            )
            try:
                wait_until(lambda: process.poll() is not None or engine_starts(process), 240)
                other.listen()
                assert process.wait(240) == 2
            finally:
                process.kill()
                process.wait()
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert line.startswith(f"mirl-serve: error: port {port} on 127.0.0.1 is taken by another process")


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        # The engine's own process finds it, and its reason is on the last line.
        (["--kv-cache-memory-bytes", "1K"], 3, "the engine did not start: ValueError: "),
        (["--middleware", "no.such.Middleware"], 1, "the server did not start: ModuleNotFoundError: "),
    ],
)
def test_a_start_that_fails_inside_vllm_ends_with_its_reason(
    flags: list[str], status: int, said: str
) -> None:
    done = subprocess.run(
        [*MIRL_SERVE, "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=280,
        env=NO_CHOICE,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == status, done.stderr
    assert last.startswith(f"mirl-serve: error: {said}")
    assert last.endswith("(--log-level info shows the whole log)")


PRETENDED = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
@pytest.mark.parametrize("command", [command for command in commands() if way(command) == "vllm"])
def test_vllms_own_commands_serve_with_mirl_in_them(command: str, tmp_path: Path) -> None:
    """The GPU's command as far as it goes here: on the CPU, with a package of the name that it looks for."""
    clone, pretended = tmp_path / "clone", tmp_path / "vllm.dist-info"
    clone.mkdir()
    shell = NewcomersShell(clone)
    environment = dict(shell.environment)
    on_gpu = "-m vllm" not in command
    if on_gpu:
        pretended.mkdir()
        (pretended / "METADATA").write_text(PRETENDED.format(version=vllm_version()))
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
        model = command.rpartition(" ")[2]
        flags = "--served-model-name mirl-charts --kv-cache-memory-bytes 1G --enforce-eager"
        command = f"{command.replace(model, str(CHARTS.path))} {flags}"
        assert shell.run(".venv/bin/vllm --version", PYTHONPATH=environment["PYTHONPATH"]).returncode == 0
    code = f'cd "{clone}" && export {command.replace(" ", " && exec ", 1)} "$@"'
    shown = ("bash", "-c", code, "bash")
    with running(tmp_path, ["--host", "127.0.0.1"], shown, environment, clean=True) as server:
        names = {card["id"] for card in httpx.get(f"{server.url}/v1/models", timeout=30).json()["data"]}
        assert names == {"mirl-charts", "mirl-charts:direct"}
        assert "content-security-policy" in httpx.get(f"{server.url}/docs", timeout=30).headers


def test_the_settings_that_a_dry_run_prints_are_those_of_the_server(tmp_path: Path) -> None:
    done = subprocess.run([*MIRL_SERVE, "--dry-run", "mirl-tiny"], capture_output=True, text=True, check=True)
    path = tmp_path / "again.yaml"
    path.write_text(done.stdout)
    assert yaml.safe_load(done.stdout)["model"] == str(MODELS["mirl-tiny"].path)
    assert ServerSettings.load(config=path).limits == ServerSettings().limits
    again = subprocess.run(
        [*MIRL_SERVE, "--dry-run", "--config", str(path)], capture_output=True, text=True, check=True
    )
    assert again.stdout == done.stdout
