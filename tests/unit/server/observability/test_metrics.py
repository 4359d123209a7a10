"""What the metrics say of requests, by Prometheus's names and rules; and the dashboard that reads them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineDeadError, EngineError, RequestTooLargeError
from mirl_server.observability.metrics import Metrics
from tests.unit.server.harness import DESCRIPTIONS, Build, Harness, data_url, question

GRAFANA = Path(__file__).parents[4] / "deploy" / "grafana"
UNITS = "milliseconds|microseconds|ms|minutes|hours|kilobytes|megabytes|mb|percent|perc|celsius_degrees"
KEYWORDS = {"sum", "by", "rate", "histogram_quantile", "ignoring", "group_left", "max", "count", "le"}


def exposed(registry: CollectorRegistry) -> list[Metric]:
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def lint(family: Metric) -> list[str]:
    """What `promtool check metrics` complains of (prometheus/client_golang, testutil/promlint)."""
    name, problems = family.name, []
    exported = {sample.name for sample in family.samples} or {name}
    if not family.documentation:
        problems.append("no help text")
    if family.type == "counter":
        problems += [
            "counters end in _total" for sample_name in exported if not sample_name.endswith("_total")
        ]
    elif name.endswith("_total"):
        problems.append("only counters end in _total")
    if family.type not in ("histogram", "summary"):
        problems += ["reserved suffix" for end in ("_bucket", "_count", "_sum") if name.endswith(end)]
        problems += [
            "reserved label" for sample in family.samples if {"le", "quantile"} & sample.labels.keys()
        ]
    if ":" in name:
        problems.append("colons are for recording rules")
    labels = {label for sample in family.samples for label in sample.labels}
    problems += [f"camelCase in {word}" for word in (name, *labels) if re.search(r"[a-z][A-Z]", word)]
    if re.search(rf"_({UNITS})(_|$)", name):
        problems.append("not a base unit")
    problems += [
        "the type is in the name" for kind in ("counter", "gauge", "histogram") if kind in name.split("_")
    ]
    return problems


async def ask_in_every_way(harness: Harness) -> None:
    await harness.ask()
    await harness.ask(stream=True)
    await harness.ask(mirl={"kep": 1})
    await harness.ask(messages=[question(url="data:image/png;base64,!")])


async def test_every_metric_passes_promtools_rules(server: Harness) -> None:
    await ask_in_every_way(server)
    families = [family for family in exposed(server.registry) if not family.name.endswith("_created")]
    assert len(families) > 20
    assert {family.name: lint(family) for family in families if lint(family)} == {}
    assert all(family.name.startswith("mirl_") for family in families)


@pytest.mark.parametrize(
    ("kind", "name", "complaint"),
    [
        ("gauge", "mirl_wait_ms", "not a base unit"),
        ("gauge", "mirl_things_total", "only counters end in _total"),
        ("gauge", "mirl_thing_count", "reserved suffix"),
        ("gauge", "mirl_thingGauge", "camelCase in mirl_thingGauge"),
        ("gauge", "mirl_gauge_of_things", "the type is in the name"),
    ],
)
def test_the_rules_find_what_they_are_for(kind: str, name: str, complaint: str) -> None:
    assert complaint in lint(Metric(name, "help", kind))


async def test_label_values_are_bounded(server: Harness) -> None:
    """Whatever users send, series come from fixed lists: a second round of other texts adds none."""
    await ask_in_every_way(server)

    def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
        samples = (sample for family in exposed(server.registry) for sample in family.samples)
        return {(sample.name, frozenset(sample.labels.items())) for sample in samples}

    before = series()
    for text in ("another question", "noch eine"):
        await server.ask(messages=[question(text, data_url("blue"))], model="alias", user=text)
        await server.ask(mirl={text: 1})
        await server.ask(messages=[question(text, f"data:{text};base64,AAAA")])
        await server.ask(**{text: 1})
    assert series() == before


async def test_a_request_in_numbers(server: Harness) -> None:
    result = (await server.ask()).json()
    usage = result["usage"]
    metric = server.metric
    assert metric("mirl_requests_total", outcome="answered") == 1
    assert metric("mirl_request_seconds_count") == 1
    assert metric("mirl_decision_seconds_count") == 1
    assert metric("mirl_tokens_total", stage="render", kind="prompt") == usage["prompt_tokens"]
    sampled = sum(metric("mirl_tokens_total", stage=stage, kind="sampled") for stage in ("describe", "fork"))
    assert sampled == usage["completion_tokens"]
    assert (
        metric("mirl_tokens_total", stage="score", kind="scored")
        == result["mirl"]["stages"][1]["scored_tokens"]
    )
    assert metric("mirl_description_information_nats_count", fate="kept") == 1
    assert metric("mirl_description_information_nats_per_token_count", fate="gate") == 1
    # 2.5 nats a token: log p of -0.5 against a marginal of -3.
    assert metric("mirl_description_information_nats_per_token_bucket", fate="kept", le="2.0") == 0
    assert metric("mirl_description_information_nats_per_token_bucket", fate="kept", le="3.0") == 1
    assert metric("mirl_vote_share_ratio_count") == 1
    assert metric("mirl_image_seconds_count", step="decode") == 1
    assert metric("mirl_sequences_in_flight") == 0


async def test_chains_are_started_finished_or_cancelled_once_the_vote_is_decided(build: Build) -> None:
    # Two chains agree at once; the last one of three can't change the vote and would take a minute.
    chains = [FakeText("<answer>7</answer>")] * 2 + [FakeText("<answer>1</answer>", delay=20)]
    harness = build(FakeEngine(["a red seven</description>"], chains))
    await harness.ask(mirl={"descriptions": 1, "keep": 1, "forks": 3})
    assert harness.metric("mirl_chains_started_total") == 3
    assert harness.metric("mirl_chains_finished_total", finish_reason="stop") == 2
    assert harness.metric("mirl_chains_cancelled_total", reason="decided") == 1
    assert harness.metric("mirl_sequences_in_flight") == 0


async def test_a_fall_back_counts_why_descriptions_were_dropped(build: Build) -> None:
    harness = build(FakeEngine(["</description>"], plain=["<answer>2</answer>"]))
    await harness.ask()
    assert harness.metric("mirl_requests_total", outcome="fallback") == 1
    assert harness.metric("mirl_descriptions_total", fate="empty") == 2
    assert harness.metric("mirl_chains_started_total") == 1
    assert harness.metric("mirl_chains_finished_total", finish_reason="stop") == 1


async def test_a_failure_leaves_nothing_in_flight(build: Build) -> None:
    harness = build(FakeEngine(DESCRIPTIONS, fail_at={"fork": EngineError("boom")}))
    await harness.ask()
    assert harness.metric("mirl_failures_total", reason="engine_error") == 1
    assert harness.metric("mirl_chains_started_total") == 2
    assert harness.metric("mirl_chains_cancelled_total", reason="failed") == 2
    assert harness.metric("mirl_sequences_in_flight") == 0


async def test_refusals_by_reason_once_each_whatever_the_route(server: Harness) -> None:
    await ask_in_every_way(server)
    assert server.metric("mirl_refusals_total", reason="invalid_request") == 1
    assert server.metric("mirl_refusals_total", reason="invalid_image") == 1
    async with server.client() as client:
        await client.post("/v1/mirl/score", json={"messages": []})
        await client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert server.metric("mirl_refusals_total", reason="invalid_request") == 3
    server.service.metrics.refused(RequestTooLargeError("big"))
    assert server.metric("mirl_refusals_total", reason="request_too_large") == 1


async def test_images_by_url_by_how_they_ended(server: Harness) -> None:
    url = "https://images.example/a.png"
    assert (await server.ask(messages=[question(url=url)])).status_code == 400
    assert server.metric("mirl_image_fetches_total", outcome="refused") == 1
    assert server.metric("mirl_image_fetches_total", outcome="ok") == 0


async def test_a_stream_that_fails_on_its_way_is_counted_once(build: Build) -> None:
    harness = build(FakeEngine(DESCRIPTIONS, fail_at={"fork": EngineDeadError("gone")}))
    await harness.ask(stream=True)
    assert harness.metric("mirl_failures_total", reason="engine_dead") == 1
    assert harness.metric("mirl_requests_total", outcome="failed") == 1


def test_what_others_know_is_read_when_metrics_are(server: Harness) -> None:
    metrics, waiting, state = server.service.metrics, [3.0], ["ready"]
    metrics.watch(queue_requests=lambda: waiting[0])
    metrics.watch_engine(lambda: state[0])  # type: ignore[arg-type,return-value]
    assert server.metric("mirl_queue_requests") == 3
    waiting[0], state[0] = 5, "dead"
    assert server.metric("mirl_queue_requests") == 5
    assert server.metric("mirl_engine_state", state="dead") == 1
    assert server.metric("mirl_engine_state", state="ready") == 0
    with pytest.raises(KeyError):
        metrics.watch(queue_lenght=lambda: 0.0)


def test_several_processes_share_their_metrics(tmp_path: Path) -> None:
    """In prometheus's multiprocess mode, as vLLM sets it up for several API servers."""
    script = """
import sys
from mirl_server.observability.metrics import process_metrics
metrics = process_metrics()
waiting = [0]
metrics.watch(queue_requests=lambda: waiting[0])
metrics.watch_engine(lambda: "ready")
waiting[0] = int(sys.argv[1])
metrics.requests.labels("answered").inc()
metrics.running.inc()
metrics.refresh()
sys.stdout.write("up\\n"); sys.stdout.flush()
sys.stdin.read()
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, waiting], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for waiting in ("2", "3")
    ]  # fmt: skip
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        collect = (
            "from prometheus_client import CollectorRegistry, generate_latest, multiprocess\n"
            "registry = CollectorRegistry(); multiprocess.MultiProcessCollector(registry)\n"
            "print(generate_latest(registry).decode())"
        )
        shown = subprocess.run(
            [sys.executable, "-c", collect], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    finally:
        for process in running:
            process.communicate()
    assert 'mirl_requests_total{outcome="answered"} 2.0' in shown
    assert "mirl_requests_in_flight 2.0" in shown
    assert "mirl_queue_requests 5.0" in shown
    assert 'mirl_engine_state{state="ready"} 1.0' in shown


def dashboard_queries() -> list[tuple[str, str]]:
    dashboard = json.loads((GRAFANA / "mirl.json").read_text())
    return [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def vllm_types() -> dict[str, str]:
    """vLLM's metrics by kind, out of its source."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "v1" / "metrics" / "loggers.py").read_text()
    return {name: kind for kind, name in re.findall(r'_(\w+)_cls\(\s*name="(vllm:\w+)"', source)}


