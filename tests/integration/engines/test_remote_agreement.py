"""The engine over HTTP against the engine in process, and its two modes against each other; float32."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from mirl_core.algorithm.answers.forms import json_schema
from mirl_core.bundled import DIGITS
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Engine, Sampling
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.errors import RequestError
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation
from tests.helpers.servers import RunningServer
from tests.integration.engines.remote_cases import apart, context, picture, question, sample

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

EXACT = 1e-3
"""Largest difference of a description's MI between two ways to the same float32 model, nats."""
TEXTS = (
    "<description>3 red, 1 blue</description>",
    "<description>one red 7 and two blue 4s</description>",
    "<description>nothing here, née: ½ → «quoted»\n\tand  two  spaces</description>",
    "<description>1234567890 red red red blue</description>",
)
LETTERS = ("3 red, 1 blue", "one red 7 and two blue 4s")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def chat(fleet: RunningServer) -> AsyncIterator[RemoteEngine]:
    engine = await RemoteEngine.start([fleet.url], mode="chat")
    yield engine
    await engine.close()


async def mutual_information(
    engine: Engine, conversation: Conversation, suffixes: Sequence[tuple[int, ...]]
) -> list[float]:
    """Return log p(d | images, q) − log p(d | q) of each description; nats."""
    sums = []
    for entry in (conversation, conversation.with_images(None)):
        scores = await engine.score(await engine.render(entry, context()), suffixes, context())
        sums.append([sum(score) for score in scores])
    return [with_image - without for with_image, without in zip(*sums, strict=True)]


async def test_the_same_tokens_have_the_same_mi(
    vllm_float32: VLLMEngine, remote: RemoteEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    off: list[float] = []
    suffixes = [remote.encode(text) for text in TEXTS]
    assert suffixes == [vllm_float32.encode(text) for text in TEXTS]
    for number in range(3):
        conversation = question(*(picture(60 + number + at) for at in range(1 + number % 2)))
        there = await mutual_information(remote, conversation, suffixes)
        here = await mutual_information(vllm_float32, conversation, suffixes)
        off += [abs(remote_mi - local_mi) for remote_mi, local_mi in zip(there, here, strict=True)]
    with capsys.disabled():
        print(f"\nMI over HTTP and in process: {max(off):.2g} nats apart at most")
    assert max(off) < EXACT


async def test_chat_mode_says_how_far_off_it_is(
    remote: RemoteEngine, chat: RemoteEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of fixed texts, of sampled tokens, and of texts that are spelled letter by letter, the worst case."""
    assert remote.token_exact
    assert not chat.token_exact
    assert chat.inexact_reason
    assert chat.deviation is not None
    conversation = question(picture(70))
    rendered = await remote.render(conversation, context())
    assert (await chat.render(conversation, context())).prompt_tokens == rendered.prompt_tokens
    opening = remote.encode("<description>")
    hot = Sampling(max_tokens=40, temperature=1.0, seed=3, stop=("</description>",))
    sampled = [opening + s.token_ids for s in await sample(remote, rendered, 24, hot, opening)]
    fixed = [remote.encode(text) for text in TEXTS]
    spelled = [(*opening, *(token for letter in text for token in remote.encode(letter))) for text in LETTERS]
    lines = []
    for kind, suffixes in (("fixed", fixed), ("sampled", sampled), ("letter by letter", spelled)):
        before = chat.deviation.suffixes, chat.deviation.exact
        there = await mutual_information(chat, conversation, suffixes)
        here = await mutual_information(remote, conversation, suffixes)
        off = [abs(chat_mi - remote_mi) for chat_mi, remote_mi in zip(there, here, strict=True)]
        scored = chat.deviation.suffixes - before[0]
        exact = chat.deviation.exact - before[1]
        lines.append(
            f"{kind}: {exact} of {scored} suffixes read as the same tokens; "
            f"MI off by {max(off):.2g} nats at most, {sum(off) / len(off):.2g} on average, of {len(off)}"
        )
        if exact == scored:
            assert max(off) < EXACT
        assert (exact > 0) == (kind != "letter by letter")
    with capsys.disabled():
        print("\nchat mode against token routes:", *lines, sep="\n  ")
    greedy = Sampling(max_tokens=12, temperature=0.0, alternatives=3)
    (by_tokens,) = await sample(remote, rendered, 1, greedy, opening)
    (by_chat,) = await sample(chat, await chat.render(conversation, context()), 1, greedy, opening)
    assert by_chat.token_ids == by_tokens.token_ids
    assert apart(by_chat.logprobs, by_tokens.logprobs) < EXACT
    assert apart(by_chat.confidence, by_tokens.confidence) < EXACT


@pytest.mark.parametrize("name", ["remote", "chat"])
async def test_answers_follow_a_structure(name: str, request: pytest.FixtureRequest) -> None:
    engine: RemoteEngine = request.getfixturevalue(name)
    colours = {"type": "string", "enum": ["red", "blue"]}
    schema = {"type": "object", "properties": {"colour": colours}, "required": ["colour"]}
    structure = json_schema(schema).alone()
    await engine.check_structure(structure)
    rendered = await engine.render(question(picture(80)), context())
    for ranked in (0, 3):
        sampling = Sampling(max_tokens=60, seed=1, structure=structure, alternatives=ranked)
        for s in await sample(engine, rendered, 3, sampling):
            assert s.finish_reason == "stop"
            assert json.loads(s.text)["colour"] in ("red", "blue")
    for wrong in ({"type": "object", "multipleOf": 2, "$ref": "other.json"}, {"type": "no such type"}):
        with pytest.raises(RequestError, match="schema"):
            await engine.check_structure(json_schema(wrong).alone())


@pytest.mark.parametrize("name", ["remote", "chat"])
@pytest.mark.parametrize("preset", ["gate", "steered"])
async def test_presets_run(name: str, preset: str, request: pytest.FixtureRequest) -> None:
    engine: RemoteEngine = request.getfixturevalue(name)
    settings = ModelSettings.load(DIGITS.path)
    assert settings is not None
    options = MIRLOptions.model_validate({"preset": preset})
    events = [
        event
        async for event in Pipeline(engine, settings).run(
            question(picture(90)), options, Sampling(max_tokens=200, seed=3), context()
        )
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].result.content
    assert any(d.mi is not None for d in events[-1].result.descriptions)


async def test_images_are_rendered_in_full_only_once(remote: RemoteEngine) -> None:
    """From the second prompt with images on, stand-ins are rendered; the prompts stay the same."""
    first, second = [await remote.render(question(picture(100 + number)), context()) for number in range(2)]
    await sample(remote, first, 1, Sampling(max_tokens=2))
    again = await remote.render(question(picture(100)), context())
    assert again.inputs.servers_with_images
    assert again.inputs.token_ids == first.inputs.token_ids
    assert again.inputs.image_ranges == first.inputs.image_ranges
    assert second.prompt_tokens == first.prompt_tokens
