"""Weights to servers over HTTP: which requests vLLM gets, in which order, and what is on disk meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.errors import ConfigError, EngineError
from mirl_core.training.rl.weight_sync.shared_folder import RemoteReloadSync, write_tied_head
from tests.unit.engines.remote.remote_cases import FakeRequest, FakeServers, engine, refusal

UPDATE = [
    "/pause",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/reset_encoder_cache",
    "/update_weight_version",
    "/resume",
]
EMBEDDING = "model.text_model.embed_tokens.weight"


class Policy:
    def __init__(self) -> None:
        self.folders: list[Path] = []

    def save_weights(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folders.append(folder)
        save_file({EMBEDDING: torch.arange(6.0).reshape(3, 2)}, folder / "model.safetensors")


def servers(seen: list[list[str]] | None = None, folder: Path | None = None) -> FakeServers:
    def reload(request: FakeRequest) -> Any:
        if seen is not None and folder is not None:
            seen.append(sorted(path.name for path in folder.iterdir()))
        return {"results": [None]}

    empty = httpx.Response(200)
    return FakeServers(
        {
            "/pause": {"status": "paused"},
            "/collective_rpc": reload,
            "/reset_prefix_cache": {"success": True},
            "/reset_encoder_cache": empty,
            "/update_weight_version": {"success": True},
            "/resume": {"status": "resumed"},
            "/weight_info": {"weight_version": "default"},
            "/is_paused": {"is_paused": False},
        }
    )


def paths(fake: FakeServers) -> list[str]:
    return [request.path for request in fake.requests]


async def test_a_push_sends_these_requests(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    fake = servers(seen, tmp_path / "w")
    remote = engine(fake)
    sync = RemoteReloadSync(remote, tmp_path / "w", served_folder=Path("/mnt/w"))
    policy = Policy()
    await sync.push(policy, 3)
    assert paths(fake) == UPDATE
    pause, reload, prefix, encoder, version, resume = fake.requests
    assert pause.query == {"mode": "wait", "clear_cache": "false"}
    assert reload.body == {"method": "reload_weights", "kwargs": {"weights_path": "/mnt/w/weights-00000003"}}
    assert prefix.query == {"reset_running_requests": "true"}
    assert version.body == {"new_version": "3"}
    assert [request.body for request in (pause, prefix, encoder, resume)] == [None] * 4
    # vLLM lost an answer once; half an hour is for what may take that long.
    assert [request.seconds for request in fake.requests] == [1800.0, 1800.0, 60.0, 60.0, 60.0, 60.0]
    assert remote.servers[0].weights_version == "3"
    await RemoteReloadSync(remote, tmp_path / "w", running="keep").push(policy, 4)
    assert fake.requests[6].query["mode"] == "keep"
    # What is read is whole, and older weights stay until nobody can want them.
    await sync.push(policy, 5)
    assert seen == [
        ["weights-00000003"],
        ["weights-00000003", "weights-00000004"],
        ["weights-00000004", "weights-00000005"],
    ]
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["weights-00000005"]
    # The same version again, after a crash: what is left of it is in nobody's way.
    await sync.push(policy, 5)
    await sync.close()
    assert not list((tmp_path / "w").iterdir())


async def test_other_ranks_only_write(tmp_path: Path) -> None:
    fake = servers()
    remote = engine(fake)
    policy = Policy()
    await RemoteReloadSync(remote, tmp_path, first=False).push(policy, 3)
    assert not fake.requests
    assert len(policy.folders) == 1
    assert remote.servers[0].weights_version == "3"


@pytest.mark.parametrize("path", UPDATE)
async def test_a_server_that_fails_stays_as_it_is(tmp_path: Path, path: str) -> None:
    """Above all it is not resumed: it may have half of the weights."""
    fake = servers()
    fine = fake.answers[path]
    answers = {"http://one": refusal(500, "no such folder"), "http://two": fine}
    if path == "/reset_prefix_cache":
        answers["http://one"] = {"success": False}

    def answer(request: FakeRequest) -> Any:
        response = answers[request.url]
        return response(request) if callable(response) else response

    fake.answers[path] = answer
    remote = engine(fake, "http://one", "http://two")
    sync = RemoteReloadSync(remote, tmp_path)
    await sync.push(Policy(), 3)
    assert [server.up for server in remote.servers] == [False, True]
    sent = [request.path for request in fake.requests if request.url == "http://one"]
    assert sent == UPDATE[: UPDATE.index(path) + 1]
    answers["http://two"] = answers["http://one"]
    with pytest.raises(EngineError, match="took the weights"):
        await sync.push(Policy(), 4)


async def test_check_names_what_is_missing(tmp_path: Path) -> None:
    fake = servers()
    remote: RemoteEngine = engine(fake)
    sync = RemoteReloadSync(remote, tmp_path)
    await sync.check()
    assert {(request.path, request.body) for request in fake.requests} == {
        ("/weight_info", None),
        ("/is_paused", None),
    }
    fake.answers["/weight_info"] = httpx.Response(404, json={"detail": "Not Found"})
    with pytest.raises(ConfigError, match="VLLM_SERVER_DEV_MODE=1"):
        await sync.check()
    fake.answers["/weight_info"] = httpx.ConnectError("refused")
    with pytest.raises(EngineError, match="reached"):
        await sync.check()


def test_a_tied_head_is_written_where_it_is_missing(tmp_path: Path) -> None:
    Policy().save_weights(tmp_path / "one")
    write_tied_head(tmp_path / "one")
    head = load_file(tmp_path / "one" / "lm_head.safetensors")
    assert torch.equal(head["lm_head.weight"], torch.arange(6.0).reshape(3, 2))
    # In pieces, with an index.
    index = tmp_path / "one" / "model.safetensors.index.json"
    (tmp_path / "one" / "lm_head.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": {EMBEDDING: "model.safetensors"}}))
    write_tied_head(tmp_path / "one")
    assert json.loads(index.read_text())["weight_map"]["lm_head.weight"] == "lm_head.safetensors"
    # With a head of its own.
    (tmp_path / "two").mkdir()
    tensors = {EMBEDDING: torch.zeros(2, 2), "lm_head.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "two" / "model.safetensors")
    write_tied_head(tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["model.safetensors"]
