"""The benchmarks compare what their tables name, and the scripts still run."""

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
from tests.benchmarks.latency.real_size.forced import Lengths
from tests.benchmarks.latency.report import latency_report, profile_report
from tests.benchmarks.latency.run import RunSettings, UserRates, latency_run, profile_run
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
            fields = {"messages": chat(QUESTION), "max_tokens": 4}
            answer = httpx.post(url, json={"model": NAME, **fields}, timeout=60)
            assert answer.status_code == 200
            assert "mirl" not in answer.json()
            assert httpx.post(url, json={"model": f"{NAME}:direct", **fields}, timeout=60).status_code == 404


async def test_overhead_is_measured() -> None:
    results = await measure(2, 1, 4, [2], Console(quiet=True))
    for measured in results["measured"]:
        for rounds in measured["rounds"].values():
            assert all(row["p50"] > 0 and row[CPU] > 0 for row in rounds)
    assert len(report(results).splitlines()) == 2 + 2 + 2 * 3


def latency_settings(tmp_path: Path, lengths: Lengths | None = None) -> RunSettings:
    return RunSettings(
        model="mirl-tiny",
        data="digits/iid",
        part="dev",
        n=3,
        together=(1, 2),
        methods="sc@2,gate(descriptions=3;keep=2),steered",
        window=1,
        seed=0,
        warm_up=1,
        dtype="float32",
        kv_cache_gib=0.5,
        lengths=lengths,
        cache=tmp_path,
        rates=UserRates(),
    )


async def test_latency_is_measured_by_method_and_stage(tmp_path: Path) -> None:
    kept: list[int] = []
    result = await latency_run(
        latency_settings(tmp_path), Console(quiet=True), lambda result: kept.append(len(result["passes"]))
    )
    assert kept == [1, 2]
    rates = result["rates"]
    assert min(rates["prefill"], rates["score"], *(seconds for _, seconds in rates["steps"])) > 0
    for measured in result["passes"]:
        votes, gate, steered = measured["methods"].values()
        assert (votes["n"], votes["sequences"], votes["scored_tokens"]) == (3, 2, 0)
        assert set(gate["stages"]) == {"render", "describe", "score", "fork"}
        assert gate["scored_tokens"] > 0
        assert steered["rounds"] > 2
        assert all(of["predicted"] > 0 for of in measured["costs"].values())
    assert latency_report(result).count("| gate(descriptions=3;keep=2) | 3 |") == 2


async def test_the_score_stage_is_split(tmp_path: Path) -> None:
    result = await profile_run(latency_settings(tmp_path), Console(quiet=True))
    assert [(entry["together"], entry["requests"]) for entry in result["profile"]] == [(1, 3)] * 3 + [
        (2, 2)
    ] * 3
    served, _, forward = result["profile"][:3]
    parts = {"model forward", "LM head of prompt positions", "log-softmax over the vocabulary"}
    assert parts <= set(served["parts"])
    assert "LM head of prompt positions" not in forward["parts"]
    assert profile_report(result).count("as served") == 2
