"""Prometheus and Alertmanager watch a real `mirl-serve`: its dashboard has data, its death is reported."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests.deploy.observability.watching import Watch, watching
from tests.deploy.tools import ROOT, tool
from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import NAME, RunningServer, running
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]
VARIABLES = {"$__rate_interval": "5m", "$job": "mirl", "$instance": ".*"}


@dataclass(frozen=True)
class Watched:
    """A server that has answered some questions, and what watches it."""

    server: RunningServer
    watch: Watch


@pytest.fixture(scope="module")
def watched(real_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Yield a server of this module's own, watched; the last test kills its engine."""
    for name in ("prometheus", "prometheus-alertmanager"):
        tool(name)
    folder = tmp_path_factory.mktemp("watched")
    with running(folder) as server, watching(folder, server.url.removeprefix("http://")) as watch:
        client = server.client()

        def scraped(more: float) -> bool:
            return any(float(series["value"][1]) >= more for series in watch.query("mirl_requests_total"))

        wait_until(lambda: scraped(0), 60)
        for seed in range(3):
            client.chat.completions.create(
                model=NAME, messages=image_question(seed=seed), extra_body=small_fan_out()
            )
        client.chat.completions.create(model=f"{NAME}:direct", messages=image_question(), max_tokens=8)
        wait_until(lambda: scraped(3), 60)
        yield Watched(server, watch)


def dashboard_queries() -> list[str]:
    """Return the dashboard's queries, as Grafana sends them."""
    dashboard = json.loads((ROOT / "deploy/grafana/mirl.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for variable, value in VARIABLES.items():
        queries = [query.replace(variable, value) for query in queries]
    return queries


def test_every_query_of_the_dashboard_returns_data(watched: Watched) -> None:
    queries = dashboard_queries()
    assert len(queries) > 40
    empty = queries

    def all_return_data() -> bool:
        # A rate needs two scrapes, and a series begins with the first request that it counts.
        nonlocal empty
        empty = [query for query in empty if not watched.watch.query(query)]
        return not empty

    with contextlib.suppress(AssertionError):
        wait_until(all_return_data, 60)
    print(f"{len(queries) - len(empty)} of {len(queries)} dashboard queries return data")
    assert not empty


def test_every_rule_is_healthy_and_none_fires_for_a_server_that_is_well(watched: Watched) -> None:
    def evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in watched.watch.rules().values())

    wait_until(evaluated, 60)
    rules = watched.watch.rules()
    assert len(rules) >= 12
    assert {name for name, rule in rules.items() if rule["state"] == "firing"} == set()


def test_an_engine_that_dies_is_reported_by_webhook(watched: Watched) -> None:
    children = psutil.Process(watched.server.process.pid).children(recursive=True)
    (engine,) = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
    killed = time.monotonic()
    engine.kill()
    try:
        code = watched.server.process.wait(120)
    except subprocess.TimeoutExpired:
        pytest.fail("the server is still there 120 s after its engine died")
    ended = time.monotonic() - killed
    wait_until(lambda: watched.watch.firing("MIRLServerDown"), 300)
    print(f"exit code {code} after {ended:.0f} s, MIRLServerDown after {time.monotonic() - killed:.0f} s")
    assert code == 3
    wait_until(lambda: watched.watch.firing("MIRLNoServer"), 300)
