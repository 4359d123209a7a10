"""`make docs` builds the site without a warning, and the site sends no request to another host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.opened import launch

ROOT = Path(__file__).parents[3]
SITE = ROOT / "build" / "site"
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Network is unreachable"
    r"|Connection refused|timed out",
)
FOREIGN = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]*")

pytestmark = pytest.mark.full


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make beside the environment of the tests."""
    command = ["make", "-C", str(ROOT), f"VENV={sys.prefix}", f"PYTHON={sys.executable}", *words]
    # Of PYTHONPATH the environment of the site must know nothing.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site() -> Path:
    """Return the folder of the site; skip where its generator can't be installed without a network."""
    installed = make(f"{sys.prefix}/docs/.done")
    if installed.returncode and NO_NETWORK.search(installed.stderr):
        pytest.skip("requirements/docs.lock can't be installed: there is no network")
    assert installed.returncode == 0, installed.stderr
    shutil.rmtree(SITE, ignore_errors=True)
    built = make("docs")
    assert built.returncode == 0, built.stdout + built.stderr
    return SITE


def test_every_page_of_the_navigation_is_there(site: Path) -> None:
    listed = re.findall(r"^ +- [^:]+: (\S+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(listed) > 20
    assert [page for page in listed if not (site / f"{page}.html").is_file()] == []


def test_no_page_or_style_names_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert [(page.name, tag) for page in pages for tag in FOREIGN.findall(page.read_text("utf-8"))] == []
    styles = sorted(site.rglob("*.css"))
    assert styles
    assert [
        style for style in styles if re.search(r"url\([\"']?(https?:)?//", style.read_text("utf-8"))
    ] == []


def test_the_search_works_in_files_without_a_request(site: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: `make browser` installs it from Debian's packages")
    pytest.importorskip("playwright", reason="playwright is not installed: `make install-dev` installs it")
    requests: list[str] = []
    with launch() as browser:
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto((site / "index.html").as_uri())
        # The search begins with the focus, and reads keys.
        page.locator("input.md-search__input").click()
        page.locator("input.md-search__input").press_sequentially("raw_logprobs")
        result = page.locator(".md-search-result__link").first
        result.wait_for(state="attached")
        assert "troubleshooting.html" in (result.get_attribute("href") or "")
    assert requests
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
