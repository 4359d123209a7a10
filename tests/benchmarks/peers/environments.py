"""The peers from PyPI, each in an environment of its own: how they are installed, started and asked.

    python -m tests.benchmarks.peers.environments --install /tmp/mirl-peers

optillm 0.4.0 requires torch, spacy, gradio, bitsandbytes and more, gigabytes of them; its proxy starts with
the few packages that are listed here (its plugins that want the others say so in its log and stay away).
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from mirl_core.bundled import DIGITS
from tests.benchmarks.arms import Proxied
from tests.helpers.ports import reserved_port
from tests.helpers.servers import RunningServer, running

OPTILLM = "optillm==0.4.0"
OPTILLM_NEEDS = (
    "aiohttp", "cerebras_cloud_sdk", "flask", "httpx", "math-verify", "networkx", "numpy", "openai", "pyyaml",
    "requests", "z3-solver<=4.15.4.0",
)  # fmt: skip
ITS_HUB = "its_hub[iaas]==1.2.0"
ANSWER_PATTERN = r"<answer>(.*?)</answer>"
FOLDER = Path("/tmp/mirl-peers")
PLAIN_VLLM = (sys.executable, "-m", "tests.benchmarks.peers.plain_vllm", "--model", DIGITS.name)
"""vLLM's own server, without MIRL, on the digits model."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Both peers, running in front of one model server."""

    optillm: RunningServer | None
    its_hub: RunningServer | None

    def arms(self, model: str, n: int) -> list[Proxied]:
        """The best that each offers for one question, with `n` samples where it lets one choose."""
        arms = []
        if self.optillm is not None:
            client = self.optillm.async_client()
            fields = {"k": n, "temperature": 1.0}
            arms.append(
                Proxied(client, f"majority_voting-{model}", f"optillm, majority_voting k={n}", fields)
            )
            # It has no knob for its five samples, which it asks for one after the other.
            arms.append(Proxied(client, f"self_consistency-{model}", "optillm, self_consistency", {}))
        if self.its_hub is not None:
            arms.append(Proxied(self.its_hub.async_client(), model, f"its_hub, budget={n}", {"budget": n}))
        return arms


def commands(folder: Path) -> list[list[str]]:
    """What installs both peers below `folder`."""
    optillm, its_hub = (str(folder / name / "bin" / "pip") for name in ("optillm", "its_hub"))
    return [
        [sys.executable, "-m", "venv", str(folder / "optillm")],
        [optillm, "install", "-q", "--no-deps", OPTILLM],
        [optillm, "install", "-q", *OPTILLM_NEEDS],
        [sys.executable, "-m", "venv", str(folder / "its_hub")],
        [its_hub, "install", "-q", ITS_HUB],
    ]


@contextlib.contextmanager
def started(folder: Path, upstream: str, model: str, logs: Path) -> Iterator[Peers]:
    """Those peers that are installed in `folder`, in front of the model server at `upstream`."""
    optillm, its_hub = folder / "optillm/bin/optillm", folder / "its_hub/bin/its-iaas"
    # A home of their own: optillm looks for plugins' settings there.
    environment = {"HOME": str(logs), "OPENAI_API_KEY": "none"}
    with contextlib.ExitStack() as stack:
        first = second = None
        if optillm.exists():
            own = logs / "optillm"
            own.mkdir(parents=True, exist_ok=True)
            flags = ["--base-url", f"{upstream}/v1", "--model", model]
            port = stack.enter_context(reserved_port())
            first = stack.enter_context(running(own, flags, [str(optillm)], environment, "/health", port))
        if its_hub.exists():
            own = logs / "its_hub"
            own.mkdir(parents=True, exist_ok=True)
            flags = ["--log-level", "WARNING"]
            port = stack.enter_context(reserved_port())
            command = [str(its_hub)]
            second = stack.enter_context(running(own, flags, command, environment, "/v1/models", port))
            configuration = {
                "endpoint": f"{upstream}/v1",
                "api_key": "none",
                "model": model,
                "alg": "self-consistency",
                "regex_patterns": [ANSWER_PATTERN],
            }
            httpx.post(f"{second.url}/configure", json=configuration, timeout=60).raise_for_status()
        yield Peers(first, second)


def frozen(folder: Path) -> dict[str, list[str]]:
    """The packages in each peer's environment."""
    pips = {name: folder / name / "bin/pip" for name in ("optillm", "its_hub")}
    return {
        name: subprocess.run([pip, "freeze"], capture_output=True, text=True, check=True).stdout.split()
        for name, pip in pips.items()
        if pip.exists()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="FOLDER", default=FOLDER)
    folder = parser.parse_args(arguments).install
    for command in commands(folder):
        print(" ".join(command), flush=True)
        # pip complains of what optillm's metadata wants; that it starts is checked below.
        subprocess.run(command, check=True)
    for script in ("optillm/bin/optillm", "its_hub/bin/its-iaas"):
        subprocess.run(
            [folder / script, "--help"], check=True, capture_output=True, env={"OPENAI_API_KEY": "none"}
        )
    print("both start")


if __name__ == "__main__":
    main()
