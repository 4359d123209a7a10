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
    imports = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported_modules(file)
        if name.startswith(("tests.", "."))
        and any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    }
    assert imports == set()


@pytest.fixture
def tracked() -> list[Path]:
    """The tracked files, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_repository_stays_small(tracked: list[Path]) -> None:
    assert sum((ROOT / path).stat().st_size for path in tracked) < 25 * 2**20


def test_folders_of_code_hold_a_dozen_entries_at_most(tracked: list[Path]) -> None:
    entries: dict[Path, set[str]] = {}
    for path in tracked:
        for child in [path, *path.parents][:-2]:
            entries.setdefault(child.parent, set()).add(child.name)
    every_folder_has = {"__init__.py", "__main__.py", "conftest.py", "py.typed", "README.md"}
    rooms = ("mirl_core", "server", "clients", "tests", "deploy")
    sizes = {str(folder): len(names - every_folder_has) for folder, names in entries.items()}
    assert not {name: size for name, size in sizes.items() if size > 12 and name.startswith(rooms)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_in_documents_exist(document: Path) -> None:
    rooms = "mirl_core|server|clients|tests|deploy|requirements"
    paths = re.findall(rf"(?:^|[\s`(])((?:{rooms})/[\w./-]*[\w/])", document.read_text(), re.MULTILINE)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, f"{document.name} names {missing}"


SOURCES = [
    path for root in ("mirl_core", "server", "clients") for path in sorted((ROOT / root).rglob("*.py"))
]


def test_paths_in_code_exist() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    missing = {
        f"{source.relative_to(ROOT)} names {path}"
        for source in [*SOURCES, *tests]
        for path in re.findall(
            r"(?<![\w./-])((?:mirl_core|server|tests|docs)/[\w./-]*\.(?:py|md|yaml))\b", source.read_text()
        )
        if not (ROOT / path).exists()
    }
    assert not missing


def test_contributing_says_where_each_room_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for root in ("mirl_core", "server/mirl_server"):
        rooms = {path.parent.name for path in (ROOT / root).glob("*/__init__.py")} - {"bundled"}
        assert rooms, root
        assert not [room for room in rooms if f"{room}/`" not in text]


def test_names_say_what_the_thing_is() -> None:
    empty = {
        "told",
        "found",
        "asked",
        "given",
        "one",
        "whoever",
        "place",
        "looks",
        "taken",
        "hear",
        "hears",
    }
    names = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = node.name
            else:
                continue
            if name.strip("_").lower() in empty:
                names.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not names


def test_files_are_read_in_one_sitting() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in [*SOURCES, *tests]}
    assert not {str(path): length for path, length in lengths.items() if length > 400}


def test_every_room_says_what_is_in_it() -> None:
    for folder in {path.parent for path in SOURCES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
