"""Real Prometheus and Alertmanager on the files of deploy/, and a webhook that receives their alerts."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.tools import ROOT, tool
from tests.helpers.ports import listening_port
from tests.helpers.waiting import wait_until

PROMETHEUS = ROOT / "deploy" / "prometheus"
START_SECONDS = 120


@dataclass(frozen=True)
class Watch:
    """A Prometheus that scrapes one server, with an Alertmanager behind it."""

    url: str
    """Prometheus."""
    received: list[dict[str, Any]]
    """Alerts that the webhook received, in order."""

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now.

        Raises:
            AssertionError: Prometheus refuses the expression.
        """
        response = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=60)
        assert response.status_code == 200, f"{expression}: {response.text}"
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        return result

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the alert rules by name, with their health and state."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=60).json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def firing(self, name: str) -> bool:
        """Return whether the webhook has received an alert of this name."""
        return any(
            alert["labels"]["alertname"] == name and alert["status"] == "firing" for alert in self.received
        )


@contextlib.contextmanager
def watching(folder: Path, target: str) -> Iterator[Watch]:
    """Run both on the files of deploy/, which are changed in addresses and intervals only.

    Args:
        folder: where their configuration, data and logs are written.
        target: host and port of the server.
    """
    prometheus, alertmanager = tool("prometheus"), tool("prometheus-alertmanager")
    with contextlib.ExitStack() as stack:
        webhook, received = stack.enter_context(_webhook())
        config = yaml.safe_load((ROOT / "deploy/compose/alertmanager.yml").read_text())
        config["receivers"][0]["webhook_configs"] = [{"url": webhook}]
        config["route"]["group_wait"] = "1s"
        file = folder / "alertmanager.yml"
        file.write_text(yaml.safe_dump(config))
        alerts = stack.enter_context(
            _running(
                folder, alertmanager, f"--config.file={file}", "--web.listen-address=127.0.0.1:0",
                "--cluster.listen-address=", f"--storage.path={folder / 'alertmanager'}",
            )
        )  # fmt: skip
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
        config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alerts]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        address = stack.enter_context(
            _running(
                folder, prometheus, f"--config.file={file}", "--web.listen-address=127.0.0.1:0",
                f"--storage.tsdb.path={folder / 'prometheus'}",
            )
        )  # fmt: skip
        yield Watch(f"http://{address}", received)


@contextlib.contextmanager
def _running(folder: Path, program: str, *flags: str) -> Iterator[str]:
    log = folder / f"{Path(program).name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([program, *flags], stdout=out, stderr=subprocess.STDOUT)
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            port = listening_port(process.pid)
            if port is None:
                return False
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).status_code == 200
            return False

        wait_until(ready, START_SECONDS)
        yield f"127.0.0.1:{listening_port(process.pid)}"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def _webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Write nothing: the alerts are what is wanted."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()
