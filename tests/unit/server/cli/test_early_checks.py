"""What is checked before vLLM is imported: the address, the model, files. Each fault is one sentence."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import pytest
from huggingface_hub import constants

from mirl_core.bundled import CHARTS, MODELS
from mirl_core.errors import ConfigError
from mirl_server.cli import early_checks, model_check
from mirl_server.cli.early_checks import address_problem, check_address, check_early, is_address_error
from mirl_server.cli.flags.server import UsageError
from mirl_server.cli.flags.vllm import VLLMFlags
from mirl_server.cli.model_check import check_packages
from mirl_server.settings.server import ServerSettings


def check(*, to_start: bool = False, settings: dict[str, Any] | None = None, **values: Any) -> None:
    named = {name.replace("_", "-"): value for name, value in values.items()}
    check_early(VLLMFlags(named), ServerSettings.load(**(settings or {})), to_start)


def problem(**values: Any) -> str | None:
    """Return why these values are refused; None: they are not."""
    try:
        check(**values)
    except (UsageError, ConfigError) as error:
        return str(error)
    return None


def refusal(**values: Any) -> str:
    said = problem(**values)
    assert said is not None
    return said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a folder that passes as a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "", "::1"])
def test_a_taken_port_is_refused_and_a_free_port_stays_free(host: str) -> None:
    with socket.socket(socket.AF_INET6 if host == "::1" else socket.AF_INET) as other:
        try:
            other.bind((host, 0))
        except OSError:
            pytest.skip(f"no {host} here")
        port: int = other.getsockname()[1]
        other.listen()
        with pytest.raises(UsageError, match=rf"port {port} on .* is taken by another process; .*--port"):
            check_address(host, port)
    check_address(host, port)
    check_address(host, port)
    check_address(host, 0)


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", 65536, "a port is a number from 0 to 65535"),
        ("127.0.0.1", -1, "a port is a number from 0 to 65535"),
        ("192.0.2.7", 8000, "this machine has no such address"),
        ("no-such-host.invalid", 8000, "the name is unknown"),
    ],
)
def test_an_address_that_cannot_be(host: str, port: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_address(host, port)


def test_other_faults_of_an_address_have_a_sentence_too() -> None:
    assert "from 1024 on" in address_problem(PermissionError(13, "Permission denied"), "127.0.0.1", 80)
    assert (
        address_problem(OSError(5, "Input/output error"), "h", 1)
        == "can't listen on h port 1: Input/output error"
    )
    assert is_address_error(OSError(98, "Address already in use"))
    assert not is_address_error(OSError(2, "No such file or directory"))
    assert not is_address_error(ValueError(98))


def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    check_address("", 0, str(tmp_path / "new.sock"))
    (tmp_path / "old.sock").touch()
    with pytest.raises(UsageError, match="this file exists"):
        check_address("", 0, str(tmp_path / "old.sock"))
    with pytest.raises(UsageError, match="there is no folder"):
        check_address("", 0, str(tmp_path / "none" / "new.sock"))


@pytest.mark.parametrize("name", [None, *MODELS])
def test_a_bundled_model_is_there(name: str | None) -> None:
    assert problem(model=name) is None


def test_a_folder_with_a_config_is_a_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem(model=str(model)) is None
    assert problem(model_tag=str(model)) is None
    monkeypatch.chdir(model.parent)
    assert problem(model="model") is None  # looks like a hub's name
    assert problem(model="./model") is None
    monkeypatch.setenv("HOME", str(model.parent))
    assert problem(model="~/model") is None
    (model / "config.json").rename(model / "params.json")
    assert problem(model=str(model)) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not readable JSON"),
        (lambda folder: (folder / "config.json").unlink(), "the folder has no config.json"),
        (lambda folder: (folder / "mirl.json").write_text("{"), "mirl.json is not readable JSON"),
        (lambda folder: (folder / "mirl.json").write_text('{"option": {}}'), "unknown key 'option'"),
        (
            lambda folder: (folder / "mirl.json").write_text('{"reference_images": ["no.png"]}'),
            "reference image .*no.png: .*No such file",
        ),
        (
            lambda folder: (folder / "mirl.json").write_text('{"reference_images": ["config.json"]}'),
            "reference image .*config.json",
        ),
    ],
)
def test_a_folder_that_is_no_model(model: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(model)
    with pytest.raises((UsageError, ConfigError), match=said):
        check(model=str(model))


def test_weights_in_one_file_or_elsewhere(model: Path) -> None:
    (model / "config.json").unlink()
    check(model=str(model), hf_config_path="somewhere")
    (model / "w.gguf").touch()
    check(model=str(model))
    check(model=str(model / "w.gguf"))
    check(model="s3://bucket/model")
    (model / "w.bin").touch()
    assert "is a file; a model is a folder" in refusal(model=str(model / "w.bin"))


@pytest.mark.parametrize("path", ["/no/where", "./no-where", "../no", "~/no-where-at-all"])
def test_a_folder_that_is_not_there(path: str) -> None:
    assert refusal(model=path).startswith("there is no model at ")


@pytest.mark.parametrize("name", ["a/b/c", "what is this", "models/", "a b/c"])
def test_what_is_neither_a_folder_nor_a_hubs_name(name: str) -> None:
    assert "no name of a model hub's" in refusal(model=name, to_start=True)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], list[str]]:
    """Return a function that makes the hub answer with an error or without; it returns the requested URLs."""

    def let(error: Exception | None) -> list[str]:
        urls: list[str] = []

        def metadata(url: str, timeout: float) -> None:
            urls.append(url)
            if error is not None:
                raise error

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "get_hf_file_metadata", metadata)
        monkeypatch.setattr(early_checks, "check_address", lambda *_: None)
        return urls

    return let


def hub_error(name: str) -> Exception:
    """Return an error of a class of this name, as each version of the hub's client has one."""
    kind: type[Exception] = type(name, (Exception,), {})
    return kind("[Errno -2] Name or service not known")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ConnectError", "no model org/name in the local cache; the hub can't be reached: .*not known"),
        ("ConnectTimeout", "the hub can't be reached"),
        ("OfflineModeIsEnabled", "the hub can't be reached"),
        ("RepositoryNotFoundError", "in the local cache or at the hub; a private one needs HF_TOKEN"),
        ("GatedRepoError", "org/name is gated"),
        ("RevisionNotFoundError", "org/name has no revision v2"),
    ],
)
def test_a_model_that_the_hub_does_not_give(
    answer: Callable[[Exception | None], list[str]], name: str, said: str
) -> None:
    urls = answer(hub_error(name))
    with pytest.raises(UsageError, match=said):
        check(model="org/name", revision="v2", to_start=True)
    assert [url.partition("org/name")[2] for url in urls] == ["/resolve/v2/config.json"]


