"""The settings of a model whose weights are elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from mirl_core.bundled import DIGITS
from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.families import shipped
from mirl_server.gateway.model import find_model_settings, model_source, on_hub

CARD = {"id": "m", "root": "org/model"}
NOT_FOUND = httpx.Response(404, request=httpx.Request("HEAD", "https://hub.test/org/model"))


@pytest.mark.parametrize(
    ("files", "expected", "warned"),
    [
        ({"mirl.json": {"instruction": "Look."}}, ModelSettings(instruction="Look."), ""),
        ({"config.json": {"model_type": "llava"}}, shipped("words"), "family 'words'"),
        ({"config.json": {"model_type": "unheard-of"}}, ModelSettings(), "the paper's"),
        ({}, ModelSettings(), "the paper's"),
    ],
    ids=["its own", "its family's", "no family", "nothing"],
)
@pytest.mark.parametrize("hub", [False, True], ids=["folder", "hub"])
def test_where_settings_come_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    files: dict[str, Any],
    expected: ModelSettings,
    warned: str,
    hub: bool,
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    def download(repository: str, file: str) -> str:
        assert repository == "org/model"
        if not (tmp_path / file).is_file():
            raise RemoteEntryNotFoundError(file, response=NOT_FOUND)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_model_settings("org/model" if hub else str(tmp_path), None) == expected
    assert warned in caplog.text if warned else not caplog.records


@pytest.mark.parametrize("error", [RepositoryNotFoundError("?", response=NOT_FOUND), HFValidationError("?")])
def test_a_name_that_the_hub_does_not_know_has_no_settings(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _failing(error))
    assert find_model_settings("org/model", None) == ModelSettings()


def test_settings_that_the_hub_may_have_are_not_replaced_while_it_can_not_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _failing(LocalEntryNotFoundError("?")))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigError, match=r"^mirl.json of org/model is not in .*--engine-tokenizer"):
        find_model_settings("org/model", None)
    # The operator's choice to do without the hub.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_model_settings("org/model", None) == ModelSettings()


@pytest.mark.parametrize(
    ("card", "tokenizer", "source"),
    [
        (CARD, None, "org/model"),
        ({"id": "m"}, None, "m"),
        (CARD, "org/other", "org/other"),
        (CARD, "/models/m", "/models/m"),
        (CARD, "~/m", str(Path.home() / "m")),
        # A bundled model is in this package, by its name in either place.
        ({"id": DIGITS.name, "root": "/elsewhere"}, None, str(DIGITS.path)),
        (CARD, DIGITS.name, str(DIGITS.path)),
    ],
)
def test_where_tokenizer_and_settings_are(card: dict[str, Any], tokenizer: str | None, source: str) -> None:
    assert model_source(card, tokenizer) == source
    assert on_hub(source) == (not source.startswith("/"))


def _failing(error: Exception) -> Any:
    def download(repository: str, file: str) -> str:
        raise error

    return download
