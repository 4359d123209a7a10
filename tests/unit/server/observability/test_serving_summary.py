"""What the server prints once it serves."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core import __version__
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_server.observability.serving_summary import Serving, base_url, gate_line

CALIBRATION = Calibration(intercept=0, vote_share=1, distinct_share=0)


def serving(**fields: Any) -> Serving:
    model = ModelSettings()
    known = {
        "name": "m",
        "model": model,
        "options": model.options,
        "keys": False,
        "pages": True,
        "playground": True,
        "quiet": True,
    }
    return Serving(**known | fields)


def test_all_of_it() -> None:
    assert serving().summary("http://127.0.0.1:8000") == (
        f"MIRL {__version__} serves m at http://127.0.0.1:8000\n"
        "  gate       10 descriptions, the best 6 go on (by MI, λ = 1), 2 chains each\n"
        "  confidence the vote's share: no calibration (mirl-eval calibrate makes one)\n"
        "  plain      the model m:direct answers without the gate\n"
        "  try        the playground on http://127.0.0.1:8000/, or http://127.0.0.1:8000/docs\n"
        "  log        without vLLM's own lines; --log-level info shows them"
    )


def test_what_is_not_there_is_not_named() -> None:
    text = serving(pages=False, playground=False, quiet=False, keys=True).summary("http://h:1")
    assert "  keys       clients need an API key\n  try        the request on http://h:1/" in text
    assert "log" not in text
    assert "docs" not in text


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ({"calibration": CALIBRATION}, {}, "calibrated, where a request is like those of the calibration"),
        (
            {"calibration": CALIBRATION},
            {"keep": 2},
            "the vote's share: the calibration is for the model's own options",
        ),
        ({}, {}, "the vote's share: no calibration"),
    ],
)
def test_whether_confidence_is_calibrated(model: dict[str, Any], options: dict[str, Any], said: str) -> None:
    text = serving(model=ModelSettings(**model), options=MIRLOptions(**options)).summary("u")
    assert f"  confidence {said}" in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mi_weight": 0.5, "keep": 3}, "10 descriptions, the best 3 go on (by MI, λ = 0.5), 2 chains each"),
        ({"mi_weight": "auto"}, "10 descriptions, the best 6 go on (by MI, λ = auto), 2 chains each"),
        ({"gate": "random"}, "10 descriptions, the best 6 go on (by random), 2 chains each"),
        ({"gate": "confidence"}, "10 descriptions, the best 6 go on (by confidence), 2 chains each"),
        ({"gate": "none", "forks": 1}, "10 descriptions, all go on, 1 chains each"),
        ({"contrast": (0.5,), "descriptions": 0}, "descriptions decoded with λ = 0.5"),
        ({"preset": "gate"},
         "preset gate: 10 descriptions, the best 3 go on (by MI, λ = 0.5), 2 chains each"),
        ({"preset": "steered"},
         "preset steered: descriptions decoded with λ = 0, 0.5, 1, then at most 8 sampled"),
        ({"preset": "gate", "keep": 4}, "10 descriptions, the best 4 go on (by MI, λ = 0.5), 2 chains each"),
    ],
)  # fmt: skip
def test_the_gate_in_words(options: dict[str, Any], line: str) -> None:
    assert gate_line(MIRLOptions.parse(options)) == line


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8000"),
        ("0.0.0.0", False, "http://127.0.0.1:8000"),
        ("::", True, "https://127.0.0.1:8000"),
        ("::1", False, "http://[::1]:8000"),
    ],
)
def test_an_address_that_a_browser_takes(host: str, tls: bool, url: str) -> None:
    assert base_url(host, 8000, tls) == url
