"""Logs, spans, metrics and the configuration file of the real server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.helpers.image_requests import image_question, small_fan_out
from tests.helpers.servers import MIRL_SERVE, NAME, running
from tests.helpers.waiting import wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(BaseHTTPRequestHandler):
    """Takes spans by OTLP over HTTP."""

    spans: list[Any]

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    spans: list[Any] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Collector,), {"spans": spans}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_one_file_for_vllm_and_mirl_and_a_dry_run_of_it(tmp_path: Path) -> None:
    """No engine is started."""
    path = tmp_path / "serve.yaml"
    path.write_text("max-model-len: 512\nport: 9001\napi-key: [sk-secret]\nmirl:\n  limits: {max_keep: 2}\n")
    flags = ["--config", str(path), "--port", "9002", "--mirl-limit", "max_forks=2", "--dry-run"]
    done = subprocess.run([*MIRL_SERVE, *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    assert (printed["max-model-len"], printed["port"], printed["host"]) == (512, 9002, "127.0.0.1")
    assert "sk-secret" not in done.stdout + done.stderr
    assert (printed["mirl"]["limits"]["max_keep"], printed["mirl"]["limits"]["max_forks"]) == (2, 2)


def all_arrived(spans: list[Any]) -> bool:
    """Return whether the request's span is there, and the engine's below those that always have some."""
    parents = {span.parent_span_id for span in spans if span.name == "llm_request"}
    above = {span.span_id for span in spans if span.name in ("describe sequence", "score")}
    return any(span.name == f"chat {NAME}" for span in spans) and above <= parents


@pytest.mark.usefixtures("real_vllm")
@pytest.mark.full
def test_json_lines_spans_and_metrics_of_a_real_server(tmp_path: Path) -> None:
    with collector() as (endpoint, spans):
        flags = ["--log-format", "json", "--otlp-traces-endpoint", endpoint]
        environment = {
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "VLLM_LOGGING_LEVEL": "INFO",
        }
        with running(tmp_path, flags, environment=environment) as server:
            answer = server.client().chat.completions.with_raw_response.create(
                model=NAME,
                messages=image_question(),
                max_tokens=60,
                extra_body=small_fan_out(),
                extra_headers={"x-request-id": "mine-1", "traceparent": PARENT},
            )
            assert answer.headers["x-request-id"] == "mine-1"
            shown = httpx.get(f"{server.url}/metrics", timeout=30).text
            assert 'mirl_engine_state{state="ready"} 1.0' in shown
            assert "mirl_build_info{" in shown
            wait_until(lambda: all_arrived(spans), 20)
        by_id = {span.span_id: span for span in spans}
        (root,) = [span for span in spans if span.name == f"chat {NAME}"]
        assert root.trace_id.hex() == PARENT.split("-")[1]
        mine = [span for span in spans if span.trace_id == root.trace_id]
        sequences = [span for span in mine if span.name.endswith(" sequence")]
        engine = [span for span in mine if span.name == "llm_request"]
        assert len(sequences) >= 3
        parents = [by_id[span.parent_span_id].name for span in engine]
        assert parents.count("describe sequence") == sum(
            sequence.name == "describe sequence" for sequence in sequences
        )
        assert (
            {"describe sequence", "score", "fork sequence"} >= set(parents) >= {"describe sequence", "score"}
        )
        # torch and transformers write to stderr what they like; the server's own lines have no other form.
        lines = server.log.read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        assert [
            line for line in lines if line.startswith(("INFO", "WARNING", "ERROR", "(API", "(Engine"))
        ] == []
        request = next(
            record
            for record in records
            if record["event"] == "request" and record.get("request_id") == "mine-1"
        )
        assert request["outcome"] == "answered"
        assert request["trace_id"] == PARENT.split("-")[1]
        assert not any(record.get("path") in ("/ready", "/metrics") for record in records)
        assert any(record["logger"].startswith("vllm.v1.engine.core") for record in records), (
            "the engine's process too"
        )
