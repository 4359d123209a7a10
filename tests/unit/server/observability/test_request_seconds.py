"""The seconds and tokens of a request in the metrics, from its arrival."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import Decided, Finished, Started
from mirl_server.observability.metrics import Metrics
from mirl_server.observability.request_metrics import RequestMetrics
from tests.unit.server.apis.result_cases import CHAIN, RESULT


def test_a_requests_seconds_are_measured_from_its_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mirl_server.observability.request_metrics.time.perf_counter", lambda: now[0])
    registry = CollectorRegistry()
    value = registry.get_sample_value
    tracker = RequestMetrics(Metrics(registry))
    tracker.event(ChoiceEvent(0, Started(11)))
    now[0] = 103.5
    tracker.event(ChoiceEvent(0, Decided(RESULT.vote, CHAIN, 1)))
    assert value("mirl_request_seconds_count") == 0
    now[0] = 107.25
    tracker.event(ChoiceEvent(0, Finished(RESULT), (RESULT,)))
    tracker.close()
    tracker.close()
    assert value("mirl_decision_seconds_sum") == 3.5
    assert value("mirl_request_seconds_sum") == 7.25
    assert value("mirl_requests_total", {"outcome": "answered"}) == 1
    assert value("mirl_requests_in_flight") == 0
    stages = {
        stage: value("mirl_stage_seconds_sum", {"stage": stage}) for stage in ("describe", "score", "fork")
    }
    assert stages == {"describe": 0.1, "score": 0.1, "fork": 0.0}
    assert value("mirl_tokens_total", {"stage": "render", "kind": "prompt"}) == 11
    assert value("mirl_tokens_total", {"stage": "score", "kind": "scored"}) == 4
