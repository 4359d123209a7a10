"""Draft and verify gives the decode token by token, whatever the drafts, tags and estimators."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirl_core.algorithm.mi.estimators import make_estimator
from mirl_core.config import MIRLOptions, ModelSettings, Tags
from mirl_core.engines.base import Sampling
from mirl_core.pipeline.events import Described, FellBack, Gated
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Description
from tests.unit.pipeline.pipeline_cases import CONTEXT, CONVERSATION
from tests.unit.pipeline.steered.steered_cases import LONG_TAGS, TinyModel

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
        # Long enough that no decode comes to the end of what it may draft.
        description_tokens=400,
        max_tokens=800,
    )
    rule = make_estimator(estimator, REFERENCES)
    for description, weight in zip(descriptions, weights, strict=True):
        assert description.token_ids == model.lock_step(weight, rule, share, 400, lookahead)
        assert description.decoding is not None
        assert description.decoding.weight == weight
        greedy = not weight or share == 1.0
        assert not (greedy and description.decoding.switches)
