"""Figures of the arms against the reference: pure functions from measurements to numbers and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mirl_core.tasks.questions import Question
from mirl_core.tasks.resampling import Resampling
from tests.benchmarks.light_kv.measure import Measured
from tests.benchmarks.tables import markdown

__all__ = ["compare", "same_choice", "shared_blocks", "table", "unshared_blocks"]

Runs = Mapping[str, Measured]


def compare(questions: Sequence[Question], runs: Runs, reference: Runs, keep: int) -> dict[str, Any]:
    """Return an arm's figures, and those against the reference on the same questions.

    Args:
        keep: how many descriptions the gate keeps (k).
    """
    chosen = [question for question in questions if question.key in runs]
    resampling = Resampling([question.clusters or (question.key,) for question in chosen])
    mine = [runs[question.key] for question in chosen]
    theirs = [reference[question.key] for question in chosen]
    right, against = [[float(run.right) for run in side] for side in (mine, theirs)]
    difference = resampling.difference(right, against)
    accuracy = resampling.proportion(right)
    gaps = [
        abs(a - b)
        for ours, full in zip(mine, theirs, strict=True)
        for a, b in zip(ours.mi, full.mi, strict=True)
    ]
    spread = [abs(a - b) for full in theirs for a in full.mi for b in full.mi if a != b]
    pairs = list(zip(mine, theirs, strict=True))
    return {
        "n": len(chosen),
        "accuracy": [accuracy.mean, accuracy.low, accuracy.high],
        "difference": [difference.mean, difference.low, difference.high],
        "same_answer": _share(resampling, [float(a.answer == b.answer) for a, b in pairs]),
        "mi_gap": fmean(gaps) if gaps else math.nan,
        "mi_spread": fmean(spread) if spread else math.nan,
        "same_best": _share(resampling, [same_choice(a.mi, b.mi, 1) for a, b in pairs]),
        "same_kept": _share(resampling, [same_choice(a.mi, b.mi, keep) for a, b in pairs]),
        "prompt_tokens": fmean(run.prompt_tokens for run in mine),
        "tokens": fmean(run.tokens for run in mine),
        "blocks": fmean(run.blocks for run in mine),
        "most_blocks": max(run.blocks for run in mine),
    }


def same_choice(mi: Sequence[float], full: Sequence[float], keep: int) -> float:
    """Return the share of the `keep` best descriptions that both rankings choose; 1 where there are none."""
    keep = min(keep, len(mi))
    if not keep:
        return 1.0
    best = [set(sorted(range(len(each)), key=lambda i: (-each[i], i))[:keep]) for each in (mi, full)]
    return len(best[0] & best[1]) / keep


def shared_blocks(prompt: int, branches: Sequence[int], block: int) -> int:
    """Return the KV blocks of sequences that share the full blocks of a prompt.

    vLLM computes the prompt's last token anew for each, so a block that it completes is not shared.

    Args:
        prompt: tokens.
        branches: tokens of each sequence after the prompt.
        block: size of a block; tokens.
    """
    full = (prompt - 1) // block
    return full + sum(math.ceil((prompt + branch) / block) - full for branch in branches)


def unshared_blocks(prompt: int, branches: Sequence[int], block: int) -> int:
    """Return the KV blocks of the same sequences, each with a prompt of its own."""
    return sum(math.ceil((prompt + branch) / block) for branch in branches)


def table(result: Mapping[str, Any]) -> str:
    """Return the arms of a result in Markdown."""
    head = [
        "arm", "n", "right, %", "minus full, points", "same answer, %", "MI, nats/token off",
        "between descriptions", "same best, %",
        "same kept, %", "prompt tokens", "KV bytes a token", "blocks at the peak", "KiB at the peak",
    ]  # fmt: skip
    body = []
    for name, arm in result["arms"].items():
        if "refused" in arm:
            body.append([name, f"refused: {arm['refused']}", *[""] * (len(head) - 2)])
            continue
        of = arm["figures"]
        kib = of["blocks"] * (result["block_tokens"] or 0) * arm["bytes_per_token"] / 1024
        body.append(
            [
                name,
                str(of["n"]),
                _percent(of["accuracy"]),
                "" if name == result["reference"] else _points(of["difference"]),
                "" if name == result["reference"] else _percent(of["same_answer"]),
                "" if name == result["reference"] else f"{of['mi_gap']:.4f}",
                f"{of['mi_spread']:.3f}",
                "" if name == result["reference"] else _percent(of["same_best"]),
                "" if name == result["reference"] else _percent(of["same_kept"]),
                f"{of['prompt_tokens']:.0f}",
                str(arm["bytes_per_token"]),
                f"{of['blocks']:.1f}" if kib else "",
                f"{kib:.0f}" if kib else "",
            ]
        )
    return markdown(head, body)


def _share(resampling: Resampling, values: Sequence[float]) -> list[float]:
    share = resampling.bounded(values, 0.0, 1.0)
    return [share.mean, share.low, share.high]


def _percent(value: Sequence[float]) -> str:
    mean, low, high = (100 * each for each in value)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _points(value: Sequence[float]) -> str:
    mean, low, high = (100 * each for each in value)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
