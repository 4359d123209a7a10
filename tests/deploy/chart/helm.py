"""Helm as a library, in the environment of requirements/deploy.lock, which `make test-full` makes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "mirl"
NAMESPACE = "mirl-prod"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
WORKLOADS = ("Deployment", "StatefulSet", "Job")

Object = dict[str, Any]


def program(environment: str, name: str = "python") -> Path:
    """Return a program of an environment beside this one; skip the test where the environment is not made."""
    for base in (Path(sys.prefix), ROOT / ".venv"):
        path = base / environment / "bin" / name
        if (base / environment / ".done").exists() and path.exists():
            return path
    pytest.skip(f"requirements/{environment}.lock is not installed; `make test-full` does it")


def example(name: str) -> dict[str, Any]:
    """Return the values of one of the chart's examples."""
    values: dict[str, Any] = yaml.safe_load(EXAMPLES[name].read_text())
    return values


@dataclass(frozen=True, slots=True)
class Helm:
    """A process that renders the chart."""

    process: subprocess.Popen[str]

    def answer(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what Helm answers to values: objects, notes and lint, or an error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"name": "mirl", "namespace": NAMESPACE, "values": values}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the renderer ended with {self.process.wait(10)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def objects(self, values: Mapping[str, Any]) -> list[Object]:
        """Return the objects that the chart renders to.

        Raises:
            AssertionError: Helm refuses the values.
        """
        answer = self.answer(values)
        assert "error" not in answer, answer["error"]
        objects: list[Object] = answer["objects"]
        return objects

    def error(self, values: Mapping[str, Any]) -> str:
        """Return the error by which Helm refuses the values.

        Raises:
            AssertionError: Helm takes them.
        """
        answer = self.answer(values)
        assert "error" in answer, f"Helm takes {values}"
        return str(answer["error"])


@contextmanager
def start() -> Iterator[Helm]:
    """Start a process that renders the chart, and end it."""
    command = [program("deploy"), ROOT / "deploy" / "helm" / "render.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Helm(process)
        assert process.stdin is not None
        process.stdin.close()


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def pods(objects: list[Object]) -> list[Object]:
    """Return the pod specs of all workloads."""
    return [item["spec"]["template"]["spec"] for item in of_kind(objects, *WORKLOADS)]


def changed(values: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of values with another value at a dotted path."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    place = copy
    *parents, last = path.split(".")
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return copy
