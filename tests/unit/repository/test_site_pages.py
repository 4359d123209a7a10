"""The pages of the site: links that work on GitHub become links between pages (docs/site/pages.py)."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", SITE / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "page", "text", "fitted"),
    [
        ("README.md", "index.md", "[s](docs/serving.md#images)", "[s](serving.md#images)"),
        ("README.md", "index.md", "![p](docs/playground.png)", "![p](playground.png)"),
        ("docs/serving.md", "serving.md", "[c](../clients/python/README.md)", "[c](clients/python.md)"),
        ("docs/serving.md", "serving.md", "[q](../README.md#serve)", "[q](quickstart.md#serve)"),
        ("docs/serving.md", "serving.md", "[o](../README.md#evidence)", "[o](index.md#evidence)"),
        ("docs/serving.md", "serving.md", "[c](../clients/playground)", "[c](clients/playground.md)"),
        ("clients/playground/README.md", "clients/playground.md", "[s](../../docs/api.md)", "[s](../api.md)"),
        # The link's own path as its text becomes the page's title.
        ("docs/serving.md", "serving.md", "([api.md](api.md))", "([API reference](api.md))"),
        # No page: its text remains.
        ("docs/benchmarks.md", "benchmarks.md", "[`arms`](../tests/benchmarks/arms.py)", "`arms`"),
        # What leads nowhere stays, and the strict build fails on it.
        ("docs/serving.md", "serving.md", "[x](nowhere.md)", "[x](nowhere.md)"),
        ("docs/serving.md", "serving.md", "[x](https://example.com) [y](#images)", None),
        ("docs/serving.md", "serving.md", "`[x](api.md)` `a`\n\n```sh\n[x](../README.md)\n```", None),
    ],
)
def test_links(pages: ModuleType, source: str, page: str, text: str, fitted: str | None) -> None:
    assert pages.fitted(text, source, page) == (text if fitted is None else fitted)


def test_overview_and_quickstart_share_the_readme(pages: ModuleType) -> None:
    overview, quickstart = pages.split_readme((ROOT / "README.md").read_text(encoding="utf-8"))
    headings = [re.findall(r"^## (.+)$", text, re.M) for text in (overview, quickstart)]
    assert headings[1] == ["The first minute", "Serve"]
    all_of_them = set(re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M))
    assert {*headings[0], *headings[1], *pages.LEFT_OUT} == all_of_them
    assert overview.index("[Quickstart](") < overview.index("![")
    with pytest.raises(ValueError, match=r"README.md lacks: \['Serve'"):
        pages.split_readme("# MIRL\n\n## The first minute\n")


def test_every_document_is_in_the_navigation(pages: ModuleType) -> None:
    listed = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    documents = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted({*documents, *pages.PAGES.values(), pages.QUICKSTART})


def test_vendored_code_is_what_it_was() -> None:
    for line in (SITE / "vendor" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((SITE / "vendor" / name).read_bytes()).hexdigest() == digest
