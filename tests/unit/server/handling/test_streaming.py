"""How long a stream waits for its next event, from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from mirl_server.handling.streaming import EventReader, Idle
from mirl_server.settings.server import ServerSettings


async def test_how_long_a_stream_waits_for_its_next_event(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    real = asyncio.timeout

    def after(seconds: float | None) -> asyncio.Timeout:
        waits.append(seconds)
        return real(None if seconds is None else 0)

    monkeypatch.setattr("mirl_server.handling.streaming.asyncio.timeout", after)

    async def silent() -> AsyncGenerator[int, None]:
        await asyncio.Event().wait()
        yield 1

    events = EventReader(silent())
    with pytest.raises(Idle):
        await events.next(12.5)
    await events.close()
    assert waits == [12.5]
    assert ServerSettings.load().keep_alive == 10.0
