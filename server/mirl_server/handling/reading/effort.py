"""`reasoning_effort` as a budget: how many descriptions are sampled, kept and forked.

| effort | N, k and m are multiplied by | with the paper's 10, 6, 2 |
| --- | --- | --- |
| none | one of each | 1, 1, 1 |
| minimal | ¼, ¼, ½ | 3, 2, 1 |
| low | ½, ½, 1 | 5, 3, 2 |
| medium | 1, 1, 1 | 10, 6, 2 |
| high | 2, 2, 1 | 20, 12, 2 |
| xhigh | 2, 2, 2 | 20, 12, 4 |
| max | 4, 4, 2 | 40, 24, 4 |

From `low` on each step about doubles the chains. Where descriptions are decoded, N is the most that are
sampled after them, and `none` and `minimal` are the preset `fast`: one decoded description with one chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from mirl_core.config import Limits, MIRLOptions

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""The values that OpenAI's SDK and vLLM know."""

FACTORS: Mapping[Effort, tuple[float, float, float]] = {
    # effort: factors of N, k and m
    "none": (0, 0, 0),
    "minimal": (0.25, 0.25, 0.5),
    "low": (0.5, 0.5, 1),
    "medium": (1, 1, 1),
    "high": (2, 2, 1),
    "xhigh": (2, 2, 2),
    "max": (4, 4, 2),
}


def options_for(effort: Effort | None, defaults: MIRLOptions, limits: Limits) -> MIRLOptions:
    """Return the defaults with the budget of an effort: N, k and m rounded up, at least 1.

    An effort names no number, so one above the operator's limit is lowered to it rather than refused.
    """
    if effort is None or effort == "medium":
        return defaults
    descriptions, keep, forks = FACTORS[effort]
    if defaults.steered:
        if effort in ("none", "minimal"):
            return MIRLOptions.parse({"preset": "fast"}, defaults)
        most = max(limits.max_descriptions - len(defaults.contrast), 0)
        sampled = min(math.ceil(defaults.descriptions * descriptions), most)
        return defaults.model_copy(update={"descriptions": sampled})
    return defaults.model_copy(
        update={
            "descriptions": _scaled(defaults.descriptions, descriptions, limits.max_descriptions),
            "keep": _scaled(defaults.keep, keep, limits.max_keep),
            "forks": _scaled(defaults.forks, forks, limits.max_forks),
        }
    )


def _scaled(number: int, factor: float, limit: int) -> int:
    return min(max(math.ceil(number * factor), 1), limit)
