"""Which rows go into which optimiser step and which forward pass of it.

Light to import: no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from mirl_core.training.rl.planners.rows import TrainingRow


def split_updates(rows: Sequence[TrainingRow], updates: int) -> list[list[TrainingRow]]:
    """Rows in so many parts of similar size, in order, each group whole; parts may be empty."""
    groups: dict[str, list[TrainingRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    parts: list[list[TrainingRow]] = [[] for _ in range(updates)]
    done = 0
    for group in groups.values():
        # A group goes where its middle falls.
        parts[(2 * done + len(group)) * updates // (2 * len(rows))] += group
        done += len(group)
    return parts


def split_passes(
    rows: Sequence[TrainingRow], passes: int, prompt_tokens: Callable[[TrainingRow], int], prompts_once: bool
) -> list[list[TrainingRow]]:
    """Rows in so many parts of equal size, the larger first; there are empty ones if rows are too few.

    Sorted by length, least is padded. Sorted by prompt first, fewest parts read a prompt. Whichever makes the
    model read less is taken.

    Args:
        rows: of one optimiser step.
        passes: how many parts.
        prompt_tokens: length of a row's prompt, images included; tokens.
        prompts_once: whether rows of one prompt that are in one part share it.
    """
    order = {id(row.prompt): place for place, row in reversed(list(enumerate(rows)))}

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
    small, more = divmod(len(rows), parts)
    ends = [part * small + min(part, more) for part in range(parts + 1)]
    return [list(rows[start:end]) for start, end in pairwise(ends)]
