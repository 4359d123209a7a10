"""The playground in a browser, and what a test does with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

HEIGHT = 900
SECONDS = 60_000
"""Milliseconds after which a wait fails; a busy machine is slow."""
WATCH = """
window.seen = {};
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(event.violatedDirective);
});
const parts = {row: ".row", cut: ".cut", chip: ".chip:not(.running)", answer: ".answer .text", cost: ".cost"};
new MutationObserver(() => {
  for (const [name, selector] of Object.entries(parts)) {
    if (!(name in window.seen) && document.querySelector(selector)) window.seen[name] = performance.now();
  }
}).observe(document, {subtree: true, childList: true});
"""
"""Runs before the page's own scripts: notes when each part of an answer first appears."""


@contextlib.contextmanager
def launch() -> Iterator[Browser]:
    """Yield Debian's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium's own sandbox refuses to start.
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@dataclass
class Opened:
    """A page of the playground."""

    page: Page
    host: str
    requested: list[str] = field(default_factory=list)
    """URLs of all requests."""
    errors: list[str] = field(default_factory=list)
    """Errors of scripts, and those that the console shows."""
    expected: list[str] = field(default_factory=list)
    """Pieces of errors that the test provokes."""

    @classmethod
    def open(cls, browser: Browser, url: str, width: int, theme: Any, ready: bool = True) -> Opened:
        """Open a page, and wait for its sample picture unless the test needs none (`ready`)."""
        context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=theme)
        context.set_default_timeout(SECONDS)
        context.add_init_script(WATCH)
        page = context.new_page()
        opened = cls(page, urlsplit(url).netloc)
        page.on("request", lambda request: opened.requested.append(request.url))
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on(
            "console",
            lambda line: opened.errors.append(line.text) if line.type in ("error", "warning") else None,
        )
        page.goto(url)
        if ready:
            page.locator(".picture img").wait_for()
        return opened

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self) -> None:
        """Press Ask once it can be pressed, and wait for the whole answer."""
        self.button("Ask").click()
        self.page.get_by_label("Ask on in this conversation").wait_for()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def violations(self) -> list[str]:
        violated: list[str] = self.page.evaluate("window.violations")
        return violated

    def check(self) -> None:
        """Check that there was no other host, violation or unexpected error, and that nothing is stored."""
        foreign = [url for url in self.requested if urlsplit(url).netloc not in (self.host, "")]
        assert foreign == []
        assert self.violations() == []
        unexpected = [line for line in self.errors if not any(piece in line for piece in self.expected)]
        assert unexpected == []
        state = self.page.context.storage_state()
        assert (state["cookies"], state["origins"]) == ([], [])


def axe() -> str:
    """Return the source of axe-core."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
