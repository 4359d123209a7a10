"""The command blocks of README and docs/serving.md, and a newcomer's shell: no environment is activated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/serving.md")
Way = Literal["clone", "make", "venv", "pip", "serve", "vllm", "server"]
WAYS: tuple[tuple[str, Way], ...] = (
    ("git clone <this repository>", "clone"),
    ("make ", "make"),
    ("python3 -m venv .venv", "venv"),
    (".venv/bin/pip install ", "pip"),
    (".venv/bin/mirl-serve", "serve"),
    ("VLLM_PLUGINS=mirl .venv/bin/", "vllm"),
    (".venv/bin/mirl ", "server"),
    ("IMAGE=$(base64 ", "server"),
    ("curl -s", "server"),
)
"""How each command is tried, by its first words. `make` targets install, and CI itself runs them; `serve` and
`vllm` start a server on a model that may not be here; `server` needs one."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code in a document."""

    document: str
    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, without comments; a command may have several lines."""
        commands: list[str] = []
        for line in self.code.splitlines():
            # A command goes on while a quotation is open, or after a backslash.
            if commands and (commands[-1].count("'") % 2 or commands[-1].endswith("\\")):
                commands[-1] += f"\n{line}"
            elif command := re.sub(r"(^|\s+)#\s.*$", "", line).strip():
                commands.append(command)
        return commands


def blocks(document: str) -> list[Block]:
    """Return the blocks of code of a document."""
    matches = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)
    return [Block(document, language, code) for language, code in matches]


def commands() -> list[str]:
    """Return the commands of all shell blocks of DOCUMENTS, without repetitions."""
    lines = [
        command
        for document in DOCUMENTS
        for block in blocks(document)
        if block.language in ("sh", "bash", "shell", "console")
        for command in block.commands
    ]
    return list(dict.fromkeys(lines))


def way(command: str) -> Way | None:
    """Return how a command is tried; None: WAYS does not list it."""
    return next((how for words, how in WAYS if command.startswith(words)), None)


class NewcomersShell:
    """A shell in a folder like a fresh clone with its `.venv`, in which no environment is activated.

    The clone and its environment are links to those of the tests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in ROOT.iterdir():
            if path.name not in (".venv", ".git"):
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        inside = Path(sys.prefix) / "bin"
        kept = [part for part in os.environ.get("PATH", "").split(os.pathsep) if Path(part) != inside]
        # Of the environment only what every login has; PYTHONPATH, if tests have one, makes the clone count.
        names = ("HOME", "LANG", "TMPDIR", "PYTHONPATH", "PIP_INDEX_URL", "PIP_CONFIG_FILE")
        self.environment = {name: os.environ[name] for name in names if name in os.environ}
        self.environment["PATH"] = os.pathsep.join(kept)

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run code and return what came of it."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
