"""Fixtures that several test packages share. One engine and one server of a kind serve a whole session."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import pytest_asyncio

from mirl_core.bundled import DIGITS
from tests.helpers.servers import (
    GatewayServer,
    GuardedServer,
    RunningServer,
    key_lines,
    running,
    running_gateway,
)

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

# A busy machine is slow, and that is no failure.
hypothesis.settings.register_profile("any machine", deadline=None)
if hypothesis.settings.get_current_profile_name() == "default":
    hypothesis.settings.load_profile("any machine")

pytest_plugins = ["tests.helpers.vllm_marker", "pytester"]

# Read when vLLM is first imported, in this process and in the engine's.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """Return the folder of the bundled digits model."""
    return DIGITS.path


@pytest.fixture(scope="session")
def real_vllm() -> Iterator[None]:
    """Mark every test that requests this fixture, by itself or through another one, with `vllm`.

    Whatever starts an engine requests it: the fixtures below, and tests that start an engine themselves.
    """
    yield
    # vLLM's client ends up in reference cycles; freed at interpreter exit it would complain.
    gc.collect()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine(real_vllm: None, bundled_model: Path) -> AsyncIterator[VLLMEngine]:
    """Yield real vLLM on the bundled model, in the weights' bfloat16; shared, so leave nothing running."""
    from mirl_core.engines.vllm.engine import VLLMEngine

    engine = await VLLMEngine.start(
        str(bundled_model), worker_extension_cls="tests.fixtures.vllm_worker.EncoderCounter"
    )
    yield engine
    await engine.close()


@pytest.fixture(scope="session")
def in_process(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Yield `mirl-serve` with its defaults, on the bundled model; shared, so leave nothing running in it."""
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def server(real_vllm: None, request: pytest.FixtureRequest) -> RunningServer:
    """Return `in_process`. Packages whose tests hold for a gateway too override it with a parameter."""
    return request.getfixturevalue("in_process")  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def gateway_engine(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Yield `mirl-serve` on the bundled model, with the token routes that a gateway needs."""
    with running(tmp_path_factory.mktemp("engine"), ["--enable-scale-out"]) as started:
        yield started


@pytest.fixture(scope="session")
def gateway(
    gateway_engine: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """Yield a gateway before `gateway_engine`; shared, so leave nothing running in either."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), gateway_engine) as started:
        yield started


@pytest.fixture(scope="session")
def guarded(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    """Yield a server with keys, small limits and a view inside; shared, so leave nothing running in it."""
    folder = tmp_path_factory.mktemp("guarded")
    names = ("ours", "one", "two", "three", "heavy", "text")
    keys = {name: f"0123456789abcdef-{name}" for name in names} | {"theirs": "theirs"}
    file = folder / "keys.yaml"
    file.write_text(key_lines(keys))
    flags = [
        "--api-key-file", str(file), "--api-key", keys["theirs"], "--open-path", "/metrics",
        "--http-limit", "max_body_bytes=2000000", "--http-limit", "header_seconds=2",
        "--http-limit", "write_seconds=2", "--max-queue", "16", "--max-running-sequences", "96",
        "--enable-prompt-tokens-details", "--middleware", "tests.load.inside.Counting",
        # Small, so that all of it is touched soon: memory that grows later has another reason.
        "--kv-cache-memory-bytes", "128M",
    ]  # fmt: skip
    with running(folder, flags) as started:
        yield GuardedServer(started.url, started.process, started.log, started.clients, keys, file)
