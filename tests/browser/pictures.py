"""Make docs/playground.png, the README's picture: a real answer of mirl-charts on the real page.

    python -m tests.browser.pictures [--url URL]

Without a URL it starts the server. The picture is made with Debian's `chromium` and `fonts-inter`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.browser.opened import Opened, launch
from tests.helpers.servers import MIRL_SERVE, running

PICTURE = Path(__file__).parents[2] / "docs" / "playground.png"
LARGEST = 300_000
"""Bytes."""
WIDTH = 1280
SAMPLE = 3
"""Number of the sample, from 0: a chart with a bar that can be read in two ways, so that chains disagree."""
SEED = 14


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yield the address of a server with the charts model: running already, or started here."""
    if url is not None:
        yield url.rstrip("/")
        return
    with tempfile.TemporaryDirectory() as folder:
        command = (*MIRL_SERVE, "--model", "mirl-charts")
        with running(Path(folder), command=command) as started:
            yield started.url


def photograph(url: str) -> bytes:
    """Return a PNG of the page with the sample's answer."""
    with launch() as browser:
        opened = Opened.open(browser, f"{url}/#seed={SEED}&compare=1", WIDTH, "light")
        page = opened.page
        page.locator(".samples button").nth(SAMPLE).click()
        page.locator(f".picture img[alt*='{SAMPLE + 1}-charts']").wait_for()
        opened.ask()
        opened.check()
        # Without the form of the next question, and without a ring around the button that was pressed.
        page.evaluate("document.activeElement.blur(); document.querySelector('.follow-up').hidden = true")
        page.evaluate("document.querySelector('.follow-up').style.display = 'none'")
        page.wait_for_timeout(1000)  # the end of the animations
        return page.screenshot(full_page=True)


def small(png: bytes) -> bytes:
    """Return a picture with a palette of 256 colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    out = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    """Write the picture.

    Raises:
        SystemExit: it is larger than `LARGEST`.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running server of mirl-charts")
    with server(parser.parse_args().url) as url:
        data = small(photograph(url))
    if len(data) > LARGEST:
        raise SystemExit(f"the picture has {len(data)} bytes; at most {LARGEST}")
    PICTURE.write_bytes(data)
    print(f"{PICTURE}: {len(data)} bytes")


if __name__ == "__main__":
    main()
