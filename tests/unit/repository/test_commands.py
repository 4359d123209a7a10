"""README and docs/serving.md in short form: each command exists and takes its flags. No server is started.

`tests/contract/test_readme.py` and `tests/integration/server/process/test_start.py` run them for real.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from mirl_server.cli.flags.vllm import read_vllm_flags
from tests.helpers.documented_commands import DOCUMENTS, ROOT, NewcomersShell, Way, blocks, commands, way

LANGUAGES = {"", "sh", "python", "yaml", "json", "text"}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> NewcomersShell:
    return NewcomersShell(tmp_path_factory.mktemp("clone"))


def documented(wanted: Way) -> list[str]:
    matching = [command for command in commands() if way(command) == wanted]
    assert matching, f"no command is tried as {wanted}"
    return matching


@pytest.mark.parametrize("command", commands())
def test_every_command_is_listed_and_is_shell(command: str) -> None:
    assert way(command), f"say in tests/helpers/documented_commands.py how to try: {command}"
    checked = command.replace("<this repository>", "here")
    done = subprocess.run(["bash", "-n", "-c", checked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_has_a_language_that_is_tried(document: str) -> None:
    for block in blocks(document):
        assert block.language in LANGUAGES
        if block.language == "python":
            compile(block.code, document, "exec")
        # A block without a language is a drawing.
        assert block.language or not re.search(r"^\s*(\$|curl|pip|make|mirl-)", block.code, re.MULTILINE)


def test_a_newcomers_shell_has_no_environment_activated(shell: NewcomersShell) -> None:
    assert shell.run("command -v mirl-serve").returncode != 0
    assert shell.run(".venv/bin/python -c 'import mirl_server'").returncode == 0
    assert shell.run("echo ${VIRTUAL_ENV-none}").stdout == "none\n"


def test_the_clone_line(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    (line,) = documented("clone")
    code = line.replace("<this repository>", shlex.quote(str(ROOT)))
    trusting = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    environment = {**os.environ, **trusting}
    done = subprocess.run(
        ["bash", "-euc", f"{code}\nls"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert {"Makefile", "README.md", "mirl_core"} <= set(done.stdout.split())


@pytest.mark.parametrize("command", documented("make"))
def test_make_targets_exist(shell: NewcomersShell, command: str) -> None:
    done = shell.run(command.replace("make ", "make --dry-run ", 1))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", documented("pip"))
def test_what_pip_installs_is_declared(shell: NewcomersShell, command: str) -> None:
    assert shell.run("test -x .venv/bin/pip").returncode == 0
    (extra,) = re.findall(r"'\.\[(\w+)\]'", command)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]


@pytest.mark.parametrize("command", documented("serve"))
def test_servers_start_but_for_the_engine(shell: NewcomersShell, command: str) -> None:
    done = shell.run(f"{command} --dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    model = re.search(r"--model (\S+)", command)
    assert model is None or f"- {model[1]}\n" in done.stdout or f"model: {model[1]}\n" in done.stdout


@pytest.mark.parametrize("command", documented("vllm"))
def test_vllms_own_commands_exist_and_take_their_flags(shell: NewcomersShell, command: str) -> None:
    words = shlex.split(command.partition(" ")[2])
    assert shell.run(f"test -x {words[0]}").returncode == 0
    if words[1:2] == ["-m"]:
        package, *below = words[2].split(".")
        spec = find_spec(package)
        assert spec is not None
        (folder,) = spec.submodule_search_locations or ()
        assert Path(folder, *below).with_suffix(".py").is_file()
        flags = words[3:]
    else:
        assert words[1] == "serve"
        flags = words[2:]
    assert read_vllm_flags(flags).model