def own_types() -> dict[str, str]:
    registry = CollectorRegistry()
    Metrics(registry)
    return {family.name: family.type for family in registry.collect()}


def selectors(expr: str) -> list[str]:
    """The metric names of a PromQL expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\bignoring \([^)]*\)", " ", expr)
    return [word for word in re.findall(r"[a-zA-Z_][\w:]*", bare) if word not in KEYWORDS]


@pytest.mark.parametrize(("title", "expr"), dashboard_queries(), ids=lambda text: text[:40])
def test_every_query_of_the_dashboard_reads_a_metric_that_exists(title: str, expr: str) -> None:
    known = {**vllm_types(), **own_types()}
    names = selectors(expr)
    assert names, title
    for name in names:
        base = re.sub(r"_(total|bucket|count|sum)$", "", name)
        kind = known.get(base) or known.get(name)
        assert kind is not None, f"{title}: there is no {name}"
        rated = re.search(rf"rate\({re.escape(name)}\{{", expr) is not None
        if kind == "gauge":
            assert name in known, f"{title}: {name} is a gauge"
            assert not rated, f"{title}: the rate of a gauge"
        else:
            ends = ("_total",) if kind == "counter" else ("_bucket", "_count", "_sum")
            assert name.endswith(ends), f"{title}: {name} is a {kind}"
            assert rated, f"{title}: {name} only ever grows"
        if "histogram_quantile" in expr:
            assert name.endswith("_bucket"), title
            assert re.search(r"by \(le\b", expr), title
    for opening, closing in ("()", "{}", "[]"):
        assert expr.count(opening) == expr.count(closing), title


def test_the_names_in_a_query_are_read() -> None:
    assert selectors('sum by (a) (rate(x_total{b="c"}[5m])) / y') == ["x_total", "y"]


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = {
        re.sub(r"_(total|bucket|count|sum)$", "", name)
        for _, expr in dashboard_queries()
        for name in selectors(expr)
    }
    assert own_types().keys() - shown == set()


def test_the_dashboard_is_what_its_source_makes() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import dashboard; print(dashboard.rendered(), end='')"],
        cwd=GRAFANA, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ).stdout  # fmt: skip
    assert made == (GRAFANA / "mirl.json").read_text()
    assert len({panel["id"] for panel in json.loads(made)["panels"]}) == len(json.loads(made)["panels"])


async def test_several_answers_are_one_request(server: Harness) -> None:
    usage = (await server.ask(n=2)).json()["usage"]
    metric = server.metric
    assert metric("mirl_requests_total", outcome="answered") == 1
    assert metric("mirl_request_seconds_count") == 1
    assert metric("mirl_decision_seconds_count") == metric("mirl_vote_share_ratio_count") == 2
    assert metric("mirl_tokens_total", stage="render", kind="prompt") == usage["prompt_tokens"]
    sampled = sum(metric("mirl_tokens_total", stage=stage, kind="sampled") for stage in ("describe", "fork"))
    assert sampled == usage["completion_tokens"]
    assert metric("mirl_requests_in_flight") == metric("mirl_sequences_in_flight") == 0
