"""Assignment of rows to optimiser steps and to their forward passes.

Light to import: no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from mirl_core.training.rl.planners.rows import TrainingRow


def split_updates(rows: Sequence[TrainingRow], updates: int) -> list[list[TrainingRow]]:
    """Split rows into `updates` parts of similar size, in order, each group whole; parts may be empty."""
    groups: dict[str, list[TrainingRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    parts: list[list[TrainingRow]] = [[] for _ in range(updates)]
    done = 0
    for group in groups.values():
        # A group goes to the part in which its middle falls.
        parts[(2 * done + len(group)) * updates // (2 * len(rows))] += group
        done += len(group)
    return parts


def split_passes(
    rows: Sequence[TrainingRow], passes: int, prompt_tokens: Callable[[TrainingRow], int], prompts_once: bool
) -> list[list[TrainingRow]]:
    """Split rows into `passes` parts of equal size, larger parts first; parts are empty if rows are too few.

    Sorting by length pads least; sorting by prompt first makes the fewest parts read a prompt. The order that
    makes the model read fewer tokens is used.

    Args:
        rows: of one optimiser step.
        passes: number of parts.
        prompt_tokens: length of a row's prompt, images included; tokens.
        prompts_once: whether rows of one prompt that are in one part share it.
    """
    order = {id(row.prompt): position for position, row in reversed(list(enumerate(rows)))}

    def length(row: TrainingRow) -> int:
        return len(row.completion_ids) + (0 if prompts_once else prompt_tokens(row))

    def cost(parts: Sequence[Sequence[TrainingRow]]) -> int:
        return sum(map(read, parts))

    def read(part: Sequence[TrainingRow]) -> int:
        if not part:
            return 0
        prompts = {id(row.prompt): prompt_tokens(row) for row in part} if prompts_once else {0: 0}
        return len(prompts) * max(prompts.values()) + len(part) * max(map(length, part))

    by_length = _cut(sorted(rows, key=length), passes)
    by_prompt = _cut(sorted(rows, key=lambda row: (order[id(row.prompt)], length(row))), passes)
    return min(by_length, by_prompt, key=cost)


def _cut(rows: Sequence[TrainingRow], parts: int) -> list[list[TrainingRow]]:
    size, remainder = divmod(len(rows), parts)
    ends = [part * size + min(part, remainder) for part in range(parts + 1)]
    return [list(rows[start:end]) for start, end in pairwise(ends)]