@pytest.mark.parametrize("name", [None, "EntryNotFoundError", "ReadTimeout", "HfHubHTTPError"])
def test_what_the_hub_leaves_open_is_left_to_vllm(
    answer: Callable[[Exception | None], list[str]], name: str | None
) -> None:
    urls = answer(hub_error(name) if name else None)
    check(model="org/name:Q4_K_M", to_start=True)
    assert len(urls) == 1
    check(model="org/name")  # a dry run asks nobody
    assert len(urls) == 1


def test_a_model_in_the_cache_needs_no_hub(
    answer: Callable[[Exception | None], list[str]], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = answer(hub_error("ConnectError"))
    cached = {"config.json": str(model / "config.json")}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file, revision: cached.get(file))
    check(model="org/name", to_start=True)
    (model / "mirl.json").write_text('{"options": {"keep": 0}}')
    with pytest.raises(ConfigError, match=r"mirl\.json: options\.keep"):
        check(model="org/name", to_start=True)
    assert urls == []


def test_offline_by_choice_asks_nobody_and_names_a_bundled_model(
    answer: Callable[[Exception | None], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = answer(None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refusal(model="mirl-chart", to_start=True)
    assert "HF_HUB_OFFLINE forbids to ask the hub (did you mean mirl-charts?)" in said
    assert urls == []
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "true")
    check(model="org/name", to_start=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"logprobs_mode": "processed_logprobs"}, "needs raw_logprobs"),
        ({"chat_template": "/no/template.jinja"}, "there is no such file"),
        ({"ssl_certfile": "/no/cert.pem"}, "--ssl-certfile /no/cert.pem: the file is not there"),
        ({"ssl_keyfile": __file__}, "--ssl-keyfile needs --ssl-certfile"),
        ({"ssl_certfile": __file__, "ssl_keyfile": __file__}, "no valid pair with the key"),
    ],
)
def test_values_that_vllm_would_refuse_only_with_its_engine(values: dict[str, Any], said: str) -> None:
    assert said in refusal(**values)


def test_a_template_may_stand_on_the_command_line(tmp_path: Path) -> None:
    assert problem(chat_template="{{ messages }}") is None
    (tmp_path / "t.jinja").touch()
    assert problem(chat_template=str(tmp_path / "t.jinja")) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"access": {"key_file": "/no/keys"}}, "API key file /no/keys: can't be read"),
        ({"access": {"keys": "a: short"}}, "MIRL_ACCESS__KEYS"),
        ({"calibration": "/no/where"}, "calibration /no/where: no mirl.json there"),
    ],
)
def test_files_of_settings(settings: dict[str, Any], said: str) -> None:
    assert said in refusal(settings=settings)


