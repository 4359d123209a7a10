"""The same conversations on tiny checkpoints of the models that people serve: vLLM against transformers.

What is checked of each is in `tests/helpers/architectures/matrix.py`, which runs in a process of its own.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.architectures.conversations import CONVERSATIONS
from tests.helpers.architectures.overlay import PACKAGES, run_matrix
from tests.helpers.architectures.weights import ARCHITECTURES, MISTRAL_FORMAT

pytestmark = [
    pytest.mark.usefixtures("real_vllm"),
    pytest.mark.skipif(
        not (PACKAGES / "torchvision").is_dir(),
        reason="requirements/vision.lock is not there; `make test` puts it",
    ),
]

SMALL = ("qwen2_5_vl", "qwen3_vl", "gemma3", "llava", "smolvlm")
OTHERS = tuple(name for name in (*ARCHITECTURES, MISTRAL_FORMAT) if name not in SMALL)
MOST = 2e-3
"""Largest deviation of MI from transformers' own; nats per token, in float32."""
ONE_PICTURE = ("question", "system", "tools")
"""Conversations with a single picture."""
TOO_MANY = "At most 1 image"
"""In the error of further pictures where a model takes one."""


def compared(name: str, conversation: str) -> str | None:
    """Return the deviation that must be small: of MI or of its image-free term; see docs/models.md.

    Returns:
        None where transformers has no such format, or vLLM for CPUs computes another function for the whole
        prompt.
    """
    if name in ("paligemma", "qwen3_5", MISTRAL_FORMAT):
        return None
    if name == "gemma3" or (name == "llava_onevision" and conversation not in ONE_PICTURE):
        return "image_free_deviation"
    return "deviation"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the report of the architectures that are served most."""
    return run_matrix(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the report of all other architectures."""
    return run_matrix(tmp_path_factory.mktemp("others"), OTHERS)


def faults(name: str, report: dict[str, Any]) -> list[str]:
    """Return what is wrong with an architecture, by its report."""
    conversations = list(ONE_PICTURE if name == "paligemma" else CONVERSATIONS)
    wrong = [
        f"{check}: {entry['error']}"
        for check, entry in report.items()
        if isinstance(entry, dict)
        and "error" in entry
        and not (name == "paligemma" and TOO_MANY in entry["error"])
    ]
    if wrong:
        return wrong
    for conversation in conversations:
        if not report[f"gate: {conversation}"]["tokens"] or not report[f"same prompt: {conversation}"]:
            wrong.append(f"{conversation}: nothing was sampled or rendered")
        term = compared(name, conversation)
        if term is not None:
            mi = report[f"MI: {conversation}"]
            # Random weights may give values of thousands of nats, of which float32 keeps seven digits.
            if not mi[term] < MOST * max(1.0, mi["largest_mi"] / 100):
                wrong.append(f"{conversation}: {term} {mi[term]:.2g} nats")
            # The image matters, or the agreement would show nothing.
            if not mi["largest_mi"] > 100 * mi[term]:
                wrong.append(f"{conversation}: MI is at most {mi['largest_mi']:.2g} nats")
    if not report["fork"]["deviation"] < MOST:
        wrong.append(f"a fork differs by {report['fork']['deviation']:.2g} nats")
    return wrong


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SMALL)
def test_the_small_matrix(small: dict[str, Any], name: str) -> None:
    assert faults(name, small[name]) == []


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_architectures(others: dict[str, Any], name: str) -> None:
    assert faults(name, others[name]) == []
