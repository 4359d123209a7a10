"""Load on a real server: many asks, each with exactly one end, which is matched to it by its id.

An ask's id travels as `x-request-id`. It must come back in the response's header, and in the `id` of the
answer and of every chunk of a stream: an answer that was lost, doubled or given to somebody else raises.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

LOST = 0
"""The status of an ask whose connection ended without an answer."""
LEFT = 499
"""The status of an ask whose client hung up, as it had meant to."""


class WrongAnswerError(AssertionError):
    """An answer that belongs to another request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request."""

    id: str
    body: dict[str, Any]
    key: str = ""
    path: str = "/v1/chat/completions"
    leaves: float | None = None
    """Seconds after which its client hangs up; None: it stays."""

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an ask ended; times in seconds, `began` on the clock of time.monotonic."""

    ask: Ask
    status: int
    began: float
    seconds: float
    retry_after: float | None = None
    body: dict[str, Any] = field(default_factory=dict)
    """The answer, or of a stream its last chunk with a choice."""


class Driver:
    """A client that sends asks and checks what comes back. Use it by `driving`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._seen: set[str] = set()

    async def send(self, ask: Ask) -> End:
        """One ask to its end.

        Raises:
            WrongAnswerError: what came back isn't its answer, or isn't whole.
        """
        if ask.id in self._seen:
            raise ValueError(f"{ask.id} was asked already")
        self._seen.add(ask.id)
        began = time.monotonic()
        common: dict[str, Any] = {"ask": ask, "began": began}
        try:
            async with asyncio.timeout(ask.leaves):
                status, headers, content = await self._exchange(ask)
        except TimeoutError:
            return End(status=LEFT, seconds=time.monotonic() - began, **common)
        except httpx.TransportError:
            return End(status=LOST, seconds=time.monotonic() - began, **common)
        seconds = time.monotonic() - began
        after = headers.get("retry-after")
        body = _checked(ask, status, headers, content)
        return End(
            status=status, seconds=seconds, retry_after=float(after) if after else None, body=body, **common
        )

    async def _exchange(self, ask: Ask) -> tuple[int, httpx.Headers, bytes]:
        headers = {"x-request-id": ask.id} | ({"authorization": f"Bearer {ask.key}"} if ask.key else {})
        response = await self._client.post(ask.path, json=ask.body, headers=headers)
        return response.status_code, response.headers, response.content

    async def closed_loop(self, asks: Iterator[Ask], clients: int, seconds: float) -> list[End]:
        """Some clients that send an ask whenever theirs has ended, for a time."""
        until = time.monotonic() + seconds
        ends: list[End] = []

        async def client() -> None:
            while time.monotonic() < until and (ask := next(asks, None)) is not None:
                ends.append(await self.send(ask))

        await asyncio.gather(*(client() for _ in range(clients)))
        return ends

    async def open_loop(self, asks: Iterator[Ask], rate: float, seconds: float) -> list[End]:
        """Asks that arrive at a rate (per second) for a time, whatever becomes of those before them."""
        began, sent = time.monotonic(), list[asyncio.Task[End]]()
        while (now := time.monotonic() - began) < seconds:
            # What the clock says is due: a driver that was held up catches up.
            while len(sent) < now * rate and (ask := next(asks, None)) is not None:
                sent.append(asyncio.create_task(self.send(ask)))
            await asyncio.sleep(1 / rate)
        return await asyncio.gather(*sent)


@asynccontextmanager
async def driving(url: str) -> AsyncIterator[Driver]:
    """A driver of the server at `url`."""
    # Idle connections are dropped before the server does it: else a request meets the end of one at times.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        yield Driver(client)


def _checked(ask: Ask, status: int, headers: httpx.Headers, content: bytes) -> dict[str, Any]:
    """The body of an answer that is this ask's, whole, and of the right shape."""
    if headers.get("x-request-id") != ask.id:
        raise WrongAnswerError(f"{ask.id} was answered as {headers.get('x-request-id')}")
    if status != 200:
        body: dict[str, Any] = json.loads(content)
        if set(body["error"]) != {"message", "type", "param", "code"}:
            raise WrongAnswerError(f"{ask.id} ended with {status} and {body}")
        return body
    if not ask.stream:
        body = json.loads(content)
        _is_of(ask, body)
        return body
    lines = [
        line.removeprefix("data: ") for line in content.decode().split("\n\n") if line.startswith("data:")
    ]
    if lines.count("[DONE]") != 1 or lines[-1] != "[DONE]":
        raise WrongAnswerError(f"the stream of {ask.id} has no end, or several")
    last: dict[str, Any] = {}
    for chunk in map(json.loads, lines[:-1]):
        if "error" in chunk:
            return {"error": chunk["error"]}
        _is_of(ask, chunk)
        last = chunk if chunk["choices"] else last
    return last


def _is_of(ask: Ask, body: dict[str, Any]) -> None:
    if ask.id not in body["id"] or not (body.get("choices", True) or ask.stream):
        raise WrongAnswerError(f"{ask.id} got the answer {body['id']}")


def of(ends: Sequence[End], *, status: int | None = None, keys: Collection[str] | None = None) -> list[End]:
    """Those of a status, of some keys."""
    return [
        end
        for end in ends
        if (status is None or end.status == status) and (keys is None or end.ask.key in keys)
    ]


def percentile(ends: Sequence[End], percent: int) -> float:
    """Seconds that so many percent of them took at most."""
    seconds = sorted(end.seconds for end in ends)
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] if len(seconds) > 1 else 0.0


def summary(ends: Sequence[End]) -> str:
    """Ends by status, and how long the answered ones took."""
    statuses = " ".join(
        f"{status}: {count}" for status, count in sorted(Counter(e.status for e in ends).items())
    )
    answered = of(ends, status=200)
    return f"{statuses}; answered p50 {percentile(answered, 50):.2f} s, p95 {percentile(answered, 95):.2f} s"
