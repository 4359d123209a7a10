"""The engine over HTTP while its servers, which are processes of their own, die, hang and come back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.remote import checks
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.pool.settings import PoolSettings
from mirl_core.types import Conversation
from tests.helpers.ports import reserved_port
from tests.helpers.servers import SERVE_DIGITS
from tests.helpers.token_server import continuation, logprob
from tests.integration.engines.chaos_cases import (
    Figures,
    Process,
    check,
    disturb,
    is_up,
    report,
    under_load,
)
from tests.integration.engines.remote_cases import picture, question
from tests.unit.engines.remote.remote_cases import Letters

BRANCHES = 3
PATIENT = PoolSettings(first_wait=0.1, longest_wait=0.5, tick=0.1, check_seconds=1.0, stall_seconds=1.0)


def launch(command: tuple[str, ...], port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        # A session of its own: its process group is exactly what was started here.
        return subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Process]]:
    """Start as many servers as the parameter says, with its command; yield them by URL."""
    count, command = request.param
    with ExitStack() as stack:
        started: dict[str, Process] = {}
        for number in range(count):
            port = stack.enter_context(reserved_port())
            start = partial(launch, command, port, tmp_path / f"{number}.log")
            started[f"http://127.0.0.1:{port}"] = process = Process(start, start())
            stack.callback(lambda child=process: child.process.poll() is None and child.kill())
        yield started


TOKEN_SERVERS = (2, (sys.executable, "-m", "tests.helpers.token_server"))
VLLM_SERVERS = (3, (*SERVE_DIGITS, "--enable-scale-out", "--dtype=float32", "--max-num-seqs=32"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [TOKEN_SERVERS], indirect=True, ids=["two processes"])
async def test_nothing_is_lost_or_duplicated(
    processes: dict[str, Process], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "load_tokenizer", lambda _: (Letters(), frozenset()))
    engine = await RemoteEngine.start([*processes], required=False, settings=PATIENT)
    figures = Figures()

    async def work(number: int, count: Figures) -> None:
        text = f"Question {number}"
        context = RequestContext(f"request-{number}")
        await engine.pool.ensure()
        rendered = await engine.render(Conversation(({"role": "user", "content": text},)), context)
        count.sent += BRANCHES
        seen: set[int] = set()
        ids = [ord(letter) for letter in text]
        try:
            sampling = Sampling(max_tokens=8, seed=number)
            async for sample in engine.generate(rendered, (5,), BRANCHES, sampling, context):
                count.answered += sample.index not in seen
                count.duplicated += sample.index in seen
                seen.add(sample.index)
                seed = sampling.branch_seed(sample.index)
                assert seed is not None
                count.wrong += list(sample.token_ids) != continuation([*ids, 5], seed, 8)
        except BaseException:
            count.failed += BRANCHES - len(seen)
            raise
        (scores,) = await engine.score(rendered, [(100, 101)], context)
        count.wrong += scores != (logprob(100), logprob(101))

    try:
        for server in engine.servers:
            await is_up(server)
        async with under_load(work, figures, workers=6):
            await disturb(engine, processes, figures, answers=30)
        with capsys.disabled():
            print(report(figures, engine))
        check(figures, engine)
    finally:
        await engine.close()


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("real_vllm")
@pytest.mark.parametrize("processes", [VLLM_SERVERS], indirect=True, ids=["three vLLM servers"])
async def test_real_servers_lose_nothing(
    processes: dict[str, Process], capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedy answers about the same pictures are the same, whichever server gives them and whenever."""
    settings = PoolSettings(first_wait=0.5, longest_wait=2.0, check_seconds=5.0, stall_seconds=5.0)
    engine = await RemoteEngine.start([*processes], required=False, settings=settings)
    figures = Figures()
    truth: dict[int, tuple[int, ...]] = {}

    async def work(number: int, count: Figures) -> None:
        which = number % 8
        context = RequestContext(f"request-{number}")
        rendered = await engine.render(question(picture(which)), context)
        opening = engine.encode("<description>")
        count.sent += BRANCHES
        seen: set[int] = set()
        try:
            sampling = Sampling(max_tokens=24, temperature=0.0, stop=("</description>",))
            async for sample in engine.generate(rendered, opening, BRANCHES, sampling, context):
                count.answered += sample.index not in seen
                count.duplicated += sample.index in seen
                seen.add(sample.index)
                count.wrong += sample.token_ids != truth.setdefault(which, sample.token_ids)
        except BaseException:
            count.failed += BRANCHES - len(seen)
            raise

    try:
        for server in engine.servers:
            await is_up(server)
        async with under_load(work, figures, workers=6):
            await disturb(engine, processes, figures, answers=120)
        with capsys.disabled():
            print(report(figures, engine))
        check(figures, engine)
    finally:
        await engine.close()
