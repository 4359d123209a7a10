"""The policy's weights to vLLM servers, through a folder that trainer and servers both see.

The servers run with VLLM_SERVER_DEV_MODE=1, which opens vLLM's routes for training to whoever reaches them:
no key guards them, so keep such servers in a network of their own. What vLLM 0.32 offers over HTTP is used as
it is: `/pause`, `/collective_rpc` with the worker's `reload_weights`, `/reset_prefix_cache`,
`/reset_encoder_cache`, `/update_weight_version`, `/resume`. GPU to GPU, without a folder: `sync_fleet.py`,
which does the same before and after (`pause`, `renew`).
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
"""What becomes of requests that run as weights change: `wait` lets them end on the old weights; `keep` holds
them and goes on with the new ones (each token's log-probability is then still that of the weights which
sampled it)."""

SECONDS = 1800.0
"""Longest wait for a server to finish what runs, or to load the weights."""
SOON = 60.0
"""Longest wait for what a paused server does at once. One that doesn't is left out until a later push: better
than half an hour in which nobody knows why nothing moves."""
HEAD = "lm_head.weight"
HEAD_FILE = "lm_head.safetensors"


class SavesWeights(Protocol):
    """A policy that can be written as a Hugging Face folder; blocking."""

    def save_weights(self, folder: Path) -> None: ...


class RemoteReloadSync:
    """Writes weights into a fresh folder and has every server load them.

    Args:
        engine: whose servers.
        folder: for the weights; those that are in it are deleted as newer ones are in use.
        served_folder: the same folder as the servers see it, where that is another path.
        running: what becomes of requests that run meanwhile.
        first: whether this rank tells the servers; the others only take part in writing, and whoever calls
            waits for the first before it samples again.
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
        """Find out before training whether the servers take weights.

        Raises:
            ConfigError: one of them was started otherwise.
        """
        await asyncio.gather(*(check_server(server) for server in self._engine.servers if server.up))

    async def push(self, policy: SavesWeights, version: int) -> None:
        """Have the servers sample with the policy's weights, which are then called `version`.

        A server that fails is left out until a later push succeeds there.

        Raises:
            EngineError: all of them failed. One that began to load has broken weights and stays paused: push
                again, or restart it.
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
        # Whole at once: a server may look at any time.
        await asyncio.to_thread(partial.rename, path)

        async def update(server: Server) -> None:
            await self._update(server, str(self._served_folder / name), str(version))

        await self._engine.update(update, str(version))
        await asyncio.to_thread(_clear, *(old for old in self._weights() if old != path))

    async def close(self) -> None:
        """Delete the weights; the servers keep what they have."""
        if self._first:
            await asyncio.to_thread(lambda: _clear(*self._weights()))

    def _weights(self) -> list[Path]:
        return sorted(self._folder.glob("weights-*"))

    async def _update(self, server: Server, path: str, version: str) -> None:
        await pause(server, self._running)
        # A wrong path leaves vLLM without weights: it must never go on from here with what it has then.
        await control(
            server, "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}}
        )
        await renew(server, version)


async def pause(server: Server, running: Running) -> None:
    """Have nothing run on a server until `renew`."""
    await control(server, "/pause", mode=running, clear_cache="false")


async def renew(server: Server, version: str) -> None:
    """Let a paused server go on with the weights that it has been given, now called `version`.

    Raises:
        ConnectionLost, EngineError: something that old weights computed may be left; it stays paused.
    """
    # Both: stale image embeddings would put image-conditioned log-probabilities off by more than a nat.
    answer = await control(server, "/reset_prefix_cache", seconds=SOON, reset_running_requests="true")
    if not answer["success"]:
        raise EngineError(f"{server.url} keeps its prefix cache, which is of older weights")
    await control(server, "/reset_encoder_cache", seconds=SOON)
    await control(server, "/update_weight_version", {"new_version": version}, seconds=SOON)
    # Said before it goes on, so that no answer carries a version that nobody knows of.
    server.version = version
    await control(server, "/resume", seconds=SOON)


def write_tied_head(folder: Path) -> None:
    """Add the LM head to a folder of weights that leaves it out because it is the input embedding.

    vLLM's CPU backend packs the head into a tensor of its own, and renews only what a reload brings along:
    without this it would go on with the old head (seen with vLLM 0.32).
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    where: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            where |= dict.fromkeys(weights.keys(), file)
    embeddings = [name for name in where if name.endswith("embed_tokens.weight")]
    if any(name.endswith(HEAD) for name in where) or len(embeddings) != 1:
        return
    with safe_open(where[embeddings[0]], "pt") as weights:
        head = weights.get_tensor(embeddings[0])
    save_file({HEAD: head}, folder / HEAD_FILE)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        # With an index vLLM reads no files but those in it.
        content = json.loads(index.read_text())
        content["weight_map"][HEAD] = HEAD_FILE
        index.write_text(json.dumps(content))


async def check_server(server: Server) -> None:
    """Find out whether a server takes weights. Raises ConfigError if it doesn't."""
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
    """POST one of vLLM's routes for training; its answer, waited for `seconds` at most.

    Raises:
        ConnectionLost, EngineError: it failed, or didn't answer in time.
    """
    try:
        return await server.control("POST", path, body, query=query or None, timeout=seconds)
    except RequestError as error:
        # What we ask for is fixed, so it isn't the request's fault.
        raise EngineError(f"{server.url} refuses {path}: {error.message}") from error


def _clear(*folders: Path) -> None:
    for folder in folders:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
