"""Many seeded requests at once: every one is answered, and the engine lives."""

from __future__ import annotations

import asyncio
import time

import pytest

from mirl_client import evidence
from tests.helpers.image_requests import image_question
from tests.helpers.servers import NAME, RunningServer

# Its short form is `tests/load`'s.
pytestmark = pytest.mark.full

REQUESTS = 200


async def test_200_seeded_requests_at_once(server: RunningServer) -> None:
    started = time.monotonic()
    options = {"descriptions": 2, "keep": 1, "forks": 1, "description_tokens": 24}
    async with server.async_client() as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model=NAME,
                    messages=image_question(seed=number % 20),
                    seed=number,
                    max_tokens=48,
                    extra_body={"mirl": options},
                )
                for number in range(REQUESTS)
            )
        )
    print(f"{REQUESTS} requests in {time.monotonic() - started:.1f} s")
    assert len({answer.id for answer in answers}) == REQUESTS
    for answer in answers:
        details = evidence(answer)
        assert details is not None
        assert len(details.descriptions) == 2
    assert server.client().models.list().data
    assert server.process.poll() is None
