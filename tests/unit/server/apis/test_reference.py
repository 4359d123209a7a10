"""docs/api.md is the OpenAPI document of the server's routes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_server.apis.__main__ import document
from mirl_server.apis.reference import reference

ROOT = Path(__file__).parents[4]


@cache
def api() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(document())
    return loaded


@cache
def current() -> str:
    return reference(api())


def test_the_document_is_current() -> None:
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == current(), (
        "run python -m mirl_server.apis.reference docs/api.md"
    )


def test_it_has_every_route_and_body() -> None:
    headings = {line for line in current().splitlines() if line.startswith("## `")}
    assert headings == {
        f"## `{method.upper()} {path}`" for path, methods in api()["paths"].items() for method in methods
    }
    bodies = {line for line in current().splitlines() if line.startswith("### ")}
    assert bodies == {f"### {name}" for name in api()["components"]["schemas"]}


def test_it_has_every_option_of_a_request() -> None:
    options = current().partition("\n### MIRLOptions\n")[2].partition("\n### ")[0]
    assert [name for name in MIRLOptions.model_fields if f"| `{name}` |" not in options] == []
    gated = ("/v1/chat/completions", "/v1/messages", "/v1/mirl/describe", "/v1/mirl/score", "/v1/responses")
    for path in gated:
        section = current().partition(f"\n## `POST {path}`\n")[2].partition("\n## ")[0]
        assert "| `mirl` | [MIRLOptions](#mirloptions) |" in section, path


def test_rows_say_type_bounds_default_and_meaning() -> None:
    lines = current().splitlines()
    assert "| `keep` | integer, ≥ 1 | `6` | k: how many descriptions the gate keeps. |" in lines
    assert "| 200 | The answer: [ScoreAnswer](#scoreanswer) |" in lines
    (preset,) = {line.split(" | ")[1] for line in lines if line.startswith("| `preset` |")}
    assert preset.startswith('`"paper"` or ')
    assert preset.endswith(" or null")
