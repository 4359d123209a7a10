"""What the tests of engines share, in float32: a server and an engine on it, vLLM, and transformers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import torch

from mirl_core.bundled import DIGITS
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.engines.remote.engine import RemoteEngine
from tests.helpers.servers import RunningServer, running

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

FLAGS = (
    "--enable-scale-out",
    "--enable-prompt-tokens-details",
    "--dtype=float32",
    "--worker-extension-cls=tests.fixtures.vllm_worker.EncoderCounter",
)


@pytest.fixture(scope="session")
def fleet(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server as a fleet has it; leave nothing running in it."""
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with running(tmp_path_factory.mktemp("fleet"), FLAGS, environment=environment) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def remote(fleet: RunningServer) -> AsyncIterator[RemoteEngine]:
    # The same server by two names, and one that nobody ever started.
    other = fleet.url.replace("127.0.0.1", "localhost")
    engine = await RemoteEngine.start([fleet.url, f"{other}/v1/", "http://127.0.0.1:1"])
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_float32(real_vllm: None) -> AsyncIterator[VLLMEngine]:
    """vLLM in this process; leave nothing running in it."""
    from mirl_core.engines.vllm.engine import VLLMEngine

    engine = await VLLMEngine.start(str(DIGITS.path), dtype="float32")
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hf() -> AsyncIterator[HFEngine]:
    """transformers in float32."""
    engine = await HFEngine.start(str(DIGITS.path), dtype=torch.float32)
    yield engine
    await engine.close()
