"""Transfer of weights to vLLM servers through a folder that trainer and servers share.

The servers run with VLLM_SERVER_DEV_MODE=1, which opens vLLM's training routes to everybody who reaches them:
no key protects them, so keep such servers in a separate network. The transfer uses vLLM 0.32's HTTP routes
unchanged: `/pause`, `/collective_rpc` with the worker's `reload_weights`, `/reset_prefix_cache`,
`/reset_encoder_cache`, `/update_weight_version`, `/resume`. For GPU to GPU, without a folder, see
`nccl_fleet.py`, which does the same before and after (`pause`, `renew`).
"""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import ConfigError, EngineError, RequestError, ServerError

__all__ = ["RemoteReloadSync", "Running", "check_server", "control", "pause", "renew"]

Running = Literal["wait", "keep"]
"""What happens to running requests as weights change: `wait` lets them finish on the old weights; `keep`
holds them and continues with the new ones (each token's log-probability is then that of the weights which
sampled it)."""

SECONDS = 1800.0
"""Longest wait for a server to finish running requests, or to load the weights; seconds."""
SOON = 60.0
"""Longest wait for a request that a paused server answers at once; seconds. A server that takes longer is
left out until a later push: better than half an hour without progress and without a reason in the log."""
HEAD = "lm_head.weight"
HEAD_FILE = "lm_head.safetensors"


class SavesWeights(Protocol):
    """A policy that can be written as a Hugging Face folder; blocking."""

    def save_weights(self, folder: Path) -> None: ...


class RemoteReloadSync:
    """Transfer of weights by a fresh folder that every server loads.

    Args:
        engine: whose servers receive the weights.
        folder: for the weights; older ones in it are deleted once newer ones are in use.
        served_folder: the same folder as the servers see it, where its path differs there.
        running: what happens to requests that run meanwhile.
        first: whether this rank controls the servers; the others only take part in writing, and their callers
            wait for the first rank before they sample again.
    """

    def __init__(
        self,
        engine: RemoteEngine,
        folder: Path,
        *,
        served_folder: PurePath | None = None,
        running: Running = "wait",
        first: bool = True,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._served_folder = served_folder or folder.resolve()
        self._running = running
        self._first = first

    async def check(self) -> None:
        """Check before training that the servers take weights.

        Raises:
            ConfigError: a server was started without its training routes.
        """
        await asyncio.gather(*(check_server(server) for server in self._engine.servers if server.up))

    async def push(self, policy: SavesWeights, version: int) -> None:
        """Make the servers sample with the policy's weights, under the version `version`.

        A server that fails is left out until a later push succeeds there.

        Raises:
            EngineError: all servers failed. A server that began to load has broken weights and stays paused:
                push again, or restart it.
        """
        name = f"weights-{version:08d}"
        path, partial = self._folder / name, self._folder / f".{name}.partial"
        if self._first:
            await asyncio.to_thread(_clear, partial, path)
        await asyncio.to_thread(policy.save_weights, partial)
        if not self._first:
            self._engine.expect(str(version))
            return
        await asyncio.to_thread(write_tied_head, partial)
        # Renamed when complete: a server may read at any time.
        await asyncio.to_thread(partial.rename, path)

        async def update(server: Server) -> None:
            await self._update(server, str(self._served_folder / name), str(version))

        await self._engine.update(update, str(version))
        await asyncio.to_thread(_clear, *(old for old in self._weights() if old != path))

    async def close(self) -> None:
        """Delete the weights in the folder; the servers keep theirs."""
        if self._first:
            await asyncio.to_thread(lambda: _clear(*self._weights()))

    def _weights(self) -> list[Path]:
        return sorted(self._folder.glob("weights-*"))

    async def _update(self, server: Server, path: str, version: str) -> None:
        await pause(server, self._running)
        # A wrong path leaves vLLM without weights: after an error here it must stay paused.
        await control(
            server, "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}}
        )
        await renew(server, version)


async def pause(server: Server, running: Running) -> None:
    """Hold all requests of a server until `renew`."""
    await control(server, "/pause", mode=running, clear_cache="false")


async def renew(server: Server, version: str) -> None:
    """Resume a paused server with its new weights, which get the version `version`.

    Raises:
        ConnectionLost, EngineError: a cache of the old weights may be left; the server stays paused.
    """
    # Both caches: stale image embeddings shift image-conditioned log-probabilities by more than a nat.
    answer = await control(server, "/reset_prefix_cache", seconds=SOON, reset_running_requests="true")
    if not answer["success"]:
        raise EngineError(f"{server.url} keeps its prefix cache, which is of older weights")
    await control(server, "/reset_encoder_cache", seconds=SOON)
    await control(server, "/update_weight_version", {"new_version": version}, seconds=SOON)
    # Set before it resumes, so that no answer carries an unknown version.
    server.weights_version = version
    await control(server, "/resume", seconds=SOON)


def write_tied_head(folder: Path) -> None:
    """Add the LM head to a folder of weights that omits it because it is tied to the input embedding.

    vLLM's CPU backend packs the head into a separate tensor, and a reload renews only tensors in the files:
    without this it would keep the old head (seen with vLLM 0.32).
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            files |= dict.fromkeys(weights.keys(), file)
    embeddings = [name for name in files if name.endswith("embed_tokens.weight")]
    if any(name.endswith(HEAD) for name in files) or len(embeddings) != 1:
        return
    with safe_open(files[embeddings[0]], "pt") as weights:
        head = weights.get_tensor(embeddings[0])
    save_file({HEAD: head}, folder / HEAD_FILE)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        # With an index vLLM reads only the files in it.
        content = json.loads(index.read_text())
        content["weight_map"][HEAD] = HEAD_FILE
        index.write_text(json.dumps(content))


async def check_server(server: Server) -> None:
    """Raise ConfigError if a server takes no weights."""
    try:
        await server.control("GET", "/weight_info")
        await server.control("GET", "/is_paused")
    except ServerError as error:
        if error.status not in (404, 405):
            raise
        raise ConfigError(f"{server.url} takes no weights: start it with VLLM_SERVER_DEV_MODE=1") from error
    except ConnectionLost as error:
        raise EngineError(str(error)) from error


async def control(
    server: Server, path: str, body: dict[str, Any] | None = None, *, seconds: float = SECONDS, **query: str
) -> Any:
    """POST one of vLLM's training routes; return its answer, waiting at most `seconds`.

    Raises:
        ConnectionLost, EngineError: the request failed, or was not answered in time.
    """
    try:
        return await server.control("POST", path, body, query=query or None, timeout=seconds)
    except RequestError as error:
        # The request is fixed here, so a refusal is the engine's error.
        raise EngineError(f"{server.url} refuses {path}: {error.message}") from error


def _clear(*folders: Path) -> None:
    for folder in folders:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
