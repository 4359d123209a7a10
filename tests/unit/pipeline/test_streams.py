"""Merging generators: everything arrives, errors surface, and every source is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from mirl_core.pipeline.streams import merge


class Source:
    def __init__(self, items: int, delay: float = 0.0, fail: bool = False) -> None:
        self.items, self.delay, self.fail, self.closed = items, delay, fail, False

    async def run(self) -> AsyncGenerator[int, None]:
        try:
            for item in range(self.items):
                await asyncio.sleep(self.delay)
                yield item
            if self.fail:
                raise ValueError("broken")
        finally:
            self.closed = True


async def test_everything_arrives_with_its_source() -> None:
    sources = [Source(3), Source(0), Source(2, 0.001)]
    got = [entry async for entry in merge([source.run() for source in sources])]
    assert sorted(got) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    assert all(source.closed for source in sources)


async def test_a_failure_ends_the_merge_and_closes_the_others() -> None:
    slow, broken = Source(1000, 0.01), Source(1, fail=True)
    with pytest.raises(ValueError, match="broken"):
        _ = [entry async for entry in merge([slow.run(), broken.run()])]
    assert slow.closed


async def test_leaving_early_closes_every_source() -> None:
    before = asyncio.all_tasks()
    sources = [Source(1000, 0.001), Source(1000, 0.001)]
    async with aclosing(merge([source.run() for source in sources])) as merged:
        async for _ in merged:
            break
    assert all(source.closed for source in sources)
    assert asyncio.all_tasks() <= before


async def test_nothing_to_merge() -> None:
    assert [entry async for entry in merge([])] == []
