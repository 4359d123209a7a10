"""What methods need of a bank, and whether a run's bank holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import MIRLOptions
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.methods import Method
from mirl_core.evaluation.methods.deepconf import DeepConf
from mirl_core.evaluation.methods.gated import Oracle
from mirl_core.evaluation.methods.sampled import Adaptive, Direct, EarlyStopping, SelfConsistency
from mirl_core.evaluation.methods.steered import Steered, weights_text
from mirl_core.presets import PRESETS
from mirl_core.tasks.questions import DataSet

__all__ = ["check", "plan_for", "temperature_of"]

_DECODING = {
    "contrast_estimator": "estimator",
    "plausibility": "plausibility",
    "lookahead": "lookahead",
    "draft_tokens": "draft_tokens",
}
"""Fields of the plan that decide a decode, by the option of the request."""


def plan_for(
    methods: Sequence[Method],
    plan: BankPlan,
    banked: BankPlan | None,
    *,
    contrast: tuple[float, ...] | None = None,
    temperatures: tuple[float, ...] | None = None,
) -> BankPlan:
    """Return `plan` with the decoded descriptions and the further temperatures of a run.

    Likeliest tokens take vLLM as long as the sampling itself, so a bank has them only where a method votes by
    them.

    Args:
        methods: of the run.
        plan: has neither yet.
        banked: of the bank that the run continues; None: it begins a bank.
        contrast: λ of each decoded description; None: what the bank holds if that is enough for the methods,
            or else what the methods need.
        temperatures: None: as for `contrast`.

    Raises:
        ConfigError: the methods decode in different ways.
    """
    steered = [method for method in methods if isinstance(method, Steered)]
    warmer = {temperature for method in methods if (temperature := temperature_of(method)) is not None}
    decoding = _decoding(steered)
    if not decoding and banked is not None:
        decoding = {name: getattr(banked, name) for name in _DECODING}
    changes = {
        "contrast": _wanted(
            {weight for method in steered for weight in method.options.contrast},
            banked.contrast if banked else (),
            contrast,
        ),
        "temperatures": _wanted(warmer, banked.temperatures if banked else (), temperatures),
        **decoding,
    }
    if banked is not None:
        changes["alternatives"] = banked.alternatives
    elif not any(isinstance(method, DeepConf) for method in methods):
        changes["alternatives"] = 0
    return BankPlan.model_validate(plan.model_dump() | changes)


def temperature_of(method: Method) -> float | None:
    """Return the further temperature that a method's samples have; None: the plan's own."""
    if isinstance(method, Direct | SelfConsistency):
        return method.temperature
    return method.options.temperature if isinstance(method, Adaptive | EarlyStopping) else None


def check(methods: Sequence[Method], plan: BankPlan, data: Sequence[DataSet]) -> None:
    """Check before hours go into filling a bank that it will serve the methods.

    Raises:
        ConfigError: a method needs more samples, other decodes, or judges of descriptions.
    """
    for method in methods:
        if isinstance(method, Oracle):
            _check_judges(method, data)
        if isinstance(method, DeepConf) and not plan.alternatives:
            raise ConfigError(
                f"methods: {method.name} needs a bank that was begun with it; use another output folder",
                param="methods",
            )
        options = getattr(method, "options", None)
        descriptions, forks = getattr(method, "count", None), None
        if isinstance(options, MIRLOptions):
            descriptions, forks = options.descriptions, options.forks
            _check_image(method, options, plan)
        if isinstance(method, Steered):
            forks = 1 if method.options.share_chains else max(method.options.votes)
            _check_decodes(method, plan)
        if isinstance(forks, int) and forks > plan.forks:
            raise ConfigError(
                f"methods: {method.name} needs --forks {forks}, not {plan.forks}", param="forks"
            )
        if isinstance(descriptions, int) and descriptions > plan.descriptions:
            raise ConfigError(
                f"methods: {method.name} needs --descriptions {descriptions}, not {plan.descriptions}",
                param="descriptions",
            )
        temperature = temperature_of(method)
        if temperature is not None and temperature not in plan.temperatures:
            every = weights_text({*plan.temperatures, temperature})
            raise ConfigError(f"methods: {method.name} needs --temperatures {every}", param="temperatures")
    estimator = plan.contrast_estimator
    if estimator and not ESTIMATORS[estimator].passes(plan.references):
        raise ConfigError(
            f"estimators: descriptions are decoded under the estimator {estimator}, whose pictures the bank "
            f"needs: add it to --estimators",
            param="estimators",
        )


def _wanted(
    needed: set[float], banked: tuple[float, ...], chosen: tuple[float, ...] | None
) -> tuple[float, ...]:
    if chosen is not None:
        return chosen
    return banked if needed <= set(banked) else tuple(needed)


def _decoding(steered: Sequence[Steered]) -> dict[str, Any]:
    """Return the plan's fields by which the methods decode; empty where all that they decode is greedy."""
    by_contrast = [method for method in steered if any(method.options.contrast)]
    for method in by_contrast[1:]:
        first = by_contrast[0]
        for option in _DECODING.values():
            ours, others = getattr(method.options, option), getattr(first.options, option)
            if ours != others:
                raise ConfigError(
                    f"methods: {method.name} decodes with {option} {ours}, and {first.name} with {others}; "
                    "run them into different output folders",
                    param="methods",
                )
    if not by_contrast:
        return {}
    return {name: getattr(by_contrast[0].options, option) for name, option in _DECODING.items()}


def _check_decodes(method: Steered, plan: BankPlan) -> None:
    weights = method.options.contrast
    if not set(weights) <= set(plan.contrast):
        every = weights_text({*plan.contrast, *weights})
        raise ConfigError(
            f"methods: {method.name} needs a bank that was filled with --contrast {every}", param="contrast"
        )
    for name, option in _DECODING.items():
        ours, banked = getattr(method.options, option), getattr(plan, name)
        if any(weights) and ours != banked:
            raise ConfigError(
                f"methods: {method.name} decodes with {option} {ours}, and the bank with {banked}; run it "
                "into another output folder",
                param="methods",
            )


def _check_image(method: Method, options: MIRLOptions, plan: BankPlan) -> None:
    """Check that chains see what the preset says, where it says anything."""
    decides = options.preset is not None and "fork_image" in PRESETS[options.preset]
    if decides and options.fork_image != plan.fork_image:
        raise ConfigError(
            f"methods: {method.name} needs --fork-image {options.fork_image}, not {plan.fork_image}",
            param="fork_image",
        )


def _check_judges(method: Method, data: Sequence[DataSet]) -> None:
    for questions in data:
        if any(question.describes is None for question in questions.questions):
            raise ConfigError(
                f"methods: {questions.name} can't tell a right description from a wrong one; leave out "
                f"{method.name}",
                param="methods",
            )
