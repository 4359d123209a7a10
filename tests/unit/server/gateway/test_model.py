"""The settings of a model whose weights are elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from mirl_core.config import ModelSettings
from mirl_core.families import shipped
from mirl_server.gateway.model import find_model_settings
from mirl_server.settings.server import ServerSettings

CARD = {"id": "m", "root": "org/model"}


def settings(**engine: Any) -> ServerSettings:
    return ServerSettings.load(engine={"urls": ["http://a"], **engine})


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
            raise LookupError(file)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    chosen = settings() if hub else settings(tokenizer=str(tmp_path))
    assert find_model_settings(CARD, chosen) == expected
    assert warned in caplog.text if warned else not caplog.records
