"""An endpoint plugin for vLLM that brings vLLM's own chat routes back at other paths, beside MIRL's.

Nothing of the route is rebuilt: it is vLLM's own router object, parsed and validated by FastAPI as always,
on the same app, with the same middleware and the same engine.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI

NAME = "mirl_benchmark"
PREFIXES = ("/vllm", "/vllm-again")
"""Twice, so that the difference between a route and itself can be measured too."""
_ENTRY = f"[vllm.endpoint_plugins]\n{NAME} = {__name__}:VLLMRoutes\n"
_METADATA = "Metadata-Version: 2.1\nName: mirl-benchmark\nVersion: 0\n"


class VLLMRoutes:
    """vLLM's chat router under each of PREFIXES."""

    name = NAME
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes; they replace none."""
        from vllm.entrypoints.openai.chat_completion.api_router import router

        for prefix in PREFIXES:
            app.include_router(router, prefix=prefix)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Nothing: vLLM's routes use vLLM's state."""


@contextmanager
def installed() -> Iterator[dict[str, str]]:
    """An environment in which `mirl-serve` finds this plugin, without installing anything."""
    with TemporaryDirectory() as folder:
        about = Path(folder) / "mirl_benchmark-0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(_METADATA)
        (about / "entry_points.txt").write_text(_ENTRY)
        repository = Path(__file__).parents[3]
        yield {"PYTHONPATH": f"{folder}:{repository}", "VLLM_PLUGINS": NAME}
