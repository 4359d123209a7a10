"""Presets: named sets of a request's options. `docs/evidence.md` compares them.

A preset sets every option that decides how an answer is reached, so that it means the same on every model;
`paper` also sets the estimator and what chains see. Bounds (time, tokens, lengths) and `share_chains`, which
depends on how often a model's reasoning slips, stay the model's and the operator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["PRESETS", "PresetName"]

PresetName = Literal["paper", "gate", "waves", "steered", "triple", "fast"]

_GATE: Mapping[str, Any] = {
    "contrast": (),
    "prior_votes": (),
    "descriptions": 10,
    "keep": 6,
    "forks": 2,
    "adaptive_keep": None,
    "gate": "mi",
    "mi_weight": 1.0,
    "normalize": "token",
    "clip": None,
    "distinct": False,
    "aggregate": "auto",
    "early_stop": True,
    "plausibility": 0.1,
    "lookahead": 8,
    "certainty": 0.9,
    "waves": False,
    "wave": 2,
    "ahead": 0,
    "draft_tokens": 8,
}
_WEIGHED_BY_MI: Mapping[str, Any] = {"mi_weight": 0.5, "clip": 2.0}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Zhang et al. 2026: 10 descriptions, the 6 with the most MI, 2 chains each.
    "paper": {**_GATE, "estimator": "text", "fork_image": "keep"},
    # A careful gate: half the weight, fewer chains.
    "gate": {**_GATE, **_WEIGHED_BY_MI, "keep": 3},
    # Two chains of the best descriptions first, the others only where these two disagree.
    "waves": {
        **_GATE,
        **_WEIGHED_BY_MI,
        "mi_weight": 0.35,
        "descriptions": 12,
        "keep": 4,
        "waves": True,
        "certainty": 0.85,
    },
    # Prior votes: three decoded descriptions vote first, samples follow while the vote is open.
    "steered": {
        **_GATE,
        "contrast": (0.0, 0.5, 1.0),
        "prior_votes": (2, 2, 1),
        "descriptions": 8,
        "ahead": 2,
    },
    # Three decoded descriptions, whose chains weigh softmax(MI).
    "triple": {
        **_GATE,
        **_WEIGHED_BY_MI,
        "contrast": (0.0, 0.5, 1.0),
        "descriptions": 0,
        "aggregate": "mi_weighted",
        "normalize": "sum",
    },
    # One decoded description, one chain.
    "fast": {**_GATE, "contrast": (0.25,), "descriptions": 0},
}
