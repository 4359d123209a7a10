"""Sends a corpus to a server, a good request after each, and reports what is wrong with the answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.hostile.case import CHAT, Case
from tests.hostile.wire import Wire, answers

AT_A_TIME = 4
SECONDS = 20.0
"""For one answer. Nothing in the corpus may keep the server longer."""


@dataclass
class Report:
    """What came back."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By family; 0: a connection closed without a word."""
    wrong: dict[str, str] = field(default_factory=dict)
    """What a case's answer is, where it is not what it should be."""
    slowest: tuple[float, str] = (0.0, "")
    good: int = 0

    def note(self, name: str, family: str, status: int, says: str | None, seconds: float) -> None:
        self.statuses[family, status] += 1
        if says is not None:
            self.wrong[name] = says
        self.slowest = max(self.slowest, (seconds, name))

    def __str__(self) -> str:
        lines = []
        for family in dict.fromkeys(family for family, _ in self.statuses):
            counts = {status: n for (of, status), n in sorted(self.statuses.items()) if of == family}
            text = ", ".join(f"{n} × {status or 'closed'}" for status, n in counts.items())
            lines.append(f"{family}: {sum(counts.values())} ({text})")
        seconds, name = self.slowest
        total = f"{self.statuses.total()} hostile, {self.good} good requests between them"
        return "\n".join([*lines, total, f"slowest: {seconds:.1f} s, {name}"])


def shape_of(path: str, body: bytes) -> str | None:
    """What is wrong with an error of the API at `path`; None: nothing."""
    try:
        document = json.loads(body)
    except ValueError:
        return f"no JSON: {body[:100]!r}"
    if path.startswith("/v1/messages"):
        if not isinstance(document, dict) or document.get("type") != "error":
            return f"not Anthropic's shape: {body[:200]!r}"
        wanted = {"type", "message"}
    else:
        wanted = {"message", "type", "param", "code"}
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not wanted <= error.keys():
        return f"not the API's shape: {body[:200]!r}"
    if not isinstance(error["message"], str) or not error["message"] or not isinstance(error["type"], str):
        return f"an error without words: {body[:200]!r}"
    return f"words without end: {len(error['message'])}" if len(error["message"]) > 20_000 else None


def judged(case: Case, status: int, body: bytes) -> str | None:
    """What is wrong with an answer; None: nothing."""
    if status < 400 and case.harmless:
        return None
    if not 400 <= status < 500:
        return f"status {status}: {body[:300]!r}"
    # A method that is none is refused by the parser, before it has read the path.
    return shape_of("" if case.method == "FROB" else case.path, body)


async def run(url: str, cases: Sequence[Case], wires: Sequence[Wire] = (), key: str | None = None) -> Report:
    """Send them all, a few at a time."""
    report = Report()
    todo: list[Case | Wire] = [*cases, *wires]
    todo.reverse()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS, headers=headers) as client:

        async def work() -> None:
            while todo:
                item = todo.pop()
                if isinstance(item, Wire):
                    await _send_wire(client, item, report)
                else:
                    await _send(client, item, report)
                await _good(client, report, item.id)

        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return report


async def _send(client: httpx.AsyncClient, case: Case, report: Report) -> None:
    before = time.monotonic()
    try:
        request = client.build_request(case.method, case.path, content=case.body, headers=dict(case.headers))
        answer = await client.send(request)
        status, says = answer.status_code, judged(case, answer.status_code, answer.content)
    except httpx.HTTPError as error:
        status, says = 0, f"no answer: {error!r}"
    report.note(case.id, case.family, status, says, time.monotonic() - before)


async def _send_wire(client: httpx.AsyncClient, wire: Wire, report: Report) -> None:
    before = time.monotonic()
    port = client.base_url.port
    assert port is not None
    responses = await answers(port, wire.sent)
    says = None
    if len(responses) > wire.most:
        says = f"{len(responses)} answers: {responses!r}"[:300]
    for status, body in responses:
        says = says or judged(Case("", "", "", b"", harmless=wire.harmless), status, body)
    report.note(wire.id, "wire", responses[0][0] if responses else 0, says, time.monotonic() - before)


async def _good(client: httpx.AsyncClient, report: Report, after: str) -> None:
    """A gated request that is as it should be, and /health."""
    answer = await client.post(CHAT.path, json=CHAT.body())
    assert answer.status_code == 200, f"after {after}: {answer.text[:300]}"
    assert answer.json()["mirl"]["descriptions"]
    assert (await client.get("/health")).status_code == 200, f"after {after}"
    report.good += 1
