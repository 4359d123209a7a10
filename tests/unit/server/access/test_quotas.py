"""What keys have used of their limits: windows on a clock that the test holds, and tokens off a response."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from mirl_core.errors import RateLimitError
from mirl_server.access.quotas import Quotas, TokenMeter
from mirl_server.http.errors import error_response
from mirl_server.settings.limits import AccessSettings, AdmissionSettings, HTTPSettings, KeyLimits
from mirl_server.settings.server import ServerSettings


async def use(quotas: Quotas, limits: KeyLimits, name: str = "a") -> None:
    async with quotas.use(name, limits):
        pass


@pytest.mark.parametrize(
    ("limits", "reason", "says"),
    [
        (KeyLimits(requests_per_minute=1), "requests", "1 requests per minute"),
        (KeyLimits(tokens_per_minute=7), "tokens", "7 tokens per minute"),
    ],
)
async def test_a_spent_key_waits_for_the_end_of_its_window(
    now: list[float], limits: KeyLimits, reason: str, says: str
) -> None:
    refused: list[tuple[str, str]] = []
    quotas = Quotas(refused=lambda reason, name: refused.append((reason, name)))
    await use(quotas, limits)
    await quotas.charge("a", limits, 7)
    for passed, wait in ((0.0, 60), (12.25, 48), (59.0, 1), (59.75, 1)):
        now[0] = 1_000_000.0 + passed
        with pytest.raises(
            RateLimitError, match=f"^this API key may use {says}; try again in {wait} s$"
        ) as caught:
            await use(quotas, limits)
        assert caught.value.retry_after == 60 - passed
        assert error_response(caught.value).headers["retry-after"] == str(math.ceil(60 - passed))
    assert refused == [(reason, "a")] * 4
    await use(quotas, limits, "another")
    now[0] = 1_000_060.5
    await use(quotas, limits)


async def test_too_many_at_the_same_time_may_try_again_at_once() -> None:
    refused: list[tuple[str, str]] = []
    quotas, limits = Quotas(refused=lambda *what: refused.append(what)), KeyLimits(concurrent=2)
    async with quotas.use("a", limits), quotas.use("a", limits):
        assert quotas.running["a"] == 2
        with pytest.raises(
            RateLimitError, match=r"^this API key may use 2 requests at the same time; try again in 1 s$"
        ) as caught:
            await use(quotas, limits)
        assert caught.value.retry_after == 1
        await use(quotas, limits, "another")
    await use(quotas, limits)
    assert refused == [("concurrency", "a")]
    assert dict(quotas.running) == {}


async def test_what_is_left_is_in_openais_headers(now: list[float]) -> None:
    quotas, limits = Quotas(), KeyLimits(requests_per_minute=3, tokens_per_minute=100)
    await use(quotas, limits)
    for tokens in (30, 0, -5):
        await quotas.charge("a", limits, tokens)
    now[0] += 1.5
    assert dict(await quotas.headers("a", limits)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"58.500s",
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"70",
        b"x-ratelimit-reset-tokens": b"58.500s",
    }
    assert await quotas.headers("a", KeyLimits()) == []
    assert [name for name, _ in await quotas.headers("a", KeyLimits(tokens_per_minute=9))] == [
        b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"
    ]  # fmt: skip


async def test_a_window_begins_with_the_first_token(now: list[float]) -> None:
    quotas, limits = Quotas(), KeyLimits(tokens_per_minute=100)

    async def left() -> tuple[bytes, bytes]:
        headers = dict(await quotas.headers("a", limits))
        return headers[b"x-ratelimit-remaining-tokens"], headers[b"x-ratelimit-reset-tokens"]

    await quotas.charge("a", limits, 0)
    now[0] += 10
    await quotas.charge("a", limits, 1)
    assert await left() == (b"99", b"60.000s")
    now[0] += 59.5
    assert await left() == (b"99", b"0.500s")
    # Tokens without a limit are not counted.
    await quotas.charge("a", KeyLimits(requests_per_minute=1), 5)
    assert await left() == (b"99", b"0.500s")


async def test_a_request_that_tokens_refuse_is_no_request(now: list[float]) -> None:
    quotas, limits = Quotas(), KeyLimits(requests_per_minute=2, tokens_per_minute=5)
    await quotas.charge("a", limits, 5)
    for _ in range(3):
        with pytest.raises(RateLimitError, match="5 tokens per minute"):
            await use(quotas, limits)
    assert dict(await quotas.headers("a", limits))[b"x-ratelimit-remaining-requests"] == b"2"


def test_what_guards_a_server_without_settings() -> None:
    assert KeyLimits().model_dump() == {
        "requests_per_minute": None, "tokens_per_minute": None, "concurrent": None, "weight": 1.0,
    }  # fmt: skip
    assert AccessSettings().open_paths == ("/health", "/ready", "/ping")
    assert HTTPSettings().model_dump() == {
        "max_body_bytes": 67_108_864, "body_seconds": 60.0, "header_seconds": 10.0, "write_seconds": 60.0,
    }  # fmt: skip
    assert AdmissionSettings().model_dump() == {
        "max_running_sequences": None, "max_running_tokens": None, "max_queue": 256, "queue_seconds": 45.0,
        "plain_share": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "tokens"),
    [
        ([b'{"usage":{"completion_tokens":12}}'], 12),
        ([b'{"usage":{"completion_', b'tokens": 1', b"2}}"], 12),
        ([b'data: {"usage":{"output_tokens":1}}\n\n', b'data: {"usage":{"output_tokens":40}}\n\n'], 40),
        ([b'data: {"a":1}\n\ndata: {"a":2}\n\n', b"data: [DONE]\n\n"], 2),
        ([json.dumps({"content": '"completion_tokens": 99', "usage": {"completion_tokens": 3}}).encode()], 3),
        ([], 0),
    ],
)
def test_the_meter(parts: list[bytes], tokens: int) -> None:
    meter = TokenMeter()
    for part in parts:
        meter.feed(part)
    assert meter.tokens == tokens


async def test_requests_that_come_at_once_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    quotas, most = Quotas(), 0
    limits = ServerSettings.load(
        access={"limits": {"concurrent": 2, "requests_per_minute": 100}}
    ).access.limits
    real = quotas._limiter.hit

    async def slow(*what: Any) -> bool:
        await asyncio.sleep(0)  # a storage that other requests are waiting for, or that is remote
        return await real(*what)

    monkeypatch.setattr(quotas._limiter, "hit", slow)

    async def use() -> None:
        nonlocal most
        async with quotas.use("a", limits):
            most = max(most, quotas.running["a"])
            await asyncio.sleep(0.01)

    ends = await asyncio.gather(*(use() for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [RateLimitError] * 3
    assert most == 2
    assert not quotas.running


async def test_quotas_forget_nobody_and_hold_nothing() -> None:
    quotas = Quotas()
    settings = ServerSettings.load(access={"limits": {"concurrent": 1}}).access.limits
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with quotas.use("a", settings):
                raise ZeroDivisionError
    assert not quotas.running
