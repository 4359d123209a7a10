"""The alert rules: valid, documented, about metrics that exist, and each tested by promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from mirl_server.observability.metrics import Metrics
from tests.deploy.tools import ROOT, output_of, tool

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
CASES = Path(__file__).with_name("rules_test.yml")


def alerts() -> list[dict[str, Any]]:
    """Return the alerts of all groups."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_each_alert_leads_to_its_section_of_the_runbook() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    names = [alert["alert"] for alert in alerts()]
    assert sorted(headings) == sorted(names)
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}
        assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_table_of_alerts_has_their_severity() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", (ROOT / "docs" / "operations.md").read_text(), re.M
    )
    assert dict(rows) == {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}


def test_alerts_are_about_metrics_that_a_server_exports() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    names = {name for family in registry.collect() for name in (family.name, f"{family.name}_total")}
    names |= {f"{name}_{part}" for name in names for part in ("bucket", "count")}
    for alert in alerts():
        metrics = set(re.findall(r"\bmirl_\w+", alert["expr"]))
        assert metrics or "up{" in alert["expr"], alert["alert"]
        assert metrics <= names, alert["alert"]


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    promtool = tool("promtool")
    assert f"{len(alerts())} rules found" in output_of(promtool, "check", "rules", RULES)
    assert "1 rule files found" in output_of(promtool, "check", "config", RULES.with_name("prometheus.yml"))


def test_amtool_takes_the_configuration() -> None:
    output = output_of(tool("amtool"), "check-config", ROOT / "deploy" / "compose" / "alertmanager.yml")
    assert "SUCCESS" in output


def test_each_alert_fires_for_the_series_that_deserve_it_and_for_no_others() -> None:
    assert "SUCCESS" in output_of(tool("promtool"), "test", "rules", CASES)


@pytest.mark.parametrize("expression", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_the_cases_notice_alerts_that_never_fire_or_always_do(expression: str, tmp_path: Path) -> None:
    content = yaml.safe_load(RULES.read_text())
    for group in content["groups"]:
        for rule in group["rules"]:
            rule["expr"] = expression
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(content))
    cases = yaml.safe_load(CASES.read_text()) | {"rule_files": ["rules.yml"]}
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", tmp_path / "cases.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert all(f"alertname: {alert['alert']}," in done.stdout + done.stderr for alert in alerts())
