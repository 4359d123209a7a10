"""Lint and render the chart with Helm as a library (requirements/deploy.lock, `make manifests` installs it).

Reads JSON lines from standard input, `{"name", "namespace", "values"}`, and writes one JSON line for each:
`{"objects": [...], "notes": "...", "lint": [...]}`, or `{"error": "..."}` where Helm refuses the values. The
chart is the one in this folder, or the folder or archive named by the first argument.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).parent / "mirl"
WARNING = 2


def render(chart: helm.Chart, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return the objects of one release, its notes, and lint's messages from a warning upwards."""
    values = request.get("values") or {}
    name = request.get("name", "mirl")
    namespace = request.get("namespace", "default")
    try:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace=namespace)
    except helm.HelmError as error:
        return {"error": str(error)}
    objects = []
    for path, text in sorted(files.items()):
        if path.endswith((".yaml", ".yml")):
            objects += [document for document in yaml.safe_load_all(text) if document]
    notes = next((text for path, text in files.items() if path.endswith("NOTES.txt")), "")
    report = helm.lint(folder, values, strict=True, namespace=namespace)
    messages = [message["error"] for message in report["messages"] if message["severity"] >= WARNING]
    return {"objects": objects, "notes": notes, "lint": [*messages, *report["errors"]]}


def main() -> None:
    """Answer the requests on standard input."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else CHART
    chart = helm.Chart.load(folder)
    for line in sys.stdin:
        print(json.dumps(render(chart, folder, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
