"""Fixtures of the tests in a browser: Chromium, and the playground open in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.opened import Opened, launch
from tests.helpers.servers import RunningServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Open = Callable[..., Opened]


# Not the session: Playwright's event loop counts as running until it is stopped, and no other could start.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Yield Chromium; skip where it or Playwright is not installed."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: `make browser` installs it from Debian's packages")
    pytest.importorskip("playwright", reason="playwright is not installed: `make install-dev` installs it")
    with launch() as started:
        yield started


@pytest.fixture
def open_page(browser: Browser, server: RunningServer) -> Iterator[Open]:
    """Open the server's page; at the end nothing may have been requested elsewhere, forbidden or stored."""
    opened: list[Opened] = []

    def open_it(
        fragment: str = "", width: int = 1280, theme: str = "light", url: str = server.url, ready: bool = True
    ) -> Opened:
        opened.append(Opened.open(browser, f"{url}/{fragment}", width, theme, ready))
        return opened[-1]

    try:
        yield open_it
        for shown in opened:
            shown.check()
    finally:
        for shown in opened:
            shown.page.context.close()
