"""Replay of all methods on a data set's banked questions with the same draws, for
`questions/<data>.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.measures.outcomes import as_entry
from mirl_core.evaluation.methods import Method, Prepared, Replay, replay_draws, unlabelled

__all__ = ["replay"]


def replay(
    questions: Sequence[BankedQuestion],
    methods: Sequence[Method],
    count: int,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return one line a question: the outcomes of every method on its `count` draws.

    Methods that learn from a deployment's traffic are prepared on this data set first, without its labels.

    Raises:
        ConfigError: the bank lacks samples or scores that a method needs.
    """
    blind = [unlabelled(question) for question in questions]
    ready = [method.prepare(blind) if isinstance(method, Prepared) else method for method in methods]
    rows = []
    for question in questions:
        drawn = replay_draws(question, count, seed)
        plays = {method.name: _entry([method.play(question, draw) for draw in drawn]) for method in ready}
        rows.append(
            {
                "key": question.key,
                "content": question.content,
                "family": question.family,
                "truth": question.truth,
                "clusters": list(question.clusters),
                "methods": plays,
            }
        )
        tick()
    return rows


def _entry(plays: Sequence[Replay]) -> dict[str, Any]:
    """Return a method's entry in a question's line, with its ticks where it has a clock."""
    entry = as_entry(plays)
    if any(play.ticks is not None for play in plays):
        entry["ticks"] = [play.ticks for play in plays]
    return entry
