"""Whose probabilities make the MI, on an engine whose every log-probability is scripted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext
from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.config import MIReward
from mirl_core.training.rl.rewards.mi_scorers import (
    SCORERS,
    FrozenScorer,
    PolicyScorer,
    count_references,
    reference_pictures,
)
from mirl_core.types import Conversation
from tests.unit.pipeline.pipeline_cases import CONVERSATION, IMAGE

CONTEXT = RequestContext("mi")
GREY = Image.new("RGB", (8, 8), (128, 128, 128))


def engine() -> FakeEngine:
    """-1 nat a token given the true image, -1.5 given another, -3 given none; each later token 0.1 less."""

    def score(conversation: Conversation, suffix: tuple[int, ...]) -> Sequence[float]:
        images = conversation.images
        start = -3.0 if not images else -1.0 if images[0] is IMAGE else -1.5
        return [start - place / 10 for place in range(len(suffix))]

    return FakeEngine(score=score)


async def scored(
    source: FakeEngine, scorer: FrozenScorer | PolicyScorer, texts: Sequence[str]
) -> list[tuple[tuple[float, ...], int]]:
    opening = source.encode("<description>")
    contents = [source.encode(text) for text in texts]
    logprobs = [(-0.25,) * len(content) for content in contents]
    results = await scorer.score(CONVERSATION, opening, contents, logprobs, CONTEXT)
    return [(result.token_mi, result.tokens) for result in results]


async def test_a_frozen_scorer_has_its_engine_score_both_terms() -> None:
    source = engine()
    (mi, tokens), (again, free) = await scored(
        source, FrozenScorer(source, MIReward()), ["a red cat", "a red cat"]
    )
    assert mi == again == pytest.approx((2.0, 2.0, 2.0))
    assert (tokens, free) == (2 * 4, 0), "opening and three words, twice; a repetition costs nothing"
    assert [len(call.suffixes) for call in source.of_kind("score")] == [1, 1]
    seen, blind = (call.conversation for call in source.of_kind("score"))
    assert seen.images == [IMAGE]
    assert not blind.images


async def test_the_policys_own_term_is_what_it_sampled() -> None:
    source = engine()
    ((mi, tokens),) = await scored(source, PolicyScorer(source, MIReward()), ["a red cat"])
    # The opening's token is scored first.
    assert mi == pytest.approx((2.85, 2.95, 3.05))
    assert tokens == 4
    assert [call.conversation.images for call in source.of_kind("score")] == [[]]


@pytest.mark.parametrize("kind", ["frozen", "policy"])
async def test_weight_and_clip(kind: str) -> None:
    source = engine()
    scorer = SCORERS[kind](source, MIReward(weight=0.5, clip=1.0))  # type: ignore[index]
    ((mi, _),) = await scored(source, scorer, ["cat"])
    # Frozen: -1.1 + 0.5 · 3.1; policy: -0.25 + 1.55, over the bound.
    assert mi == pytest.approx((0.45,) if kind == "frozen" else (1.0,))


async def test_no_weight_no_forward_pass() -> None:
    source = engine()
    ((mi, tokens),) = await scored(source, PolicyScorer(source, MIReward(weight=0.0)), ["cat"])
    assert (mi, tokens) == ((-0.25,), 0)
    assert not source.calls


async def test_blank_and_reference() -> None:
    source = engine()
    ((mi, _),) = await scored(source, FrozenScorer(source, MIReward(estimator="blank")), ["cat"])
    assert mi == pytest.approx((0.5,))
    scorer = FrozenScorer(source, MIReward(estimator="reference"), [GREY, GREY, GREY])
    ((mi, tokens),) = await scored(source, scorer, ["cat"])
    assert mi == pytest.approx((0.5,))
    assert tokens == 4 * 2


def test_references_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reference_images") as caught:
        FrozenScorer(engine(), MIReward(estimator="reference"))
    assert caught.value.param == "rewards.mi.estimator"
    assert reference_pictures(ModelSettings(), ("data.jsonl", "digits/iid")) == ()
    assert count_references(ModelSettings(), ("data.jsonl", "digits/iid")) == 0
    GREY.save(tmp_path / "grey.png")
    settings = ModelSettings(reference_images=(str(tmp_path / "grey.png"),))
    assert count_references(settings, ("digits/iid",)) == 1
    (only,) = reference_pictures(settings, ("digits/iid",))
    assert only.getpixel((0, 0)) == (128, 128, 128)
    with pytest.raises(ConfigError, match="absent"):
        reference_pictures(ModelSettings(reference_images=(str(tmp_path / "absent.png"),)))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="broken"):
        reference_pictures(ModelSettings(reference_images=(str(tmp_path / "broken.png"),)))


def test_worlds_lend_references() -> None:
    pictures = reference_pictures(ModelSettings(), ("digits/shifted",), 1)
    assert len(pictures) == count_references(ModelSettings(), ("digits/shifted",)) == 16
    assert len({picture.tobytes() for picture in pictures}) == 16
