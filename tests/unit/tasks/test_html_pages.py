"""Pages of reports: alone, and harmless whatever text they carry."""

from __future__ import annotations

import base64
import hashlib
import json
import random

import pytest
from PIL import Image

from mirl_core.tasks.html_pages import data_uri, document, encoded, json_block


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_policy_allows_the_pages_own_style_and_script_alone() -> None:
    page = document("a < b", "<p>text</p>", "p { color: red }", "alert(1)")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest('p { color: red }')}'; "
        f"script-src 'sha256-{digest('alert(1)')}'; base-uri 'none'; form-action 'none'"
    )
    assert f'content="{policy}"' in page
    assert "<title>a &lt; b</title>" in page


def test_a_page_without_a_script_allows_none() -> None:
    page = document("t", "<p>text</p>", "p { color: red }")
    assert "script" not in page


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", "<!-- <script>", "\u2028 & \"'"])
def test_no_text_ends_its_json_block(text: str) -> None:
    block = json_block("run", {"text": text})
    opening, end = '<script type="application/json" id="run">', "</script>"
    inside = block.removeprefix(opening).removesuffix(end)
    assert len(inside) == len(block) - len(opening) - len(end)
    assert "<" not in inside
    assert json.loads(inside) == {"text": text}


def test_small_pictures_stay_exact_and_photographs_are_bounded() -> None:
    plain = encoded(Image.new("RGB", (8, 4), (1, 2, 3)), 384)
    assert data_uri(plain).startswith("data:image/png;base64,")
    noise = Image.frombytes("RGB", (600, 400), random.Random(0).randbytes(600 * 400 * 3))
    photograph = encoded(noise, 384)
    assert data_uri(photograph).startswith("data:image/jpeg;base64,")
    assert len(photograph) < 200_000
