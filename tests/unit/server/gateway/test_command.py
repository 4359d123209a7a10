"""The command line of a gateway: its flags, those of engines, and the process without vLLM and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mirl_server.cli.flags.vllm import names
from mirl_server.cli.main import main
from mirl_server.gateway.flags import DEFAULTS
from tests.unit.server.gateway.gateway_cases import NAME, FakeVLLM
from tests.unit.server.http.serving import serving

URL = ("--engine-url", "http://127.0.0.1:9")


def test_flags_that_are_taken_are_vllms() -> None:
    assert {f"--{name}" for name in DEFAULTS} <= names()


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--max-model-len", "5"], "--max-model-len is an engine's flag"),
        (["--tensor-parallel-size=2"], "--tensor-parallel-size is an engine's flag"),
        (["--enable-scale-out"], "--enable-scale-out is an engine's flag"),
        (["--model", "m"], "--engine-model"),
        (["a/model"], "a/model: the engines choose the model"),
        (["--served-model-name", "m"], "--served-model-name is an engine's flag"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--engine-url", "ftp://a"], "http://HOST:PORT"),
        (["--engine-url", "http://user:secret-word@a"], "the URL of a carries a password"),
        (["--engine-url", "nonsense"], "http://HOST:PORT"),
        (["--engine-mode", "other"], "--engine-mode"),
        (["--ssl-keyfile", "/nowhere"], "--ssl-keyfile /nowhere"),
        (["--port", "99999"], "--port 99999"),
        (["--mirl-calibration", "/nowhere"], "calibration /nowhere"),
        (["--api-key-file", "/nowhere"], "/nowhere"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *URL] if arguments[0][0] != "-" else [*URL, *arguments]) == 2
    stderr = capsys.readouterr().err
    assert wrong in stderr
    assert stderr.count("\n") == 1
    assert "secret-word" not in stderr


def test_a_dry_run_prints_what_a_file_may_hold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRL_ENGINE__API_KEY", "secret-word")
    flags = [*URL, "--engine-url", "http://b:8000/v1/", "--port", "9001", "--allowed-origins", '["http://a"]']
    assert main([*flags, "--dry-run"]) == 0
    stdout = capsys.readouterr().out
    assert "secret-word" not in stdout
    content = yaml.safe_load(stdout)
    assert content["port"] == 9001
    assert content["allowed-origins"] == ["http://a"]
    assert content["mirl"]["engine"]["urls"] == ["http://127.0.0.1:9", "http://b:8000/v1/"]
    file = tmp_path / "gateway.yaml"
    monkeypatch.delenv("MIRL_ENGINE__API_KEY")
    file.write_text("port: 9002\nmirl: {engine: {urls: ['http://c:1'], model: m}}\n")
    assert main(["--config", str(file), "--dry-run"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["port"] == 9002
    assert content["mirl"]["engine"]["urls"] == ["http://c:1"]
    file.write_text("max-model-len: 5\nmirl: {engine: {urls: ['http://c:1']}}\n")
    assert main(["--config", str(file), "--dry-run"]) == 2


def test_the_environment_lists_engines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRL_ENGINE__URLS", "http://a:1, http://b:2")
    assert main(["--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["mirl"]["engine"]["urls"] == ["http://a:1", "http://b:2"]


PROCESS = """
import asyncio, json, sys
sys.modules["vllm"] = sys.modules["torch"] = None  # an import of either raises
import httpx
from mirl_server.gateway.app import make_gateway
from mirl_server.gateway.flags import GatewayFlags
from mirl_server.settings.server import ServerSettings
from tests.unit.server.gateway.gateway_cases import FakeFleet

async def start(urls, **how):
    return FakeFleet(urls)

async def run(url):
    gateway = make_gateway(ServerSettings.load(engine={"urls": [url]}), GatewayFlags(), start=start)
    async with gateway.app.router.lifespan_context(gateway.app):
        while not gateway.service.names:
            await asyncio.sleep(0.01)
        transport = httpx.ASGITransport(gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            plain = await client.post("/v1/completions", json={"model": "m", "prompt": "x"})
            gated = await client.post("/v1/chat/completions", json=json.loads(sys.argv[2]))
            print(json.dumps([plain.json(), gated.json()]))

asyncio.run(run(sys.argv[1]))
assert not [name for name in sys.modules if name.startswith(("vllm.", "torch."))]
"""


async def test_no_vllm_and_no_torch(capfd: pytest.CaptureFixture[str]) -> None:
    import asyncio

    from tests.unit.server.harness import question

    async with serving(FakeVLLM().app) as port:
        body = {"model": NAME, "messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, f"http://127.0.0.1:{port}", json.dumps(body),
            stdout=subprocess.PIPE, cwd=Path(__file__).parents[4],
        )  # fmt: skip
        out, _ = await process.communicate()
    assert process.returncode == 0
    plain, gated = json.loads(out)
    assert plain["path"] == "/v1/completions"
    assert gated["choices"][0]["message"]["content"] == "7"
