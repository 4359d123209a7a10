"""The engine over HTTP on a real `mirl-serve`: what the protocol promises, held against transformers."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from mirl_core.bundled import DIGITS
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.tokens import score as _remote_score
from mirl_core.errors import ConfigError, EngineDeadError, EngineError, RequestError
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.training.rl.weight_sync.shared_folder import RemoteReloadSync
from mirl_core.types import Conversation
from tests.helpers.servers import RunningServer
from tests.integration.engines.likeliest_cases import check_likeliest
from tests.integration.engines.remote_cases import Perturbed, apart, context, picture, question, sample

# What this goes on from repeats itself until the context is full: half a minute for 16 branches.
ENDLESS = Sampling(max_tokens=1500, temperature=0.2, frequency_penalty=-2.0)


async def settles(fleet: RunningServer, *, quiet: bool) -> None:
    """Wait until vLLM's own gauges say that nothing runs, or that something does."""
    async with asyncio.timeout(5):
        while bool(await asyncio.to_thread(fleet.sequences)) is quiet:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.02)


async def test_samples_and_forks_are_the_models_own(remote: RemoteEngine, hf: HFEngine) -> None:
    """Raw log-probabilities, with one picture and with two, of descriptions and of what follows them."""
    hot = Sampling(max_tokens=24, temperature=1.5, top_p=0.9, repetition_penalty=1.2, seed=1)
    for conversation in (question(picture(0)), question(picture(1), picture(2)), question()):
        there, here = await remote.render(conversation, context()), await hf.render(conversation, context())
        assert there.prompt_tokens == here.prompt_tokens
        opening = remote.encode("<description>")
        assert opening == hf.encode("<description>")
        descriptions = await sample(remote, there, 4, hot, opening)
        suffix = opening + descriptions[0].token_ids
        forks = await sample(remote, there, 2, hot, suffix)
        for start, samples in ((opening, descriptions), (suffix, forks)):
            suffixes = [start + s.token_ids for s in samples]
            for s, score, ours in zip(
                samples,
                await hf.score(here, suffixes, context()),
                await remote.score(there, suffixes, context()),
                strict=True,
            ):
                assert apart(ours, score) < 1e-3
                assert apart(s.logprobs, score[len(start) :]) < 1e-3
    assert len({s.token_ids for s in descriptions}) > 1, "every branch has its own seed"


async def test_samples_are_whole(remote: RemoteEngine) -> None:
    rendered = await remote.render(question(picture(0)), context())
    (greedy,) = await sample(remote, rendered, 1, Sampling(max_tokens=20, temperature=0))
    assert (greedy.finish_reason, len(greedy.token_ids)) == ("length", 20)
    assert greedy.text == remote.decode(greedy.token_ids)
    stop = remote.decode(greedy.token_ids[3:5])
    (stopped,) = await sample(remote, rendered, 1, Sampling(max_tokens=20, temperature=0, stop=(stop,)))
    assert stopped.text.endswith(stop)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == greedy.token_ids[: len(stopped.token_ids)]
    text = "<description>3 red</description><think>3</think><answer>3</answer>"
    assert remote.decode(remote.encode(text)) == text


async def test_alternatives_change_nothing_but_the_confidence(remote: RemoteEngine, hf: HFEngine) -> None:
    conversation = question(picture(0))
    rendered = await remote.render(conversation, context())
    opening = remote.encode("<description>")
    sampling = Sampling(max_tokens=60, seed=5, stop=("</description>",))
    plain = await sample(remote, rendered, 4, sampling, opening)
    sure = await sample(remote, rendered, 4, replace(sampling, alternatives=5), opening)
    assert [replace(s, confidence=()) for s in sure] == plain
    greedy = Sampling(max_tokens=8, temperature=0, alternatives=5)
    (there,) = await sample(remote, rendered, 1, greedy)
    (here,) = await sample(hf, await hf.render(conversation, context()), 1, greedy)
    assert there.token_ids == here.token_ids
    assert apart(there.confidence, here.confidence) < 1e-3
    with pytest.raises(RequestError, match="21"):
        await sample(remote, rendered, 1, replace(greedy, alternatives=20))


async def test_seeds_repeat(remote: RemoteEngine) -> None:
    rendered = await remote.render(question(picture(1)), context())
    first, again, other = [
        await sample(remote, rendered, 1, Sampling(max_tokens=16, seed=seed)) for seed in (5, 5, 6)
    ]
    assert first[0].token_ids == again[0].token_ids != other[0].token_ids


