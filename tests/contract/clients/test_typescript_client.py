"""The TypeScript client: types in step with the server, and its tests against a real `mirl-serve`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from mirl_core.bundled import DIGITS
from tests.browser.opened import launch
from tests.helpers.servers import RunningServer

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

CLIENT = Path(__file__).parents[3] / "clients" / "typescript"
GENERATED = ("node_modules", "dist", "build")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the client's folder with its packages installed and its sources compiled."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns(*GENERATED))
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    run(folder, "npm", "run", "check")
    return folder


def run(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-15_000:]
    return done.stdout


def test_its_types_are_those_of_the_servers_document(checkout: Path) -> None:
    run(checkout, "node", "scripts/generate.mjs", "generated.ts", PYTHON=sys.executable)
    generated, committed = checkout / "generated.ts", CLIENT / "src" / "openapi.ts"
    assert generated.read_text() == committed.read_text(), "run `npm run generate` in clients/typescript"


def test_its_tests_on_the_real_server(checkout: Path, server: RunningServer) -> None:
    picture = DIGITS.questions()[0].file
    out = run(checkout, "npm", "test", MIRL_TEST_URL=server.url, MIRL_TEST_PICTURE=str(picture))
    assert "\n# fail 0\n" in out
    assert "\n# skipped 0\n" in out


def test_what_it_publishes(checkout: Path) -> None:
    (package,) = json.loads(run(checkout, "npm", "pack", "--dry-run", "--json", "--ignore-scripts"))
    names = {entry["path"] for entry in package["files"]}
    assert {"LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts"} <= names
    assert all(name.startswith("dist/") for name in names - {"LICENSE", "README.md", "package.json"})
    # Browsers have no modules of Node.
    for name in names:
        if name.endswith(".js"):
            code = (checkout / name).read_text()
            assert not [line for line in code.splitlines() if "import" in line and "node:" in line]


def test_its_lock_has_hashes_and_no_hosts() -> None:
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert not [package for package in packages if "resolved" in package or "integrity" not in package]
    own = lock["packages"][""]
    assert own["dependencies"].keys() == {"openai"}


def test_a_browser_scales_pictures_down(checkout: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: `make browser` installs it from Debian's packages")
    pytest.importorskip("playwright", reason="playwright is not installed: `make install-dev` installs it")
    with launch() as browser:
        page = browser.new_page()
        page.route(
            "http://client.test/**", lambda route: route.fulfill(**served(checkout, route.request.url))
        )
        page.goto("http://client.test/")
        page.wait_for_function("window.client")
        for kind, size, bounds, expected in (
            ("PNG", (300, 200), {"maxSide": 150}, ("PNG", (150, 100))),
            ("PNG", (300, 200), {"maxPixels": 600}, ("PNG", (30, 20))),
            ("PNG", (300, 1), {"maxPixels": 5}, ("PNG", (5, 1))),
            ("JPEG", (300, 200), {"maxSide": 90, "maxPixels": 1_000_000}, ("JPEG", (90, 60))),
            ("BMP", (300, 200), {"maxSide": 299}, ("PNG", (299, 199))),
        ):
            original = data_url(kind, size)
            scaled = page.evaluate("([url, bounds]) => client.pictureURL(url, bounds)", [original, bounds])
            image = Image.open(BytesIO(base64.b64decode(scaled.partition(",")[2])))
            assert (image.format, image.size) == expected
            assert image.convert("RGB").getpixel((0, 0)) == pytest.approx((200, 100, 50), abs=3)
            assert scaled.startswith(f"data:image/{expected[0].lower()};base64,")
            # Within the bounds a picture's bytes stay.
            assert page.evaluate("(url) => client.pictureURL(url, {maxSide: 300})", original) == original
        message = page.evaluate(
            "() => client.pictureURL(new Uint8Array([66, 77]), {maxSide: 9}).catch((error) => error.message)"
        )
        assert message == "the picture: can't be decoded"


def served(checkout: Path, url: str) -> dict[str, Any]:
    """Return what a page of the client gets for a URL: the page, or a file of the client and its packages."""
    path = urlsplit(url).path
    if path != "/":
        return {"path": checkout / path.lstrip("/"), "content_type": "text/javascript"}
    imports = {
        "openai": "/node_modules/openai/index.mjs",
        "openai/": "/node_modules/openai/",
    }
    return {
        "content_type": "text/html",
        "body": f'<script type="importmap">{json.dumps({"imports": imports})}</script>'
        '<script type="module">import * as client from "/dist/index.js"; window.client = client;</script>',
    }


def data_url(kind: str, size: tuple[int, int]) -> str:
    """Return a picture of one colour as a data URL."""
    file = BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
