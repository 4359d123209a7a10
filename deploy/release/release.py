"""Build what a release consists of from a commit: `make release`, or `python deploy/release/release.py dist`.

The same commit gives the same bytes, whatever lies in the work tree and wherever it is built: the sources
are those of the commit, and every time stamp is the commit's. The folder then holds wheels and source
distributions of `mirl` and `mirl-client`, the TypeScript package, the Helm chart, bills of material
(CycloneDX) of the lock files, and SHA256SUMS.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TYPESCRIPT, CHART = "clients/typescript", "deploy/helm/mirl"
PROJECTS = {"mirl": ".", "mirl-client": "clients/python"}
"""Python distributions and their folders."""
SERVED = ("cpu", "gateway")
"""Lock files of what is served; those of tests and checks are no part of a release."""


def release(target: Path, commit: str, tools: Path) -> None:
    """Build all files of a release.

    Args:
        target: a folder that does not exist yet, or is empty.
        commit: a name that git knows.
        tools: the folder of the programs of requirements/tools.lock.

    Raises:
        FileExistsError: `target` holds files.
        subprocess.CalledProcessError: a program failed; its output is on stderr.
    """
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty: remove it, or name another folder")
    tools = tools.resolve()
    seconds = int(_output("git", "log", "-1", "--format=%ct", commit))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds), "TZ": "UTC"}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        _export(commit, source)
        for project in PROJECTS.values():
            _run(
                *(sys.executable, "-m", "hatchling", "build"),
                *("-t", "sdist", "-t", "wheel", "-d", str(target.resolve())),
                cwd=source / project,
                environment=environment,
            )
        _pack_typescript(source / TYPESCRIPT, target, environment)
        _pack_chart(source / CHART, target, seconds)
        for name in SERVED:
            _describe_lock(source, name, target, tools)
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(target.iterdir())
    ]
    (target / "SHA256SUMS").write_text("".join(sums))


def _export(commit: str, folder: Path) -> None:
    archive = subprocess.run(  # noqa: S603 - a program of ours
        ["git", "archive", "--format=tar", commit],  # noqa: S607 - as make finds it
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as content:
        content.extractall(folder, filter="data")


def _pack_typescript(folder: Path, target: Path, environment: Mapping[str, str]) -> None:
    _run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder, environment=environment)
    _run("npm", "run", "--silent", "build", cwd=folder, environment=environment)
    _run(
        "npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(target.resolve()),
        cwd=folder, environment=environment,
    )  # fmt: skip
    made = _output(
        "npm", "sbom", "--sbom-format", "cyclonedx", "--package-lock-only", "--omit", "dev", cwd=folder
    )
    _write_bill(json.loads(made), target / "mirl-client-typescript.cdx.json")


def _pack_chart(folder: Path, target: Path, seconds: int) -> None:
    """Write the chart as `helm package` does, with the time stamps of the commit."""
    version = re.search(r"^version: *[\"']?([^\s\"']+)", (folder / "Chart.yaml").read_text(), re.M)
    if version is None:
        raise ValueError(f"{folder}/Chart.yaml has no version")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        # Chart.yaml comes first, as Helm writes it.
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda path: path.name != "Chart.yaml"):
            entry = tarfile.TarInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}")
            entry.size, entry.mtime, entry.mode = file.stat().st_size, seconds, 0o644
            archive.addfile(entry, io.BytesIO(file.read_bytes()))
    name = target / f"{folder.name}-chart-{version[1]}.tgz"
    name.write_bytes(gzip.compress(packed.getvalue(), mtime=seconds))


def _describe_lock(source: Path, name: str, target: Path, tools: Path) -> None:
    made = _output(
        *(str(tools / "cyclonedx-py"), "requirements", f"requirements/{name}.lock"),
        *("--pyproject", "pyproject.toml", "--output-reproducible", "--short-PURLs", "--of", "JSON"),
        cwd=source,
    )
    bill = json.loads(made)
    # It is dynamic in pyproject.toml, and therefore not in the bill.
    (wheel,) = target.glob("mirl-*.whl")
    bill["metadata"]["component"]["version"] = wheel.name.split("-")[1]
    _write_bill(bill, target / f"mirl-{name}.cdx.json")


def _write_bill(bill: dict[str, object], file: Path) -> None:
    """Write a bill of materials without what differs from one run to the next."""
    bill.pop("serialNumber", None)
    metadata = bill.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("timestamp", None)
    file.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")


def _output(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(  # noqa: S603 - programs of ours
        command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def _run(*command: str, cwd: Path, environment: Mapping[str, str]) -> None:
    subprocess.run(  # noqa: S603 - programs of ours
        command, cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def main() -> None:
    """Build a release by the command line."""
    parser = argparse.ArgumentParser(description="Build the files of a release from a commit.")
    parser.add_argument("target", type=Path, help="a folder that is empty or does not exist")
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--tools", type=Path, default=ROOT / ".venv/tools/bin")
    chosen = parser.parse_args()
    for program in ("git", "npm", str(chosen.tools / "cyclonedx-py")):
        if shutil.which(program) is None:
            parser.exit(2, f"{program} is not installed (`make release` installs what Python has)\n")
    try:
        release(chosen.target, chosen.commit, chosen.tools)
    except FileExistsError as error:
        parser.exit(2, f"{error}\n")
    print((chosen.target / "SHA256SUMS").read_text(), end="")


if __name__ == "__main__":
    main()
