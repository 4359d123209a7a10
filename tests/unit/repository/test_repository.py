"""What the project says about itself holds: make targets, recipes' names, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_make_targets_that_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z][\w-]*)", document.read_text())) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_ci_runs_what_the_readme_names() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make check" in script
    assert "make test" in script
    assert "make test" in (ROOT / "README.md").read_text()


def test_lock_files_leave_out_what_breaks_a_cpu_machine() -> None:
    for name in ("cpu.lock", "dev.lock"):
        lock = (ROOT / "requirements" / name).read_text()
        assert not re.search(r"^(torchvision|torchaudio|torchcodec|triton)\b", lock, re.MULTILINE)
        assert re.search(r"^torch==2\.13\.0\+cpu$", lock, re.MULTILINE)


def imported_modules(file: Path) -> set[str]:
    """Return the dotted names of what a file imports, with each name that it takes from a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def test_no_test_file_or_conftest_is_imported_by_another() -> None:
    found = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported_modules(file)
        if name.startswith(("tests.", "."))
        and any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    }
    assert found == set()


def test_the_repository_stays_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = [(ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    assert sum(sizes) < 25 * 2**20