async def test_placeholders_are_never_sampled(remote: RemoteEngine, hf: HFEngine) -> None:
    rendered = await remote.render(question(picture(3)), context())
    samples = await sample(remote, rendered, 60, Sampling(max_tokens=100, temperature=2.0, seed=1))
    assert sum(len(s.token_ids) for s in samples) > 1000
    image_token = remote.encode("<image>")
    assert len(image_token) == 1
    assert all(image_token[0] not in s.token_ids for s in samples)


async def test_score_of_a_long_prompt_goes_through_the_cache(
    remote: RemoteEngine, hf: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values; also for suffixes that share their beginning, or were sampled before."""
    conversation = question(picture(2), text="Count. " * 100)
    rendered = await remote.render(conversation, context())
    assert rendered.prompt_tokens >= _remote_score.LONG_PROMPT
    assert rendered.inputs.server.counts_cached
    beginning = remote.encode("one two three four five six seven eight nine " * 8)
    suffixes = [beginning[:40], (*beginning, 20), (*beginning, 21, 22), (30, 31), (), (32,)]
    suffixes += [s.token_ids for s in await sample(remote, rendered, 2, Sampling(max_tokens=80, seed=1))]
    cached = await remote.score(rendered, suffixes, context())
    true = await hf.score(await hf.render(conversation, context()), suffixes, context())
    monkeypatch.setattr(_remote_score, "LONG_PROMPT", 10**9)
    plain = await remote.score(rendered, suffixes, context())
    for from_cache, uncached, expected in zip(cached, plain, true, strict=True):
        if from_cache:
            assert max(apart(from_cache, expected), apart(uncached, expected)) < 1e-3


@pytest.mark.parametrize("text", ["How many red digits are there?", "Count. " * 100])
async def test_the_likeliest_tokens_are_the_models_own(remote: RemoteEngine, hf: HFEngine, text: str) -> None:
    """Of a prompt that is scored without the cache, and of one that is scored through it."""
    await check_likeliest(remote, hf, question(picture(2), text=text))
    await check_likeliest(remote, hf, question(text=text))


async def encoded(fleet: RunningServer) -> int:
    async with httpx.AsyncClient(base_url=fleet.url) as client:
        answer = await client.post("/collective_rpc", json={"method": "encoded_images"})
    return int(answer.json()["results"][0])


async def test_images_are_encoded_once_and_forks_outlive_every_cache(
    remote: RemoteEngine, fleet: RunningServer
) -> None:
    before = await encoded(fleet)
    sampling = Sampling(max_tokens=12, temperature=0)
    rendered = await remote.render(question(picture(5)), context())
    first = await sample(remote, rendered, 4, sampling)
    for suffix in [s.token_ids for s in first]:
        await sample(remote, rendered, 2, sampling, suffix)
    assert await encoded(fleet) - before == 1
    async with httpx.AsyncClient(base_url=fleet.url) as client:
        for cache in ("mm", "encoder", "prefix"):
            (await client.post(f"/reset_{cache}_cache")).raise_for_status()
    again = await sample(remote, rendered, 3, sampling)
    assert [s.token_ids for s in again] == [first[0].token_ids] * 3


async def test_abort_yields_what_was_sampled(remote: RemoteEngine, fleet: RunningServer) -> None:
    rendered = await remote.render(question(picture(6)), context())
    stream = remote.generate(rendered, remote.encode("red " * 60), 16, ENDLESS, context("to-abort"))
    first = asyncio.ensure_future(anext(stream))
    await settles(fleet, quiet=False)
    await remote.abort("to-abort")
    async with asyncio.timeout(5):
        samples = [await first, *[s async for s in stream]]
    assert sorted(s.index for s in samples) == list(range(16))
    assert {s.finish_reason for s in samples} == {"abort"}
    assert any(s.token_ids for s in samples)
    assert all(len(s.logprobs) == len(s.token_ids) for s in samples)
    await settles(fleet, quiet=True)
    await remote.abort("never-heard-of")


async def test_abort_before_the_first_token(remote: RemoteEngine, fleet: RunningServer) -> None:
    rendered = await remote.render(question(picture(6)), context())
    stream = remote.generate(rendered, remote.encode("red " * 60), 4, ENDLESS, context("at-once"))
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await remote.abort("at-once")
    samples = [await first, *[s async for s in stream]]
    assert [s.finish_reason for s in samples] == ["abort"] * 4
    await settles(fleet, quiet=True)


@pytest.mark.parametrize("how", ["aclose", "cancel"])
async def test_closing_stops_the_server(remote: RemoteEngine, fleet: RunningServer, how: str) -> None:
    rendered = await remote.render(question(picture(7)), context())
    # Some of 32 end by themselves; as many requests as are left go on.
    suffix = () if how == "aclose" else remote.encode("red " * 60)
    sampling = replace(ENDLESS, temperature=1.0) if how == "aclose" else ENDLESS
    stream = remote.generate(rendered, suffix, 32, sampling, context())
    reader = asyncio.ensure_future(anext(stream))
    if how == "aclose":
        await reader
        await stream.aclose()
    else:
        await settles(fleet, quiet=False)
        assert reader.cancel()
        await asyncio.wait([reader])
    await settles(fleet, quiet=True)


async def test_what_is_refused(remote: RemoteEngine) -> None:
    with pytest.raises(RequestError) as caught:
        await remote.render(question(picture(8), text="red " * 5000), context())
    assert caught.value.param == "messages"
    for message in (
        {"role": "user", "content": [{"type": "hologram", "hologram": "x"}]},
        {"content": "nobody says this"},
    ):
        with pytest.raises(RequestError) as caught:
            await remote.render(Conversation((message,)), context())
        assert caught.value.param == "messages"
    rendered = await remote.render(question(picture(0)), context())
    with pytest.raises(RequestError, match="top_p"):
        await sample(remote, rendered, 1, Sampling(max_tokens=4, top_p=7.0))
    with pytest.raises(RequestError, match="vocabulary"):
        await sample(remote, rendered, 1, Sampling(max_tokens=4), (10**9,))
    room = remote.max_model_len - rendered.prompt_tokens
    (full,) = await sample(remote, rendered, 1, Sampling(max_tokens=8), (10,) * room)
    assert (full.token_ids, full.finish_reason) == ((), "length")
    with pytest.raises(RequestError):
        await remote.score(rendered, [(10,) * room], context())
    stream = remote.generate(rendered, (), 2, Sampling(max_tokens=40), context("twice"))
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(EngineError, match="already"):
        await anext(remote.generate(rendered, (), 1, Sampling(max_tokens=40), context("twice")))
    await reader
    await stream.aclose()


async def test_tenants_and_templates(remote: RemoteEngine, hf: HFEngine) -> None:
    """What vLLM's HTTP routes are pickier about than its engine."""
    tenant = context(cache_salt="sha256/of@a\\key" * 20, trace_headers=(("traceparent", "00-1-2-01"),))
    rendered = await remote.render(question(picture(9)), tenant)
    assert [s async for s in remote.generate(rendered, (), 2, Sampling(max_tokens=2), tenant)]
    assert len((await remote.score(rendered, [(10, 11)], tenant))[0]) == 2
    continued = Conversation(
        (*question(picture(9)).messages, {"role": "assistant", "content": "It is"}),
        {"add_generation_prompt": False},
    )
    there, here = await remote.render(continued, context()), await hf.render(continued, context())
    assert there.prompt_tokens == here.prompt_tokens


async def test_pipeline_runs_over_it(remote: RemoteEngine, fleet: RunningServer) -> None:
    example = DIGITS.questions()[0]
    with Image.open(example.file) as image:
        conversation = question(image.convert("RGB"), text=example.question)
    settings = ModelSettings.load(DIGITS.path)
    assert settings is not None
    options = MIRLOptions.model_validate({"descriptions": 4, "keep": 3, "forks": 2})
    events = [
        event
        async for event in Pipeline(remote, settings).run(
            conversation, options, Sampling(max_tokens=200, seed=3), context()
        )
    ]
    assert isinstance(events[-1], Finished)
    result = events[-1].result
    assert result.content
    assert result.vote is not None
    assert all(d.mi is not None for d in result.descriptions if d.reason in (None, "gate"))
    await settles(fleet, quiet=True)


async def test_conversations_spread_and_stay(remote: RemoteEngine) -> None:
    homes = {}
    for number in range(12):
        rendered = await remote.render(question(picture(20 + number)), context())
        home = rendered.inputs.server
        await sample(remote, rendered, 2, Sampling(max_tokens=2))
        await remote.score(rendered, [(10,)], context())
        assert rendered.inputs.server is home
        homes[number] = home.url
    assert len(set(homes.values())) == 2
    assert "http://127.0.0.1:1" not in homes.values()
    again = await remote.render(question(picture(20)), context())
    assert again.inputs.server.url == homes[0]
    await remote.health()


async def test_wrong_set_ups_are_reported_at_the_start(fleet: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(EngineDeadError, match="can't be reached"):
        await RemoteEngine.start(["http://127.0.0.1:1"])
    with pytest.raises(ConfigError, match="mirl-tiny"):
        await RemoteEngine.start([fleet.url], model="another")
    for file in DIGITS.path.glob("*.json"):
        shutil.copy(file, tmp_path)
    tokenizer = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer.replace('"<description>"', '"<Description>"'))
    with pytest.raises(ConfigError, match="tokenizer"):
        await RemoteEngine.start([fleet.url], tokenizer=str(tmp_path))
    with pytest.raises(ConfigError, match="no tokenizer"):
        await RemoteEngine.start([fleet.url], tokenizer=str(tmp_path / "nowhere"))


async def test_weights_reach_the_servers(
    remote: RemoteEngine, hf: HFEngine, fleet: RunningServer, tmp_path: Path
) -> None:
    """With an image and without, of renderings that were there before: no cache survives the old weights."""
    suffixes = [remote.encode("<description>3 red, 1 blue</description>"), (30, 31, 32)]
    # Long enough for whole blocks of the prefix cache.
    conversations = [question(picture(40), text="Count. " * 60), question(text="Count. " * 60)]
    before = [await remote.render(prompt, context()) for prompt in conversations]
    old = [await remote.score(rendering, suffixes, context()) for rendering in before]
    for rendering in before:
        await sample(remote, rendering, 2, Sampling(max_tokens=8))
    policy = Perturbed(0.05)
    sync = RemoteReloadSync(remote, tmp_path / "weights")
    await sync.check()
    await sync.push(policy, 7)
    policy.save_weights(tmp_path / "model")
    for file in DIGITS.path.iterdir():
        if not (tmp_path / "model" / file.name).exists():
            shutil.copy(file, tmp_path / "model")
    truth = await HFEngine.start(str(tmp_path / "model"), dtype=torch.float32)
    for conversation, rendered, were in zip(conversations, before, old, strict=True):
        new = await remote.score(rendered, suffixes, context())
        true = await truth.score(await truth.render(conversation, context()), suffixes, context())
        samples = await sample(remote, rendered, 2, Sampling(max_tokens=8, seed=1))
        sampled = await truth.score(
            await truth.render(conversation, context()), [s.token_ids for s in samples], context()
        )
        assert max(apart(score, expected) for score, expected in zip(new, true, strict=True)) < 1e-3
        assert max(apart(s.logprobs, expected) for s, expected in zip(samples, sampled, strict=True)) < 1e-3
        assert max(apart(score, earlier) for score, earlier in zip(new, were, strict=True)) > 0.1
    await truth.close()
    assert {server.weights_version for server in remote.servers if server.up} == {"7"}
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["weights-00000007"]

    # A push that waits for what runs, and one that carries it over.
    for version, running_ones in ((8, "wait"), (9, "keep")):
        sync = RemoteReloadSync(remote, tmp_path / "weights", running=running_ones)
        sampling = Sampling(max_tokens=200, temperature=0.2, frequency_penalty=-2.0)
        stream = remote.generate(before[0], remote.encode("red " * 60), 4, sampling, context())
        first = asyncio.ensure_future(anext(stream))
        await settles(fleet, quiet=False)
        await sync.push(policy, version)
        assert first.done() is (running_ones == "wait")
        assert len([await first, *[s async for s in stream]]) == 4
    await settles(fleet, quiet=True)

    # A server that is started anew has other weights: here it only says so.
    async with httpx.AsyncClient(base_url=fleet.url) as client:
        (await client.post("/update_weight_version", json={"new_version": "default"})).raise_for_status()
    with pytest.raises(EngineError, match="other weights"):
        await sample(remote, before[0], 1, Sampling(max_tokens=1))
    await sync.push(policy, 10)
    assert await sample(remote, before[0], 1, Sampling(max_tokens=1))
    # The server is shared: give it its own weights back.
    await sync.push(Perturbed(0.0), 11)
