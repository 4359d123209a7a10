"""One tokenizer for all tests of the charts stages, and one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.training.charts.charts_cases import write_tokenizer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder
