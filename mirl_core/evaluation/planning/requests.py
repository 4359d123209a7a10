"""The expected engine calls of a request, by the method that answers it.

Prompts are prefilled once, by the request's first sequence. Every other sequence shares them in the prefix
cache, but for the tokens after the last full block: half a block on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mirl_core.algorithm.budget import fanout
from mirl_core.algorithm.costs import Work
from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.algorithm.mi.scoring import needs_marginals
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.common.scoring import LONG_PROMPT
from mirl_core.errors import ConfigError
from mirl_core.evaluation.methods import parse_methods
from mirl_core.evaluation.methods.gated import Gated, Oracle
from mirl_core.evaluation.methods.sampled import Direct, Greedy, SelfConsistency
from mirl_core.evaluation.methods.steered import Steered
from mirl_core.evaluation.planning.inputs import Expected, Workload

__all__ = ["BLOCK_TOKENS", "Course", "courses", "planned_methods"]

BLOCK_TOKENS = 16
"""Size of a block of vLLM's KV cache on GPUs; tokens."""
OPENING_TOKENS = 1
"""Tokens of the opening tag, which is scored with every description."""
MOST_ROUNDS = 256
"""Rounds of drafts that a plan follows one by one."""
Courses = tuple["Course", ...]


@dataclass(frozen=True, slots=True)
class Course:
    """A course that a request may take."""

    probability: float
    works: tuple[Work, ...]
    """Its engine calls, of which start and end give the order only."""


def planned_methods(
    names: str, settings: ModelSettings, workload: Workload, expected: Expected
) -> dict[str, Courses]:
    """Return the courses of each method in `names`, separated by commas, by the method's name.

    Raises:
        ConfigError: a name is unknown, or has no plan; `param` is `methods`.
    """
    planned = {}
    for method in parse_methods(names, settings):
        if isinstance(method, Direct | Greedy):
            planned[method.name] = _sampled(1, workload)
        elif isinstance(method, SelfConsistency) and not method.stop:
            planned[method.name] = _sampled(method.count, workload)
        elif isinstance(method, Gated | Steered) and not isinstance(method, Oracle):
            planned[method.name] = courses(method.options, workload, expected)
        else:
            raise ConfigError(
                f"methods: {method.name} has no plan; take greedy, direct, sc@K, mirl, presets or gates",
                param="methods",
            )
    return planned


def courses(options: MIRLOptions, workload: Workload, expected: Expected) -> Courses:
    """Return the courses of a request under `options`, whose probabilities add up to 1.

    Raises:
        ConfigError: the estimator takes reference images, whose number a plan doesn't know, or descriptions
            take too many rounds of drafts.
    """
    if ESTIMATORS[options.estimator].needs_references and (options.steered or needs_marginals(options)):
        raise ConfigError(
            f"methods: the estimator {options.estimator} has no plan; take text or blank", param="methods"
        )
    return (_steered if options.steered else _gated)(options, workload, expected)


def _sampled(count: int, workload: Workload) -> Courses:
    """Return the course of `count` whole trajectories."""
    tokens = workload.trajectory_tokens
    sample = Work(
        "sample",
        1,
        2,
        count,
        prefill=workload.prompt_tokens + (count - 1) * _tail(workload.prompt_tokens),
        steps=tokens,
        generated=count * tokens,
        images=workload.images,
    )
    return (Course(1.0, (_rendered(workload), sample)),)


def _gated(options: MIRLOptions, workload: Workload, expected: Expected) -> Courses:
    """Return the courses of a gated request: all chains at once, or in two waves."""
    works = [_rendered(workload), _described(options.descriptions, workload, 1, 2, first=True)]
    if needs_marginals(options):
        # At least the first is distinct from those before it.
        distinct = 1 + expected.distinct * (options.descriptions - 1)
        works.append(_scored(options, workload, 2, 3, distinct, workload.description_tokens))
    chains = fanout(options, max_tokens=1).chains
    kept = chains // options.forks
    first = min(options.wave, chains) if options.waves else chains
    # The first wave has a chain of each of as many descriptions as it can.
    works.append(_forked(options, workload, 3, first, min(first, kept), _until_decided(first, expected)))
    if first == chains:
        return (Course(1.0, tuple(works)),)
    rest = chains - first
    second = _forked(options, workload, 4, rest, min(rest, kept), rest * expected.second_wave_share)
    return (
        Course(1 - expected.second_wave, tuple(works)),
        Course(expected.second_wave, (*works, second)),
    )


def _steered(options: MIRLOptions, workload: Workload, expected: Expected) -> Courses:
    """Return the courses of a steered request: decoded descriptions, then waves of samples or none.

    A decode with λ > 0 drafts some tokens a round, and each draft is verified while the next one runs. A
    switch takes a further round. λ = 0 takes the drafts as they are.
    """
    verified = sum(weight > 0 for weight in options.contrast)
    decoded = len(options.contrast)
    drafts = max(1, math.ceil(workload.description_tokens / options.draft_tokens))
    rounds = drafts + (expected.switches if verified else 0.0)
    if rounds > MOST_ROUNDS:
        raise ConfigError(
            f"methods: {rounds:.0f} rounds of drafts are more than {MOST_ROUNDS}; raise draft_tokens",
            param="methods",
        )
    works = [_rendered(workload), *_decoded(options, workload, expected, drafts, verified)]
    ahead = min(options.ahead, options.descriptions)
    if ahead:
        works.append(_described(ahead, workload, 1, 1 + drafts, first=False))
    end = 1 + math.ceil(rounds) + bool(verified)
    first = _chains_of(options, decoded, ahead, expected)
    works.append(_forked(options, workload, end, first, min(first, decoded + ahead), first))
    waves = math.ceil((options.descriptions - ahead) / options.wave)
    planned: list[Course] = []
    share = min(1.0, expected.sample_waves / waves) if waves else 0.0
    # Each further wave starts with the same probability, so that there are `sample_waves` on average.
    going = _going(share * waves, waves)
    probability = 1.0
    for wave in range(waves + 1):
        stops = 1.0 if wave == waves else 1 - going
        planned.append(Course(probability * stops, tuple(works)))
        probability *= 1 - stops
        if wave < waves:
            size = min(options.wave, options.descriptions - ahead - wave * options.wave)
            start = end + 1 + 2 * wave
            works.append(_described(size, workload, start, start + 1, first=False))
            chains = _new_chains(options, size, expected)
            works.append(_forked(options, workload, start + 1, chains, min(size, chains), chains))
    return tuple(course for course in planned if course.probability > 0)


def _decoded(
    options: MIRLOptions, workload: Workload, expected: Expected, drafts: int, verified: int
) -> Iterator[Work]:
    """Yield the drafts of all decoded descriptions, and their verification."""
    decoded = len(options.contrast)
    tokens = workload.description_tokens
    rounds = math.ceil(drafts + (expected.switches if verified else 0.0))
    length = tokens / drafts
    extra = verified * (expected.switches * length + expected.waste * tokens) / rounds
    for number in range(rounds):
        sequences = decoded if number < drafts else verified
        generated = (decoded * length if number < drafts else 0.0) + extra
        prefill = sequences * _tail(workload.prompt_tokens)
        if not number:
            prefill += workload.prompt_tokens - _tail(workload.prompt_tokens)
        yield Work(
            "describe",
            1 + number,
            2 + number,
            sequences,
            prefill=prefill,
            steps=length,
            generated=generated,
            images=0 if number else workload.images,
        )
        if verified:
            written = min(tokens, (number + 1) * length)
            yield _scored(options, workload, 2 + number, 3 + number, verified, written, first=not number)


def _going(mean: float, most: int) -> float:
    """Return the probability of a further wave with which there are `mean` of at most `most` on average."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(middle**wave for wave in range(1, most + 1)) < mean:
            low = middle
        else:
            high = middle
    return high if mean else 0.0


def _chains_of(options: MIRLOptions, decoded: int, ahead: int, expected: Expected) -> float:
    """Return the expected chains of the decoded descriptions and of the samples ahead."""
    if not options.share_chains:
        return sum(options.votes) + ahead
    return 1 + expected.own_chains * (decoded + ahead - 1)


def _new_chains(options: MIRLOptions, samples: int, expected: Expected) -> float:
    """Return the expected chains of further samples."""
    return samples * expected.own_chains if options.share_chains else samples


def _rendered(workload: Workload) -> Work:
    return Work("render", 0, 1, images=workload.images)


def _described(count: float, workload: Workload, start: float, end: float, *, first: bool) -> Work:
    """Return the sampling of descriptions.

    Args:
        first: whether it prefills the prompt.
    """
    tokens, tail = workload.description_tokens, _tail(workload.prompt_tokens)
    prefill = count * tail + (workload.prompt_tokens - tail if first else 0)
    images = workload.images if first else 0
    return Work("describe", start, end, count, prefill, 0, tokens, count * tokens, images)


def _scored(
    options: MIRLOptions,
    workload: Workload,
    start: float,
    end: float,
    descriptions: float,
    tokens: float,
    *,
    first: bool = True,
) -> Work:
    """Return scoring passes over descriptions without the image.

    Args:
        tokens: of each description, those scored before included.
        first: whether it prefills the prompt.
    """
    keeps_images = ESTIMATORS[options.estimator].keeps_images
    prompt = workload.prompt_tokens if keeps_images else workload.text_tokens
    suffix = OPENING_TOKENS + tokens
    if prompt < LONG_PROMPT:
        scored = descriptions * (prompt + suffix)
    else:
        scored = (prompt if first else 0) + descriptions * (_tail(prompt) + suffix)
    images = workload.images if keeps_images and first else 0
    return Work("score", start, end, descriptions, scored=scored, images=images)


def _forked(
    options: MIRLOptions,
    workload: Workload,
    start: float,
    chains: float,
    descriptions: float,
    complete: float,
) -> Work:
    """Return chains that start from descriptions.

    Args:
        complete: chains whose tokens are sampled, the cut ones in part.
    """
    prefill = chains * _tail(workload.prompt_tokens + workload.description_tokens)
    if options.fork_image == "drop":
        prefill += workload.text_tokens + descriptions * workload.description_tokens
    return Work(
        "fork",
        start,
        start + 1,
        chains,
        prefill=prefill,
        steps=workload.chain_tokens,
        generated=complete * workload.chain_tokens,
    )


def _until_decided(chains: float, expected: Expected) -> float:
    """Return how many chains' tokens are sampled of `chains`: the winner's own in full."""
    return 1 + expected.chain_share * (chains - 1)


def _tail(tokens: float) -> float:
    """Return the expected tokens of a prompt after its last full block."""
    return min(tokens, (BLOCK_TOKENS + 1) / 2)
