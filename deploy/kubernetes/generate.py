"""Write the plain manifests of this folder from the Helm chart: `make manifests`.

Runs in the environment of requirements/deploy.lock. `--check` writes nothing and fails where a file differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
HELM = HERE.parent / "helm"
NAMESPACE = "mirl"
KEYS_FIRST = "Before it: kubectl -n mirl create secret generic mirl-keys --from-file=keys.yaml"
MANIFESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu-demo.yaml": (
        "The bundled model on CPUs: to look at MIRL without a GPU and without a download.",
        {
            "engine": {
                "image": {"repository": "mirl-cpu"},
                "gpu": {"count": 0},
                "resources": {
                    "requests": {"cpu": "2", "memory": "4Gi"},
                    "limits": {"cpu": "4", "memory": "6Gi"},
                },
                "sharedMemory": "1Gi",
                "startupSeconds": 300,
            }
        },
    ),
    "engine.yaml": (
        f"One model on one GPU: mirl-serve with vLLM in the pod, open to holders of a key.\n{KEYS_FIRST}",
        {
            "model": {"name": "Qwen/Qwen2.5-VL-7B-Instruct", "servedName": "qwen2.5-vl-7b"},
            "cache": {"persistent": True},
            "keys": {"existingSecret": "mirl-keys"},
        },
    ),
    "fleet.yaml": (
        f"A gateway over two vLLM servers of one GPU each, open to holders of a key.\n{KEYS_FIRST}",
        {
            "mode": "fleet",
            "model": {"name": "Qwen/Qwen2.5-VL-7B-Instruct", "servedName": "qwen2.5-vl-7b"},
            "engine": {"replicas": 2},
            "cache": {"persistent": True},
            "keys": {"existingSecret": "mirl-keys"},
        },
    ),
    "gateway.yaml": (
        f"A gateway over vLLM servers that are there already: put their URL in --engine-url.\n{KEYS_FIRST}",
        {
            "mode": "gateway",
            "gateway": {"engineUrls": ["http://vllm.models.svc:8000"]},
            "keys": {"existingSecret": "mirl-keys"},
        },
    ),
}
OF_HELM = ("helm.sh/chart", "app.kubernetes.io/managed-by")
NAMESPACE_OBJECT = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}


class _Dumper(yaml.SafeDumper):
    """Writes lists indented and texts of several lines as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the chart's objects without the labels that belong to Helm.

    Raises:
        SystemExit: Helm refuses the values.
    """
    request = json.dumps({"name": "mirl", "namespace": NAMESPACE, "values": values})
    done = subprocess.run(  # noqa: S603
        [sys.executable, HELM / "render.py"], input=request, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    if "error" in answer:
        sys.exit(answer["error"])
    for item in answer["objects"]:
        for name in OF_HELM:
            item["metadata"].get("labels", {}).pop(name, None)
    return sorted(answer["objects"], key=lambda item: (item["kind"] != "ServiceAccount", item["kind"]))


def manifest(about: str, values: dict[str, Any]) -> str:
    """Return the text of one file."""
    lines = [
        *about.splitlines(),
        "Made from the Helm chart by `make manifests`: change deploy/helm/mirl, not this file.",
    ]
    head = "".join(f"# {line}\n" for line in lines)
    objects = [NAMESPACE_OBJECT, *render(values)]
    return head + yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=110, allow_unicode=True
    )


def main() -> int:
    """Write or compare the files; return the exit code."""
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, (about, values) in MANIFESTS.items():
        path = HERE / name
        text = manifest(about, values)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    surplus = {path.name for path in HERE.glob("*.yaml")} - set(MANIFESTS)
    if surplus:
        print(f"not made from the chart: {', '.join(sorted(surplus))}", file=sys.stderr)
    if check and stale:
        print(f"differ from the chart: {', '.join(stale)}; run `make manifests`", file=sys.stderr)
    return 1 if surplus or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
