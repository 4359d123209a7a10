"""Methods: ways to answer a question, replayed on the trajectory bank; imports the bank's records, the
algorithm and the pipeline's ballot. One small class each.

    direct, greedy            one trajectory, sampled or at temperature 0
    sc@K, sc@K+stop           K trajectories and a vote, without and with the product's stopping rule
    mirl                      the model's own options
    paper, gate, steered, triple, fast   the same under a preset (`mirl_core.presets`)
    confidence, random, none  the model's own options with another gate
    auto-RULE                 the gate `mi`, λ chosen by a rule: information, conflict, stable, average,
                              agreement (per request), traffic, prior (per deployment); `mirl(mi_weight=auto)`
                              is the product's auto-information
    deepconf@K, deepconf-low@K, adaptive@K, esc@K   published rivals
    oracle, oracle-answer@K   bounds: of every gate, of every vote

Options follow in parentheses, separated by semicolons: `mirl(mi_weight=0.5;keep=3)`, `deepconf@16(keep=0.1)`,
`steered(contrast=0,0.5;prior_votes=2,2)`; `mirl`, the presets and the gates take the options of
`mirl_core.config.MIRLOptions`. `direct`, `sc`, `adaptive` and `esc` take the temperature of their samples:
`sc@16(temperature=0.5)`.
"""

from __future__ import annotations

from typing import Protocol

from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.evaluation.methods.automatic import Agreement, Automatic, FromTraffic
from mirl_core.evaluation.methods.base import Method, Prepared, Replay, ReplayDraw, replay_draws, unlabelled
from mirl_core.evaluation.methods.deepconf import DeepConf, DeepConfLow
from mirl_core.evaluation.methods.gated import Confidence, NoGate, Oracle, Random
from mirl_core.evaluation.methods.parsing import MethodSpec, read, split
from mirl_core.evaluation.methods.sampled import (
    Adaptive,
    Direct,
    EarlyStopping,
    Greedy,
    OracleAnswer,
    SelfConsistency,
)
from mirl_core.evaluation.methods.steered import Served
from mirl_core.presets import PRESETS

__all__ = [
    "METHODS",
    "Method",
    "Prepared",
    "Replay",
    "ReplayDraw",
    "parse_methods",
    "replay_draws",
    "unlabelled",
]


class MethodFactory(Protocol):
    """A method's class."""

    def make(self, spec: MethodSpec) -> Method:
        """Make the method that `spec` names.

        Raises:
            ConfigError: the name has a part that the method doesn't take.
        """
        ...


METHODS: dict[str, MethodFactory] = {
    "direct": Direct,
    "greedy": Greedy,
    "sc": SelfConsistency,
    "mirl": Served,
    **dict.fromkeys(PRESETS, Served),
    "confidence": Confidence,
    "random": Random,
    "none": NoGate,
    "auto-information": Automatic,
    "auto-conflict": Automatic,
    "auto-stable": Automatic,
    "auto-average": Automatic,
    "auto-agreement": Agreement,
    "auto-traffic": FromTraffic,
    "auto-prior": FromTraffic,
    "deepconf": DeepConf,
    "deepconf-low": DeepConfLow,
    "adaptive": Adaptive,
    "esc": EarlyStopping,
    "oracle": Oracle,
    "oracle-answer": OracleAnswer,
}


def parse_methods(text: str, settings: ModelSettings, opening_tokens: int = 1) -> tuple[Method, ...]:
    """Return the methods named in `text`, separated by commas, in their order.

    Args:
        settings: of the model; methods that a server answers by start from its options.
        opening_tokens: length of the opening tag that is scored with every description; tokens.

    Raises:
        ConfigError: a name is unknown, repeated or has options that don't fit; `param` is `methods`.
    """
    methods: dict[str, Method] = {}
    for name in split(text):
        spec = read(name, settings, opening_tokens)
        if spec.base not in METHODS:
            raise ConfigError(
                f"methods: there is no {spec.base!r}; there are {', '.join(METHODS)}", param="methods"
            )
        if name in methods:
            raise ConfigError(f"methods: {name} comes twice; name it once", param="methods")
        methods[name] = METHODS[spec.base].make(spec)
    if not methods:
        raise ConfigError("methods: name at least one, such as direct,sc@16,mirl", param="methods")
    return tuple(methods.values())
