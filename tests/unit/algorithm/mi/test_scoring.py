"""From scored tokens to MI: which tokens count, what is left out, and how engines are called for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mirl_core.algorithm.mi.estimators import ReferenceEstimator, TextEstimator
from mirl_core.algorithm.mi.scoring import image_free_logprobs, measure, needs_marginals, resolve_weight
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.engines.fake import FakeEngine
from mirl_core.types import Conversation, Description
from tests.unit.pipeline.pipeline_cases import CONVERSATION, IMAGE

# Two tokens of content and a closing tag each; the last is unusable.
THREE = [
    Description(0, "a b", (1, 2, 9), 2, -3.0),
    Description(2, "c", (3, 9), 1, -1.0),
    Description(5, "d", (4,), 1, -1.0, reason="truncated"),
]
LOGPROBS = {0: (-1.0, -2.0, -50.0), 2: (-1.0, -50.0), 5: (-7.0,)}
MARGINALS = {(1, 2): (-4.0, -2.5), (3,): (-1.5,)}


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, True),
        ({"mi_weight": "auto"}, True),
        ({"mi_weight": 0.5}, True),
        ({"mi_weight": 0}, False),
        ({"mi_weight": 0, "token_mi": True}, True),
        ({"gate": "confidence"}, False),
        ({"gate": "random"}, False),
        ({"gate": "none"}, False),
        ({"gate": "none", "token_mi": True}, True),
    ],
)
def test_when_the_image_free_terms_are_needed(options: dict[str, Any], needed: bool) -> None:
    assert needs_marginals(MIRLOptions(**options)) is needed


def test_the_weight_as_a_number() -> None:
    terms = [((-1.0, -2.0), (-4.0, -2.0)), ((-1.0,), (-2.0,))]
    assert resolve_weight(0.3, terms) == 0.3
    assert resolve_weight("auto", terms) == 1 - 4 / 8
    assert resolve_weight("auto", []) == 0.0


@pytest.mark.parametrize(
    ("options", "weight", "mi", "per_token"),
    [
        ({}, 1.0, [3.5, 0.5], None),
        ({"mi_weight": 2}, 2.0, [10.0, 2.0], None),
        ({"clip": 1.0}, 1.0, [1.5, 0.5], None),
        ({"token_mi": True}, 1.0, [3.5, 0.5], [(3.0, 0.5), (0.5,)]),
        ({"mi_weight": "auto", "token_mi": True}, 0.5, [0.25, -0.25], [(1.0, -0.75), (-0.25,)]),
    ],
)
def test_mi_of_the_usable_descriptions(
    options: dict[str, Any], weight: float, mi: list[float], per_token: list[Any] | None
) -> None:
    measured, used = measure(THREE, LOGPROBS, MARGINALS, MIRLOptions(**options))
    assert used == weight
    assert [description.index for description in measured] == [0, 2, 5]
    assert [description.mi for description in measured[:2]] == pytest.approx(mi)
    assert [description.marginal for description in measured[:2]] == [-6.5, -1.5]
    assert [description.token_mi for description in measured[:2]] == (per_token or [None, None])
    assert measured[2] == THREE[2]


def test_token_texts_are_beside_the_mi_of_tokens() -> None:
    def decode(ids: Sequence[int]) -> str:
        return "".join({1: "a", 2: " b", 3: "c"}[token] for token in ids)

    options = MIRLOptions(token_mi=True, mi_weight=0.5, clip=0.25)
    measured, _ = measure(THREE, LOGPROBS, MARGINALS, options, decode)
    assert [description.token_texts for description in measured] == [("a", " b"), ("c",), None]
    # Of any weight, and not clipped.
    assert [description.token_pmi for description in measured] == [(3.0, 0.5), (0.5,), None]
    assert measured[0].token_mi == (0.25, -0.25)
    plain, _ = measure(THREE, LOGPROBS, MARGINALS, MIRLOptions(), decode)
    assert [(description.token_texts, description.token_pmi) for description in plain] == [(None, None)] * 3


def test_without_marginals_there_is_mi_only_at_weight_zero() -> None:
    assert measure(THREE, LOGPROBS, {}, MIRLOptions()) == (tuple(THREE), None)
    measured, used = measure(THREE, LOGPROBS, {}, MIRLOptions(mi_weight=0, clip=1.5))
    assert used == 0
    assert [(description.mi, description.marginal) for description in measured] == [
        (-2.5, None),
        (-1.0, None),
        (None, None),
    ]
    scored, _ = measure(THREE, LOGPROBS, MARGINALS, MIRLOptions(mi_weight=0))
    assert [(description.mi, description.marginal) for description in scored[:2]] == [
        (-3.0, -6.5),
        (-1.0, -1.5),
    ]


async def scored(estimator: Any, engine: FakeEngine) -> list[tuple[float, ...]]:
    context = RequestContext("r1-score", cache_salt="s", priority=3)
    return await image_free_logprobs(engine, estimator, CONVERSATION, (8, 8), [(1, 2), (3,)], context)


async def test_descriptions_are_scored_behind_their_opening_tag_and_without_it() -> None:
    def score(conversation: Conversation, suffix: Sequence[int]) -> list[float]:
        assert conversation.images == []
        return [-100.0, -100.0, *(-float(token) for token in suffix[2:])]

    engine = FakeEngine(score=score)
    assert await scored(TextEstimator(), engine) == [(-1.0, -2.0), (-3.0,)]
    (call,) = engine.of_kind("score")
    assert call.suffixes == ((8, 8, 1, 2), (8, 8, 3))
    assert [call.request_id for call in engine.calls] == ["r1-score-0"] * 2


async def test_every_reference_is_scored_at_once_under_an_id_and_the_tag_says_nothing_of_it() -> None:
    together = asyncio.Barrier(3)
    contexts: list[RequestContext] = []

    class Engine(FakeEngine):
        async def score(self, rendered: Any, suffixes: Any, context: RequestContext) -> Any:
            contexts.append(context)
            await together.wait()
            return await super().score(rendered, suffixes, context)

    sizes = {(1, 1): -1.0, (2, 2): -2.0, (3, 3): -3.0}

    def score(conversation: Conversation, suffix: Sequence[int]) -> list[float]:
        (image,) = conversation.images
        return [-5.0 * -sizes[image.size], 0.0, *[sizes[image.size]] * (len(suffix) - 2)]

    references = tuple(IMAGE.resize(size) for size in sizes)
    marginals = await scored(ReferenceEstimator(references), Engine(score=score))
    expected = ReferenceEstimator().combine([[-1.0] * 2, [-2.0] * 2, [-3.0] * 2])
    assert marginals == [expected, expected[:1]]
    assert sorted(context.request_id for context in contexts) == ["r1-score-0", "r1-score-1", "r1-score-2"]
    assert {(context.cache_salt, context.priority) for context in contexts} == {("s", 3)}
