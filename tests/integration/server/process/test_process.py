"""The command itself: flags, exit codes, signals, and MIRL inside vLLM's own server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from mirl_client import evidence
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import MIRL_SERVE, NAME, VLLM_SERVE, running
from tests.helpers.waiting import wait_until
from tests.integration.server.server_cases import engine_starts


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`mirl-serve` to its end."""
    return subprocess.run(
        [*MIRL_SERVE, *flags], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_version_and_help_do_not_load_vllm() -> None:
    code = (
        "import sys; from mirl_server.cli.main import main\n"
        "assert main(['--version']) == 0 and main(['--help']) == 0\n"
        "assert not {'vllm', 'torch', 'transformers', 'fastapi'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "mirl-serve 0." in done.stdout
    assert "--mirl-default" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mirl-default", "kep=2"], "unknown key 'kep'"),
        (["--mirl-default", "keep"], "takes KEY=VALUE"),
        (["--mirl-limit", "max_keep=0"], "greater than or equal to 1"),
        (["--mirl-limit", "max_keep=2", "--mirl-default", "keep=3"], "at most 2"),
        (["--mirl-keep-alive", "soon"], "invalid float"),
    ],
)
def test_wrong_mirl_flags_are_one_line_and_exit_code_2(flags: list[str], said: str) -> None:
    done = run(*flags, "--model", "/nowhere")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("mirl-serve: error: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--frobnicate", "3"], "unrecognized arguments: --frobnicate"),
        pytest.param(["--port", "x"], "invalid int value", marks=pytest.mark.full),
        pytest.param(["/nowhere/at/all"], "there is no model at /nowhere/at/all", marks=pytest.mark.full),
        pytest.param(["--max-model-len", "999999"], "max_model_len", marks=pytest.mark.full),
    ],
)
def test_wrong_vllm_flags_end_in_one_line_and_exit_code_2(flags: list[str], said: str) -> None:
    done = run(*flags)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("mirl-serve: error: ")
    assert said in last
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_vllms_own_help_is_reached() -> None:
    done = run("--help=max-model-len")
    assert done.returncode == 0
    assert "--max-model-len" in done.stdout


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_sigterm_during_start_up_ends_all_of_it() -> None:
    process = subprocess.Popen(
        [*MIRL_SERVE, "--port", "0"], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        server = psutil.Process(process.pid)
        # The engine's process loads by now, and the server waits for it.
        wait_until(lambda: engine_starts(process), 120)
        family = server.children(recursive=True)
        process.terminate()
        assert process.wait(20) == 0
        assert psutil.wait_procs(family, timeout=5)[1] == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_mirl_inside_vllms_own_server(tmp_path: Path) -> None:
    """The other way round: vLLM's server as its users start it, MIRL enabled by VLLM_PLUGINS."""
    environment = {"VLLM_PLUGINS": "mirl", "MIRL_DEFAULTS__DESCRIPTIONS": "4", "MIRL_LIMITS__MAX_KEEP": "2"}
    with running(tmp_path, (), VLLM_SERVE, environment) as server:
        client = server.client()
        assert {model.id for model in client.models.list()} == {NAME, f"{NAME}:direct"}
        details = evidence(
            client.chat.completions.create(model=NAME, messages=image_question(), seed=1, max_tokens=60)
        )
        assert details is not None
        assert len(details.descriptions) == 4
        stream = client.chat.completions.create(
            model=NAME, messages=image_question(), max_tokens=60, stream=True, extra_body=small_fan_out()
        )
        assert any(evidence(chunk) for chunk in stream)
        plain = client.chat.completions.create(
            model=f"{NAME}:direct", messages=image_question(), max_tokens=4
        )
        assert evidence(plain) is None
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.gauge("mirl_requests_total") == 2
