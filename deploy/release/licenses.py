"""List the licenses of what MIRL installs: `make licenses`, which writes docs/licenses.md.

The names are those of the lock files of what is served, the licenses what the installed packages say of
themselves.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVED = ("cpu", "gateway")
HEAD = """# Licenses

MIRL is under the [Apache License 2.0](../LICENSE). It distributes no other package: these are the packages
that its lock files install, with the licenses that they state. `make licenses` writes this page. The GPU
image is vLLM's own and has more packages, some of NVIDIA's among them.

`intel-openmp` is not open source: it may be used and passed on under Intel's terms. The CPU image contains
it. Read its license before you publish an image.

| package | version | license |
| --- | --- | --- |
"""


def locked() -> dict[str, str]:
    """Return versions by normalised name, of all lock files of what is served."""
    lines = [line for name in SERVED for line in (ROOT / f"requirements/{name}.lock").read_text().split()]
    return {normalised(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def normalised(name: str) -> str:
    """Return a distribution's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def page(tools: Path) -> str:
    """Return the page.

    Args:
        tools: the folder of pip-licenses.

    Raises:
        ValueError: a locked package is not installed, or is installed in another version.
    """
    listed = json.loads(
        subprocess.run(  # noqa: S603 - a program of ours, by its path
            [
                tools / "pip-licenses",
                f"--python={sys.executable}",
                "--format=json",
                "--from=mixed",
                "--with-system",
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    )
    installed = {normalised(entry["Name"]): (entry["Version"], entry["License"]) for entry in listed}
    rows = []
    for name, version in sorted(locked().items()):
        present, terms = installed.get(name, (None, ""))
        if present != version:
            raise ValueError(f"{name} {version} is locked and {present} is installed: make install-dev")
        # Some packages have the whole text in the field.
        short = " ".join(terms.split()).replace("|", "/")
        rows.append(f"| {name} | {version} | {short if len(short) <= 90 else short[:90] + ' …'} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the page of licenses.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--tools", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.page.write_text(page(chosen.tools), encoding="utf-8")
