"""That the benchmarks compare what they say: whose route answers, and that the scripts still run."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from openai import NotFoundError
from rich.console import Console

from mirl_core.tasks.data import open_data
from tests.benchmarks.arms import Gated, Voting, chat
from tests.benchmarks.direct import routes
from tests.benchmarks.direct.overhead import CPU, measure, report
from tests.benchmarks.peers import environments
from tests.helpers.servers import NAME, RunningServer, running

pytestmark = [pytest.mark.usefixtures("real_vllm"), pytest.mark.full]
QUESTION = open_data("digits/iid", "dev", 1, 0).questions[0]


async def test_plain_vllm_is_without_mirl_and_samples_what_direct_samples(
    server: RunningServer, tmp_path: Path
) -> None:
    with running(tmp_path, command=environments.PLAIN_VLLM, ready="/health") as theirs:
        async with server.async_client() as mirl, theirs.async_client() as vllm:
            with pytest.raises(NotFoundError):
                await Voting(vllm, f"{NAME}:direct", 1, "").ask(chat(QUESTION), 0)
            with pytest.raises(AssertionError, match="evidence"):
                await Gated(vllm, NAME).ask(chat(QUESTION), 0)
            gated = await Gated(mirl, NAME).ask(chat(QUESTION), 0)
            direct = await Voting(mirl, f"{NAME}:direct", 16, "").ask(chat(QUESTION), 0)
            plain = await Voting(vllm, NAME, 16, "").ask(chat(QUESTION), 0)
    assert gated.answer
    assert gated.scored_tokens > 0
    assert (direct.answer, direct.sampled_tokens) == (plain.answer, plain.sampled_tokens)


def test_vllms_own_route_stands_beside_ours(tmp_path: Path) -> None:
    with routes.installed() as environment, running(tmp_path, environment=environment) as server:
        for prefix in routes.PREFIXES:
            url = f"{server.url}{prefix}/v1/chat/completions"
            asked = {"messages": chat(QUESTION), "max_tokens": 4}
            answer = httpx.post(url, json={"model": NAME, **asked}, timeout=60)
            assert answer.status_code == 200
            assert "mirl" not in answer.json()
            assert httpx.post(url, json={"model": f"{NAME}:direct", **asked}, timeout=60).status_code == 404


async def test_overhead_is_measured() -> None:
    found = await measure(2, 1, 4, [2], Console(quiet=True))
    for measured in found["measured"]:
        for rounds in measured["rounds"].values():
            assert all(one["p50"] > 0 and one[CPU] > 0 for one in rounds)
    assert len(report(found).splitlines()) == 2 + 2 + 2 * 3