def test_the_operators_calibration_counts(tmp_path: Path) -> None:
    (tmp_path / "mirl.json").write_text('{"options": {"keep": 3}}')
    check(settings={"calibration": str(tmp_path)})
    check(settings={"calibration": str(tmp_path / "mirl.json")})
    (tmp_path / "other.json").write_text("{}")
    assert "no mirl.json there" in refusal(settings={"calibration": str(tmp_path / "other.json")})
    (tmp_path / "mirl.json").write_text('{"options": {"keep": "x"}}')
    assert "mirl.json: options.keep" in refusal(settings={"calibration": str(tmp_path)})


COMMANDS = (
    (["--prot", "9000"], "unrecognized arguments: --prot (did you mean --port?)"),
    (["--port", "x"], "argument --port: invalid int value: 'x'"),
    (["--port", "{taken}"], "port {taken} on 127.0.0.1 is taken"),
    (["--model", "/no/where"], "there is no model at /no/where"),
    (["--mirl-default", "kep=3"], "defaults: unknown key 'kep'"),
    (["--mirl-keep-alive", "soon"], "argument --mirl-keep-alive: invalid float value: 'soon'"),
    (["--api-key-file", "/no/keys"], "API key file /no/keys: can't be read"),
    (["--config", "/no/config.yaml"], "config /no/config.yaml can't be read"),
    (["--dry-run", "--dtype", "flaot16"], "argument --dtype: invalid choice: 'flaot16'"),
)


def test_a_wrong_command_is_one_line_and_exit_code_2_without_vllm() -> None:
    """All of them in one interpreter: the light imports are the same."""
    code = """
import contextlib, io, json, sys
from mirl_server.cli.main import main
answers = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        answers.append([main(arguments), said.getvalue()])
loaded = sorted({"torch", "vllm", "transformers", "fastapi"} & set(sys.modules))
print(json.dumps([answers, loaded]))
"""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        commands = [[word.replace("{taken}", taken) for word in words] for words, _ in COMMANDS]
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=True
        )
    answers, loaded = json.loads(done.stdout)
    for (_, said), (status, line) in zip(COMMANDS, answers, strict=True):
        assert status == 2
        assert line.startswith(f"mirl-serve: error: {said.replace('{taken}', taken)}")
        assert line.count("\n") == 1
    assert loaded == []


def test_a_dry_run_needs_no_vllm_and_no_free_port(tmp_path: Path) -> None:
    code = (
        "import sys; from mirl_server.cli.main import main; status = main(sys.argv[1:])\n"
        "assert not {'torch', 'vllm', 'fastapi'} & set(sys.modules); sys.exit(status)"
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        flags = ["--port", str(other.getsockname()[1]), "--enable-log-requests", "--mirl-limit", "max_keep=2"]
        done = subprocess.run(
            [sys.executable, "-c", code, "--dry-run", *flags],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "VLLM_TARGET_DEVICE": "cpu"},
        )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in (f"port: {flags[1]}", "enable-log-requests: true", "host: 127.0.0.1", "block-size: 32",
                 "distributed-executor-backend: uni", f"model: {CHARTS.path}", "- mirl-charts"):  # fmt: skip
        assert line in lines


@pytest.mark.parametrize(
    ("model_type", "missing"),
    [
        ("qwen2_5_vl", "torchvision"),
        ("llava", "torchvision"),
        ("smolvlm", "num2words"),
        ("smolvlm", "torchvision"),
        ("idefics3", None),
        ("a_new_type", None),
        (None, None),
    ],
)
def test_a_missing_package_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, model_type: str | None, missing: str | None
) -> None:
    (model / "config.json").write_text(json.dumps({} if model_type is None else {"model_type": model_type}))
    gone = (missing,) if missing else ("torchvision", "num2words")
    monkeypatch.setattr(model_check, "find_spec", lambda name: None if name in gone else object())
    if missing is None:
        check_packages(model)
    else:
        with pytest.raises(
            UsageError, match=f"{model_type} need {missing}, which is not installed"
        ) as caught:
            check_packages(model)
        assert f"pip install {missing}" in str(caught.value)


def test_mistrals_own_format_needs_torchvision_for_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_check, "find_spec", lambda name: None)
    (tmp_path / "params.json").write_text(json.dumps({"dim": 64}))
    check_packages(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps({"dim": 64, "vision_encoder": {"hidden_size": 64}}))
    with pytest.raises(UsageError, match="pixtral need torchvision"):
        check_packages(tmp_path)
