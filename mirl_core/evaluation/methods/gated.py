"""The gated methods: describe all N, score, gate, fork, with the product's gate, MI and vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from mirl_core.algorithm.budget import scored_tokens
from mirl_core.algorithm.confidence import calibration_for, reported
from mirl_core.algorithm.gates import GATES, in_waves, select
from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.algorithm.mi.pointwise import token_mi
from mirl_core.algorithm.mi.scoring import needs_marginals, resolve_weight
from mirl_core.config import Calibration, MIRLOptions
from mirl_core.engines.base import derive_seed
from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion
from mirl_core.evaluation.methods.base import Replay, ReplayDraw
from mirl_core.evaluation.methods.parsing import MethodSpec
from mirl_core.evaluation.methods.replay_chains import drawn, fallback, forked, refuse, run, run_in_waves
from mirl_core.types import Description

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "UNREPLAYABLE",
    "ByOptions",
    "Confidence",
    "Gated",
    "NoGate",
    "Oracle",
    "Random",
    "as_descriptions",
    "marginal_of",
    "mutual_information",
]

# Fixed when the bank was filled, or without meaning without a clock of seconds.
UNREPLAYABLE = ("description_tokens", "fork_image", "timeout", "max_total_tokens")


@dataclass(frozen=True, slots=True)
class ByOptions:
    """What methods have that play a request's options: the model's, or a preset's, with the changes that the
    name has in parentheses."""

    name: str
    options: MIRLOptions
    opening_tokens: int = 1
    """Length of the description's opening tag, which is scored with every description; tokens."""
    references: int = 0
    """Number of images in the mean of the `reference` estimator."""
    calibration: Calibration | None = None
    """Maps the vote share to the reported confidence; None: the share itself."""
    served: ClassVar[bool] = True
    """Whether the pipeline answers in the same way under these options."""

    @classmethod
    def of(cls, spec: MethodSpec, options: MIRLOptions) -> Self:
        """Return the method that `spec` names, under `options`."""
        return cls(
            spec.name,
            options,
            spec.opening_tokens,
            len(spec.settings.reference_images),
            calibration_for(spec.settings, options) if cls.served else None,
        )


class Gated(ByOptions):
    """Options under which descriptions are gated."""

    __slots__ = ()

    @classmethod
    def make(cls, spec: MethodSpec) -> Self:
        spec.plain()
        # Also where the model's own options decode instead.
        fixed = {"contrast": (), **cls.fixed()}
        return cls.of(spec, spec.request_options(fixed=fixed, refused=UNREPLAYABLE))

    @classmethod
    def fixed(cls) -> dict[str, object]:
        """Return the options that the method's name decides."""
        return {}

    def play(self, banked: BankedQuestion, draw: ReplayDraw) -> Replay:
        options = self.options
        descriptions = drawn(banked, draw, options.descriptions, self.name)
        if all(description.reason for description in descriptions):
            return fallback(banked, descriptions, options.aggregate)
        measured, scored = self.measure(banked, descriptions)
        selected = select(measured, options, derive_seed(draw.seed, "gate"))
        kept = {description.index: description.score for description in selected if description.kept}
        traces = forked(banked, draw, kept, options.forks, self.name)
        described = sum(description.tokens for description in descriptions)
        if options.waves:
            by_chain = {(trace.chain.description, trace.chain.fork): trace for trace in traces}
            waves = [
                [by_chain[chain] for chain in wave] for wave in in_waves(kept, options.forks, options.wave)
            ]
            played = run_in_waves(
                waves, options.aggregate, options.early_stop, options.certainty, described, scored
            )
        else:
            played = run(traces, options.aggregate, options.early_stop, described, scored)
        confidence = reported(played.confidence, selected, self.calibration).value
        return replace(played, confidence=confidence, descriptions=selected)

    def described(self, banked: BankedQuestion, draw: ReplayDraw) -> Sequence[Description]:
        """Return the descriptions of a replay, by which a vote's confidence is calibrated."""
        descriptions = drawn(banked, draw, self.options.descriptions, self.name)
        if all(description.reason for description in descriptions):
            return as_descriptions(descriptions)
        return self.measure(banked, descriptions)[0]

    def measure(
        self, banked: BankedQuestion, descriptions: Sequence[BankedDescription]
    ) -> tuple[list[Description], int]:
        """Return the descriptions in the gate's form, and the scored tokens.

        They have an MI only where the gate ranks by it; `mirl_core.pipeline` does the same on live samples.
        """
        ranks_by_mi = GATES[self.options.gate].needs_marginal
        mi = mutual_information(descriptions, self.options, self.name) if ranks_by_mi else None
        scored = self.scored_tokens(descriptions) if needs_marginals(self.options) else 0
        return as_descriptions(descriptions, mi), scored

    def scored_tokens(self, descriptions: Sequence[BankedDescription]) -> int:
        """Return the tokens of the distinct contents, each after the opening tag, once per reference
        image."""
        contents = {key for key in _content_keys(descriptions) if key is not None}
        passes = ESTIMATORS[self.options.estimator].passes(self.references)
        return scored_tokens(passes, self.opening_tokens, (length for _, length in contents))


