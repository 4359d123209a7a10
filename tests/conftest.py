"""Fixtures that several test packages share. One real vLLM engine serves the whole session."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

import mirl_core

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

pytest_plugins = ["tests.server_fixture"]

# Read when vLLM is first imported, in this process and in the engine's.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BUNDLED_MODEL = Path(mirl_core.__file__).parent / "bundled" / "model"


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The folder of the bundled model."""
    return BUNDLED_MODEL


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine(bundled_model: Path) -> AsyncIterator[VLLMEngine]:
    """Real vLLM on the bundled model, in the weights' own bfloat16; shared, so leave nothing running."""
    from mirl_core.engines.vllm.engine import VLLMEngine

    engine = await VLLMEngine.start(
        str(bundled_model), worker_extension_cls="tests.fixtures.vllm_worker.EncoderCounter"
    )
    yield engine
    await engine.close()
    # vLLM's client ends up in reference cycles; freed at interpreter exit it would complain.
    del engine
    gc.collect()
