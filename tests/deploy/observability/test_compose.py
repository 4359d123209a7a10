"""The compose file and what it mounts agree with each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import ROOT

COMPOSE = ROOT / "deploy" / "compose"
SERVICES: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]


def mounted(service: str) -> dict[str, Path]:
    """Return the files that a service mounts, by their paths in the container."""
    parts = [volume.split(":") for volume in SERVICES[service].get("volumes", [])]
    return {part[1]: (COMPOSE / part[0]).resolve() for part in parts if part[0].startswith(".")}


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_rights_and_open_no_port_to_other_machines(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name: str) -> None:
    assert all(file.is_file() for file in mounted(name).values())


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"mirl"}))
def test_images_of_other_projects_have_a_version(name: str) -> None:
    assert re.fullmatch(r"\$\{\w+_IMAGE:-docker\.io/[\w/]+:v?\d+\.\d+\.\d+\}", SERVICES[name]["image"])


def test_the_image_of_the_server_is_built_from_this_repository() -> None:
    build = SERVICES["mirl"]["build"]
    assert (COMPOSE / build["context"] / build["dockerfile"]).is_file()


def test_prometheus_scrapes_the_server_and_knows_alertmanager() -> None:
    files = mounted("prometheus")
    config = yaml.safe_load(files["/etc/prometheus/prometheus.yml"].read_text())
    assert all(f"/etc/prometheus/{rules}" in files for rules in config["rule_files"])
    targets = [
        address
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for address in static["targets"]
    ]
    assert targets == ["mirl:8000"]
    assert config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    for target in (*targets, "alertmanager:9093"):
        service, port = target.split(":")
        assert SERVICES[service]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_grafana_has_its_data_source_and_dashboard() -> None:
    files = mounted("grafana")
    (source,) = yaml.safe_load(files["/etc/grafana/provisioning/datasources/mirl.yml"].read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(files["/etc/grafana/provisioning/dashboards/mirl.yml"].read_text())[
        "providers"
    ]
    dashboard = f"{provider['options']['path']}/mirl.json"
    assert files[dashboard] == ROOT / "deploy" / "grafana" / "mirl.json"
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
