"""Images that are built here and their containers: buildah and podman, on a stand-in of the official base.

The base of the images is the official Python image, which comes from a registry. Here Debian's own Python
takes its place, under its name: what is tested is all that a Dockerfile adds to it. The base also has the
certificates and settings of pip of this machine. Storage and base stay in build/containers between runs.
"""

from __future__ import annotations

import ast
import contextlib
import os
import platform
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest

from tests.deploy.tools import ROOT, output_of, tool
from tests.helpers.ports import listening_port
from tests.helpers.waiting import wait_until

STORE = ROOT / "build" / "containers"
STORAGE = ("--root", str(STORE / "storage"), "--runroot", str(STORE / "run"))
PYTHON_IMAGE = "docker.io/library/python:3.11-slim"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 600
# A container without rights may not raise a limit, and this machine's may be below podman's defaults.
LIMITS = ("nofile=1024:1024", "nproc=1024:1024")


def buildah(*arguments: str | Path) -> str:
    """Run buildah on the storage of these tests."""
    return output_of(tool("buildah"), *STORAGE, *arguments)


def podman(*arguments: str | Path) -> str:
    """Run podman on the same storage, with runc."""
    return output_of(tool("podman"), *STORAGE, "--runtime", "runc", *arguments)


def podman_settings() -> Path:
    """Return a file of podman's settings: the limits, and a network in which containers have names."""
    file = STORE / "containers.conf"
    limits = ", ".join(f'"{limit}"' for limit in LIMITS)
    file.write_text(f'[containers]\ndefault_ulimits = [{limits}]\n[network]\nnetwork_backend = "netavark"\n')
    return file


def podman_script() -> Path:
    """Return a script that runs podman as `podman` here does, for programs that call it."""
    script = STORE / "podman"
    script.write_text(f'#!/bin/sh\nexec {shlex.join([tool("podman"), *STORAGE, "--runtime", "runc"])} "$@"\n')
    script.chmod(0o755)
    return script


def play(file: Path) -> None:
    """Run a manifest's pods, with the limits that `running_container` sets too."""
    with patch.dict(os.environ, {"CONTAINERS_CONF": str(podman_settings())}):
        podman("kube", "play", "--replace", file)


def pip_settings() -> dict[str, str]:
    """Return this machine's settings of pip, from its files and the environment, by their long names."""
    lines = output_of(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = {}
    for line in lines:
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    return settings


def local_folders(settings: dict[str, str]) -> list[Path]:
    """Return the folders of this machine from which pip installs."""
    words = " ".join(
        settings.get(name, "") for name in ("find-links", "extra-index-url", "index-url")
    ).split()
    folders = {Path(word.removeprefix("file://")) for word in words if word.startswith(("/", "file://"))}
    # An index refers to files beside it.
    return sorted({folder.parent if folder.name == "simple" else folder for folder in folders})


def make_base() -> None:
    """Make the stand-in of the official Python image, if it is not there."""
    if os.geteuid() != 0:
        pytest.skip("images are built by root here")
    STORE.mkdir(parents=True, exist_ok=True)
    if PYTHON_IMAGE in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    archive = STORE / "base.tar"
    output_of(
        tool("mmdebstrap"), "--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
        platform.freedesktop_os_release()["VERSION_CODENAME"], archive,
    )  # fmt: skip
    names = ("cert", "find-links", "extra-index-url", "index-url")
    settings = {name: value for name, value in pip_settings().items() if name in names}
    configuration = STORE / "pip.conf"
    configuration.write_text(
        "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    container = buildah("from", "scratch").strip()
    buildah("add", container, archive, "/")
    buildah("add", container, configuration, "/etc/pip.conf")
    if CERTIFICATES.is_file():
        buildah("add", container, CERTIFICATES, CERTIFICATES)
    buildah("config", "--env", f"PATH={PATH}", container)
    buildah("commit", "--rm", container, PYTHON_IMAGE)
    archive.unlink()


@dataclass(frozen=True)
class Image:
    """An image that was built."""

    name: str
    bytes: int
    build_seconds: float


def build_image(name: str) -> Image:
    """Build the image of a folder of deploy/docker.

    `MIRL_IMAGE_ARGUMENTS` may have further build arguments, `PIP_COMPILE=0` for one, separated by spaces.
    """
    make_base()
    # torch comes from this machine's own folders, if it has any.
    arguments = ["PIP_EXTRA_INDEX_URL=", *os.environ.get("MIRL_IMAGE_ARGUMENTS", "").split()]
    volumes = [f"{folder}:{folder}:ro" for folder in local_folders(pip_settings())]
    began = time.monotonic()
    buildah(
        "bud", "--pull-never", "--isolation", "chroot", "--layers", "--format", "docker",
        *(part for argument in arguments for part in ("--build-arg", argument)),
        *(part for volume in volumes for part in ("--volume", volume)),
        "--file", ROOT / "deploy" / "docker" / name / "Dockerfile", "--tag", f"localhost/mirl-{name}", ROOT,
    )  # fmt: skip
    size = int(podman("image", "inspect", "--format", "{{.Size}}", f"localhost/mirl-{name}"))
    return Image(f"localhost/mirl-{name}", size, time.monotonic() - began)


@dataclass(frozen=True)
class Container:
    """A running container, on this machine's network."""

    name: str
    url: str
    start_seconds: float
    """From the command to the first 200 of `/health`."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it; it may fail."""
        return subprocess.run(
            [tool("podman"), *STORAGE, "--runtime", "runc", "exec", self.name, *command],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and the seconds until it ended."""
        began = time.monotonic()
        podman("kill", "--signal", "TERM", self.name)
        code = int(podman("wait", self.name).split()[-1])
        return code, time.monotonic() - began


@contextlib.contextmanager
def running_container(image: Image, flags: Sequence[str] = ()) -> Iterator[Container]:
    """Run a container without any right and with a read-only root, and yield it once `/health` is 200."""
    name = f"{image.name.rpartition('/')[2]}-{secrets.token_hex(4)}"
    began = time.monotonic()
    podman(
        *("run", "--detach", "--name", name, "--network", "host", "--read-only", "--cap-drop=all"),
        *("--security-opt", "no-new-privileges"),
        *(part for limit in LIMITS for part in ("--ulimit", limit)),
        *(image.name, "--host", "127.0.0.1", "--port", "0", *flags),
    )
    try:

        def url() -> str | None:
            state, process = podman("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", name).split()
            assert state != "exited", podman("logs", name)
            port = listening_port(int(process)) if state == "running" else None
            return None if port is None else f"http://127.0.0.1:{port}"

        def healthy() -> bool:
            address = url()
            with contextlib.suppress(httpx.TransportError):
                return address is not None and httpx.get(f"{address}/health", timeout=5).status_code == 200
            return False

        wait_until(healthy, START_SECONDS)
        yield Container(name, str(url()), time.monotonic() - began)
    finally:
        podman("rm", "--force", "--time", "0", name)
