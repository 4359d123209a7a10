"""Thousands of hostile requests to a real `mirl-serve`: each ends in a 4xx in its API's own shape, or was
harmless, and a good request is answered after each. Nothing that they said is in the log or the metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx
import pytest

from tests.helpers.servers import RunningServer
from tests.hostile.case import CANARY, DIRECT, Case, picture
from tests.hostile.corpus import corpus, sample
from tests.hostile.run import Report, run
from tests.hostile.wire import wires

OF_EACH, SEED = 9, 20
LEAST = 170
KEY = "canary-key-of-the-corpus"
_COMPILED = "vLLM compiles the form of a plain request in the engine, and tells of its failure as of its own"
_CUT = "vLLM cuts the placeholders of an image off, and trips over it"
KNOWN = {
    "wire: a web socket": "refused by the library for web sockets, without a body",
    f"forms: structured_outputs = {{'grammar': 'root ::= root'}}, plain chat (POST {DIRECT.path})": _COMPILED,
    **{
        f"vLLM's own fields: truncate_prompt_tokens = {value}, plain chat (POST {DIRECT.path})": _CUT
        for value in ("0", "1", "3", "true", "false")
    },
}  # fmt: skip
"""What is answered otherwise than it should be, and why that is left. Those that get better fail the test."""


async def check(server: RunningServer, cases: Sequence[Case]) -> Report:
    started = time.monotonic()
    report = await run(server.url, cases, wires(), KEY)
    print(f"\n{report}\n{time.monotonic() - started:.1f} s")
    new = {name: says for name, says in report.wrong.items() if name not in KNOWN}
    assert not new, "\n".join(f"{name}: {says}" for name, says in new.items())
    assert not KNOWN.keys() - report.wrong.keys(), "these are better now: take them out of KNOWN"
    assert report.good == report.statuses.total()
    assert server.process.poll() is None
    _nothing_leaked(server)
    return report


def _nothing_leaked(server: RunningServer) -> None:
    """No key, no prompt and no image of the corpus is where others read."""
    image = picture().partition(",")[2]
    for where, text in (
        ("log", server.log.read_text(errors="replace")),
        ("metrics", httpx.get(f"{server.url}/metrics", timeout=30).text),
    ):
        # The name of a file's format is no image; its first bytes are.
        for secret in (CANARY, KEY, image[:60], image[-60:], "iVBORw0KGgo", "input_value"):
            assert secret not in text, f"{secret} is in the {where}"


async def test_a_sample_of_the_corpus(server: RunningServer) -> None:
    cases = corpus()
    assert len(cases) > 5000
    assert len({case.id for case in cases}) > 0.99 * len(cases)
    known = [case for case in cases if case.id in KNOWN]
    report = await check(server, [*sample(cases, OF_EACH, SEED), *known])
    assert report.statuses.total() >= LEAST


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_the_whole_corpus(server: RunningServer) -> None:
    cases = corpus()
    report = await check(server, cases)
    assert report.statuses.total() >= len(cases)
