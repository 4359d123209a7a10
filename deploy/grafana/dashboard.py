"""Makes mirl.json, the Grafana dashboard: `python deploy/grafana/dashboard.py`. A test holds it to that.

Every query is restricted by the variables `job` and `instance`, which Prometheus sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("mirl.json")
ANSWERED, SAMPLED = 'outcome="answered"', 'kind="sampled"'
WHERE = 'job=~"$job",instance=~"$instance"'
Query = tuple[str, str]
Panel = tuple[str, str, list[Query]]


def rate(metric: str, by: str = "", more: str = "") -> str:
    """A counter's increase per second, summed by a label."""
    selected = f"{metric}{{{WHERE}{',' + more if more else ''}}}"
    return f"sum{f' by ({by})' if by else ''} (rate({selected}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'le, {by}' if by else 'le')})"


def quantiles(metric: str) -> list[Query]:
    """Median, 95% and 99%."""
    return [(quantile(share, metric), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)]


def gauge(metric: str, by: str = "", how: str = "sum") -> str:
    """A gauge, over all instances."""
    return f"{how}{f' by ({by})' if by else ''} ({metric}{{{WHERE}}})"


BY_STAGE = rate("mirl_stage_seconds_sum", "stage")
ROWS: list[tuple[str, list[Panel]]] = [
    ("Traffic", [
        ("Gated requests by outcome", "reqps", [(rate("mirl_requests_total", "outcome"), "{{outcome}}")]),
        ("In flight", "short", [(gauge("mirl_requests_in_flight"), "requests")]),
        ("Answered in full", "percentunit", [
            (f"{rate('mirl_requests_total', more=ANSWERED)} / {rate('mirl_requests_total')}", "share"),
        ]),
    ]),
    ("Latency", [
        ("Gated request", "s", quantiles("mirl_request_seconds")),
        ("Until the vote is decided", "s", quantiles("mirl_decision_seconds")),
        ("Stage, p95", "s", [(quantile(0.95, "mirl_stage_seconds", "stage"), "{{stage}}")]),
        ("Stage, share of the time", "percentunit", [
            (f"{BY_STAGE} / ignoring (stage) group_left () {rate('mirl_stage_seconds_sum')}", "{{stage}}"),
        ]),
    ]),
    ("Gate", [
        ("Descriptions by fate", "short", [(rate("mirl_descriptions_total", "fate"), "{{fate}}")]),
        ("MI per token, median (nats)", "short", [
            (quantile(0.5, "mirl_description_information_nats_per_token", "fate"), "{{fate}}"),
        ]),
        ("MI of a description, median (nats)", "short", [
            (quantile(0.5, "mirl_description_information_nats", "fate"), "{{fate}}"),
        ]),
        ("Vote share", "percentunit", [
            (quantile(0.5, "mirl_vote_share_ratio"), "median"),
            (quantile(0.1, "mirl_vote_share_ratio"), "lowest tenth"),
        ]),
    ]),
    ("Tokens and chains", [
        ("Tokens by stage and kind", "short", [
            (rate("mirl_tokens_total", "stage, kind"), "{{stage}} {{kind}}"),
        ]),
        ("Sampled tokens a request", "short", [
            (f"{rate('mirl_tokens_total', more=SAMPLED)} / {rate('mirl_requests_total')}", "tokens"),
        ]),
        ("Chains", "short", [
            (rate("mirl_chains_started_total"), "started"),
            (rate("mirl_chains_finished_total", "finish_reason"), "finished: {{finish_reason}}"),
            (rate("mirl_chains_cancelled_total", "reason"), "cancelled: {{reason}}"),
        ]),
    ]),
    ("Saturation", [
        ("Fan-out", "short", [
            (gauge("mirl_sequences_in_flight"), "sampling"),
            (gauge("mirl_admitted_sequences"), "admitted"),
            (gauge("mirl_admission_limit_sequences"), "limit"),
        ]),
        ("Queue", "short", [
            (gauge("mirl_queue_requests"), "requests"),
            (gauge("mirl_queue_sequences"), "sequences"),
        ]),
        ("Wait for admission", "s", quantiles("mirl_queue_seconds")),
        ("Admitted tokens", "short", [
            (gauge("mirl_admitted_tokens"), "admitted"),
            (gauge("mirl_admission_limit_tokens"), "limit"),
        ]),
        ("Images, p95", "s", [(quantile(0.95, "mirl_image_seconds", "step"), "{{step}}")]),
        ("Images by URL", "reqps", [(rate("mirl_image_fetches_total", "outcome"), "{{outcome}}")]),
    ]),
    ("Errors", [
        ("Refused (4xx) by reason", "reqps", [(rate("mirl_refusals_total", "reason"), "{{reason}}")]),
        ("Failed (5xx) by reason", "reqps", [(rate("mirl_failures_total", "reason"), "{{reason}}")]),
        ("Engine state", "short", [(gauge("mirl_engine_state", "state"), "{{state}}")]),
        ("Versions", "short", [(gauge("mirl_build_info", "version", "count"), "{{version}}")]),
    ]),
    ("vLLM", [
        ("KV cache in use", "percentunit", [
            (gauge("vllm:kv_cache_usage_perc", "instance", "max"), "{{instance}}"),
        ]),
        ("Sequences", "short", [
            (gauge("vllm:num_requests_running"), "running"),
            (gauge("vllm:num_requests_waiting"), "waiting"),
        ]),
        ("Preemptions", "short", [(rate("vllm:num_preemptions_total"), "per second")]),
        ("Tokens", "short", [
            (rate("vllm:prompt_tokens_total"), "prompt"),
            (rate("vllm:generation_tokens_total"), "generated"),
        ]),
        ("Queue time of a sequence", "s", quantiles("vllm:request_queue_time_seconds")),
        ("Time to first token", "s", quantiles("vllm:time_to_first_token_seconds")),
        ("Cache hits", "percentunit", [
            (f"{rate('vllm:prefix_cache_hits_total')} / {rate('vllm:prefix_cache_queries_total')}", "prefix"),
            (f"{rate('vllm:mm_cache_hits_total')} / {rate('vllm:mm_cache_queries_total')}", "images"),
        ]),
    ]),
]  # fmt: skip
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        across = min(len(row), 4)
        for index, panel in enumerate(row):
            place = {
                "h": 8,
                "w": 24 // across,
                "x": index % across * (24 // across),
                "y": y + index // across * 8,
            }
            panels.append(series(len(panels) + 1, panel, place))
        y += -(-len(row) // across) * 8
    return {
        "title": "MIRL",
        "uid": "mirl",
        "tags": ["mirl", "vllm"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                variable("job", "label_values(mirl_build_info, job)"),
                variable("instance", 'label_values(mirl_build_info{job=~"$job"}, instance)'),
            ]
        },
        "panels": panels,
    }


def series(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    """One panel of lines."""
    title, unit, queries = panel
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for i, (expr, legend) in enumerate(queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def variable(name: str, query: str) -> dict[str, Any]:
    """A choice of several, all by default."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def rendered() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(rendered(), encoding="utf-8")
