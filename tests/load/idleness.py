"""Waiting until a server has nothing left to do."""

from __future__ import annotations

import asyncio
import time

from tests.helpers.servers import RunningServer

IDLE_GAUGES = (
    "vllm:num_requests_running", "vllm:num_requests_waiting", "mirl_requests_in_flight",
    "mirl_sequences_in_flight", "mirl_queue_requests", "mirl_queue_sequences", "mirl_admitted_sequences",
    "mirl_admitted_tokens",
)  # fmt: skip


async def idle(server: RunningServer, seconds: float = 10) -> None:
    """Wait until nothing runs and nothing waits, by every gauge that says so."""
    until = time.monotonic() + seconds
    while (left := {name: server.gauge(name) for name in IDLE_GAUGES}) != dict.fromkeys(IDLE_GAUGES, 0):
        assert time.monotonic() < until, left
        await asyncio.sleep(0.1)
