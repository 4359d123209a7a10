"""Draft and verify gives the decode token by token, whatever the drafts, tags and estimators."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mirl_core.algorithm.mi.estimators import make_estimator
from mirl_core.config import MIRLOptions, ModelSettings, Tags
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeEngine
from mirl_core.pipeline.events import Described, FellBack, Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation, Description
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION
from tests.unit.pipeline.steered.steered_cases import LONG_TAGS, TinyModel

# A decode that may draft so much looks at every switch: each look counts two drafts of at most 100 tokens.
LIMIT = 10_000
REFERENCES = (Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("RGB", (8, 8), (0, 99, 0)))


async def decoded(model: TinyModel, max_tokens: int = 200, **options: Any) -> tuple[Description, ...]:
    """Return the decoded descriptions."""
    settings_ = ModelSettings(instruction="", tags=model.tags)
    pipeline = Pipeline(model.engine, settings_, REFERENCES)
    chosen = MIRLOptions(**{"descriptions": 0, "description_tokens": 100, **options})
    events = [
        event
        async for event in pipeline.run(
            CONVERSATION, chosen, Sampling(max_tokens=max_tokens), CONTEXT, chains=False
        )
    ]
    last = events[-1]
    assert isinstance(last, Gated | FellBack)
    assert last.stages[0].generated_tokens == model.engine.sampled_tokens
    assert model.engine.running == 0
    described = [event for event in events if isinstance(event, Described)]
    assert sum(event.sampled_tokens for event in described) <= model.engine.sampled_tokens
    return tuple(sorted((event.description for event in described), key=lambda item: item.index))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=3, unique=True),
    st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    st.sampled_from([1, 2, 3, 8, 100]),
    st.sampled_from([Tags(), LONG_TAGS]),
    st.sampled_from(["text", "blank", "reference"]),
    st.sampled_from([0.3, 1.5]),
    st.sampled_from([1, 2, 5, 20]),
)
@example(0, [2.0], 0.02, 100, LONG_TAGS, "text", 0.3, 2)  # Eight switches, by drafts that end early.
async def test_draft_and_verify_is_the_decode_token_by_token(
    seed: int,
    weights: list[float],
    share: float,
    draft_tokens: int,
    tags: Tags,
    estimator: Any,
    sharpness: float,
    lookahead: int,
) -> None:
    model = TinyModel(seed, tags, sharpness)
    descriptions = await decoded(
        model,
        contrast=tuple(weights),
        plausibility=share,
        draft_tokens=draft_tokens,
        estimator=estimator,
        lookahead=lookahead,
        description_tokens=LIMIT,
        max_tokens=LIMIT,
    )
    rule = make_estimator(estimator, REFERENCES)
    for description, weight in zip(descriptions, weights, strict=True):
        assert description.token_ids == model.lock_step(weight, rule, share, LIMIT, lookahead)
        assert description.decoding is not None
        assert description.decoding.weight == weight
        greedy = not weight or share == 1.0
        assert not (greedy and description.decoding.switches)


@pytest.mark.parametrize(
    ("lookahead", "text", "switches"), [(1, "9 apples", 1), (2, "apples 9", 0), (8, "apples 9", 0)]
)
async def test_a_value_in_a_rarer_form_does_not_pay_in_the_end(
    lookahead: int, text: str, switches: int
) -> None:
    """Most descriptions read "apples 9", some "9 apples"; without the image any value is as likely."""

    def likeliest(conversation: Conversation, suffix: tuple[int, ...]) -> dict[int, float]:
        words = engine.decode(suffix).removeprefix("<description>").split()
        value = 1.0 if conversation.images else 0.1
        following = {
            (): {" apples": 0.8, " 9": 0.2 * value},
            ("apples",): {" 9": value},
            ("9",): {" apples": 1.0},
        }.get(tuple(words), {"</description>": 1.0})
        return {engine.encode(word)[0]: math.log(share) for word, share in following.items()}

    engine = FakeEngine(likeliest=likeliest)
    pipeline = Pipeline(engine, ModelSettings(instruction=""))
    options = MIRLOptions(contrast=(0.5,), descriptions=0, lookahead=lookahead)
    events = [e async for e in pipeline.run(CONVERSATION, options, Sampling(99), CONTEXT, chains=False)]
    last = events[-1]
    assert isinstance(last, Gated)
    (description,) = last.descriptions
    assert description.text == text
    assert description.decoding is not None
    assert len(description.decoding.switches) == switches
    if switches:
        (switch,) = description.decoding.switches
        assert (switch.position, switch.drafted, switch.chosen) == (0, " apples", " 9")
        # log 0.2 − log 0.8, and half of log 0.8 − log 0.02.
        assert switch.gain == pytest.approx(math.log(0.25) + 0.5 * math.log(40))
