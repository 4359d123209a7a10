"""The ways of answering that are compared, with the options of a `mirl.json` that serve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.presets import PRESETS, PresetName

__all__ = [
    "DESCRIPTIONS",
    "FORKS",
    "GREEDY",
    "ORACLE",
    "SAMPLE",
    "VOTES",
    "Candidate",
    "candidates",
    "estimators_of",
    "methods_text",
]

DESCRIPTIONS = 16
"""Descriptions banked per question: as many as the most expensive candidates need."""
FORKS = 2
"""Chains banked per description: a repeat shows whether chains slip, and the presets need no more."""
GREEDY, VOTES, SAMPLE, ORACLE = "greedy", "sc@16", "direct", "oracle-answer@16"
_STEERED = "steered(share_chains={})"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way of answering."""

    name: str
    """Short name, for tables."""
    method: str
    """Name as `mirl-eval run --methods` takes it: the key of the outcomes."""
    meaning: str
    """What it does, in a few words."""
    options: Mapping[str, Any] | None
    """Options of a `mirl.json` under which a server answers so; None: no server does."""
    gated: bool = False
    """Whether it ranks sampled descriptions by MI."""


def candidates(model: ModelSettings, share_chains: bool) -> tuple[Candidate, ...]:
    """Return the candidates of a model.

    Args:
        share_chains: as `mirl_core.config.MIRLOptions.share_chains`; whether equal descriptions share a chain
            in `steered`.
    """
    gated = [_gated("gate"), _gated("waves")]
    # The preset decides what chains see, and a bank's chains all see the same.
    if PRESETS["paper"]["fork_image"] == model.options.fork_image:
        gated.append(_gated("paper"))
    steered = _STEERED.format(str(share_chains).lower())
    return (
        # One description decoded with λ = 0, and its greedy chain: greedy decoding.
        Candidate(GREEDY, GREEDY, "one greedy trajectory", {"preset": "fast", "contrast": [0.0]}),
        Candidate("fast", "fast", "one description decoded with λ = 0.25", {"preset": "fast"}),
        Candidate("steered", steered, "three decoded, then samples", {"preset": "steered"}),
        *(_votes(count) for count in (4, 8, 16)),
        Candidate("adaptive@16", "adaptive@16", "samples until the vote is safe", None),
        *gated,
    )


def methods_text(model: ModelSettings, share_chains: bool | None = None) -> str:
    """Return the methods to replay, as `mirl-eval run --methods` takes them.

    Args:
        share_chains: as for `candidates`; None: both, before the bank shows which.
    """
    shares = (True, False) if share_chains is None else (share_chains,)
    methods = [candidate.method for share in shares for candidate in candidates(model, share)]
    return ",".join(dict.fromkeys([*methods, SAMPLE, ORACLE]))


def estimators_of(model: ModelSettings) -> tuple[str, ...]:
    """Return the estimators under which the candidates rank and decode: the model's, and the paper's."""
    return tuple(dict.fromkeys([model.options.estimator, PRESETS["paper"]["estimator"]]))


def _gated(name: PresetName) -> Candidate:
    preset = PRESETS[name]
    meaning = f"{preset['descriptions']} descriptions, {preset['keep']} go on"
    return Candidate(name, name, meaning + ", in waves" * preset["waves"], {"preset": name}, True)


def _votes(count: int) -> Candidate:
    options = {"gate": "none", "descriptions": count, "forks": 1}
    return Candidate(f"sc@{count}", f"sc@{count}", f"{count} trajectories and a vote", options)
