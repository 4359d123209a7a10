"""POST /v1/mirl/score over the fake engine: exact MI, and every refusal."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from PIL import Image

from mirl_core.engines.fake import FakeEngine
from mirl_core.errors import EngineError
from mirl_core.types import Conversation
from tests.unit.server.harness import Harness, make_harness, question

BODY: dict[str, Any] = {"model": "m", "messages": [question()], "descriptions": ["a red seven", "an eight"]}


def scorer(conversation: Conversation, ids: tuple[int, ...]) -> list[float]:
    """-1 nat a token with the image, -3 without; the opening tag far off."""
    return [-50.0, *[-1.0 if conversation.images else -3.0] * (len(ids) - 1)]


async def ask(harness: Harness, **fields: Any) -> httpx.Response:
    async with harness.client() as client:
        body = {name: value for name, value in (BODY | fields).items() if value is not ...}
        return await client.post("/v1/mirl/score", json=body)


async def test_mi_of_the_requests_descriptions() -> None:
    harness = make_harness(FakeEngine(score=scorer))
    answer = (await ask(harness, mirl={"token_mi": True})).json()
    assert answer["object"] == "mirl.score"
    first, second = answer["data"]
    assert (first["text"], first["tokens"], first["mi"], first["mi_per_token"]) == (
        "a red seven",
        3,
        6.0,
        2.0,
    )
    assert (first["logprob"], first["marginal"], first["token_mi"]) == (-3.0, -9.0, [2.0, 2.0, 2.0])
    assert first["token_texts"] == ["a", " red", " seven"]
    assert (second["tokens"], second["mi"]) == (2, 4.0)
    # Each with its opening tag, with the image and without.
    assert answer["usage"]["scored_tokens"] == 2 * (4 + 3)
    assert harness.engine.running == 0


async def test_every_reference_is_a_pass() -> None:
    running = []

    def counting(conversation: Conversation, ids: tuple[int, ...]) -> list[float]:
        running.append(harness.service.admission.running("gated"))
        return scorer(conversation, ids)

    harness = make_harness(FakeEngine(score=counting))
    assert harness.service.pipeline is not None
    harness.service.pipeline.references = [Image.new("RGB", (size, size)) for size in (2, 3, 4)]
    answer = (await ask(harness, mirl={"estimator": "reference"})).json()
    assert answer["usage"]["scored_tokens"] == (1 + 3) * (4 + 3)
    assert running == [(1 + 3) * 2] * 8


async def test_weight_and_clip_apply() -> None:
    harness = make_harness(FakeEngine(score=scorer))
    assert (await ask(harness, mirl={"mi_weight": 0})).json()["data"][0]["mi"] == -3.0
    plain = (await ask(harness, mirl={"clip": 0.5})).json()["data"][0]
    assert plain["mi"] == 1.5
    assert not {"token_mi", "token_pmi", "token_texts"} & plain.keys()
    weighed = (await ask(harness, mirl={"clip": 0.5, "mi_weight": 0, "token_mi": True})).json()["data"][0]
    assert (weighed["token_mi"], weighed["token_pmi"]) == ([-0.5] * 3, [2.0] * 3)


async def test_auto_weighs_by_the_descriptions_of_the_call() -> None:
    harness = make_harness(FakeEngine(score=scorer))
    answer = (await ask(harness, mirl={"mi_weight": "auto"})).json()
    assert answer["mi_weight"] == pytest.approx(1 - 1 / 3)
    assert [description["mi_per_token"] for description in answer["data"]] == pytest.approx(
        [-1 + 2 / 3 * 3] * 2
    )
    assert (await ask(harness)).json()["mi_weight"] == 1.0


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"descriptions": ...}, 400, "descriptions"),
        ({"descriptions": []}, 400, "descriptions"),
        ({"descriptions": "a"}, 400, "descriptions"),
        ({"descriptions": [" "]}, 400, "descriptions[0]"),
        ({"descriptions": ["a"] * 33}, 400, "descriptions"),
        ({"descriptions": ["a " * 70_000]}, 413, "descriptions"),
        ({"model": "unknown"}, 404, "model"),
        ({"model": "m:direct"}, 404, "model"),
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "messages"),
        ({"mirl": {"kep": 1}}, 400, "mirl.kep"),
        ({"mirl": {"mi_weight": "automatic"}}, 400, "mirl.mi_weight"),
        ({"mirl": {"estimator": "reference"}}, 400, None),
        ({"temperature": 1}, 400, "temperature"),
        ({"priority": 1}, 400, "priority"),
    ],
)
async def test_refusals(fields: dict[str, Any], status: int, param: str | None) -> None:
    harness = make_harness(FakeEngine(score=scorer))
    response = await ask(harness, **fields)
    assert response.status_code == status
    if param is not None:
        assert response.json()["error"]["param"] == param
    assert harness.engine.of_kind("score") == []


async def test_a_failing_engine_is_a_500() -> None:
    harness = make_harness(FakeEngine(fail_at={"score": EngineError("choked")}))
    assert (await ask(harness)).status_code == 500
    assert (await ask(make_harness(with_engine=False))).status_code == 503