class Confidence(Gated):
    """`confidence`: the model's options, ranked by log p(d | I, q)."""

    __slots__ = ()

    @classmethod
    def fixed(cls) -> dict[str, object]:
        return {"gate": "confidence"}


class Random(Gated):
    """`random`: the model's options, ranked at random."""

    __slots__ = ()

    @classmethod
    def fixed(cls) -> dict[str, object]:
        return {"gate": "random"}


class NoGate(Gated):
    """`none`: every usable description goes on."""

    __slots__ = ()

    @classmethod
    def fixed(cls) -> dict[str, object]:
        return {"gate": "none"}


class Oracle(Gated):
    """`oracle`: descriptions that are true of the picture first; the bound of every gate with this k and m.

    Like a gate of fixed k it fills up with wrong descriptions where there are too few right ones.
    """

    __slots__ = ()
    served = False

    @classmethod
    def fixed(cls) -> dict[str, object]:
        return {"gate": "mi", "normalize": "sum", "adaptive_keep": None}

    def measure(
        self, banked: BankedQuestion, descriptions: Sequence[BankedDescription]
    ) -> tuple[list[Description], int]:
        if any(description.right is None and not description.reason for description in descriptions):
            refuse(self.name, "this data can't tell a right description from a wrong one; leave it out")
        return as_descriptions(
            descriptions,
            [float(description.right or False) for description in descriptions if not description.reason],
        ), 0


def mutual_information(
    descriptions: Sequence[BankedDescription], options: MIRLOptions, method: str
) -> list[float]:
    """Return the MI of the usable descriptions; nats."""
    usable = [description for description in descriptions if not description.reason]
    # With λ = 0 the image-free term has no weight, and the bank may lack it.
    pairs: list[tuple[Sequence[float], Sequence[float]]] = [
        (
            description.logprobs,
            description.logprobs if options.mi_weight == 0 else marginal_of(description, options, method),
        )
        for description in usable
    ]
    return sums_of_token_mi(pairs, resolve_weight(options.mi_weight, pairs), options.clip)


def marginal_of(description: BankedDescription, options: MIRLOptions, method: str) -> tuple[float, ...]:
    """Return the image-free term under the options' estimator; nats per content token."""
    if options.estimator not in description.marginals:
        estimators = ", ".join(description.marginals) or "none"
        refuse(
            method,
            f"the bank holds no scores of the estimator {options.estimator!r} (it holds: {estimators}); bank "
            f"them with --estimators",
        )
    return description.marginals[options.estimator]


def _content_keys(descriptions: Sequence[BankedDescription]) -> list[tuple[str, int] | None]:
    """Return keys of the contents: text and tokens (the bank has no token ids); None where unusable."""
    return [
        None if description.reason else (description.text, description.content_tokens)
        for description in descriptions
    ]


def as_descriptions(
    descriptions: Sequence[BankedDescription], usable_mi: Sequence[float] | None = None
) -> list[Description]:
    """Convert to the product's descriptions, whose `index` is that in the draw.

    Token ids are made up: two descriptions have the same content iff their `_content_keys` agree.

    Args:
        usable_mi: MI of the usable descriptions, in their order; nats.
    """
    numbers: dict[tuple[str, int] | None, int] = {}
    mi = iter(usable_mi or ())
    return [
        Description(
            index=index,
            text=description.text,
            token_ids=(numbers.setdefault(key, len(numbers)),) * description.tokens,
            content_tokens=description.content_tokens,
            logprob=sum(description.logprobs),
            mi=None if description.reason else next(mi, None),
            reason=description.reason,
        )
        for index, (description, key) in enumerate(
            zip(descriptions, _content_keys(descriptions), strict=True)
        )
    ]


def sums_of_token_mi(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], weight: float, clip: float | None
) -> list[float]:
    """Return Σ_t token MI of each (logprobs, marginal), nats; in one call, since calls are expensive."""
    logprobs = np.concatenate([np.asarray(values) for values, _ in pairs])
    marginals = np.concatenate([np.asarray(values) for _, values in pairs])
    values = token_mi(logprobs, marginals, weight, clip).tolist()
    sums, start = [], 0
    for terms, _ in pairs:
        end = start + np.size(terms)
        sums.append(sum(values[start:end]))
        start = end
    return sums
