"""A replay is what the pipeline does with the same samples; and what stopping early may change."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.aggregators import Pending
from mirl_core.algorithm.answers import normalize
from mirl_core.algorithm.voting import decided
from mirl_core.config import Calibration, MIRLOptions, ModelSettings
from mirl_core.engines.base import Sampling
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.evaluation.bank.records import BankedChain, BankedDescription, BankedQuestion
from mirl_core.evaluation.methods import Replay, ReplayDraw, parse_methods, replay_draws
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.replay_chains import run, trace
from mirl_core.types import Result
from tests.unit.evaluation.bank.bank_cases import in_order, question, reasoned, said
from tests.unit.pipeline.pipeline_cases import SETTINGS, chain, result_of

DESCRIPTIONS, FORKS = 6, 3
WORDS = ("red", "blue dog", "3 cats here", "left of it", "a fog")

scripts = st.lists(
    st.one_of(
        st.sampled_from(WORDS).map(lambda words: (f"{words}</description>", "stop")),
        st.sampled_from(["", "never ends", "  </description>"]).map(lambda words: (words, "length")),
    ),
    min_size=DESCRIPTIONS,
    max_size=DESCRIPTIONS,
)
OPTIONS = st.fixed_dictionaries(
    {
        "descriptions": st.just(DESCRIPTIONS),
        "keep": st.integers(1, 6),
        "forks": st.integers(1, FORKS),
        "gate": st.sampled_from(["mi", "confidence", "random", "none"]),
        "aggregate": st.sampled_from(["auto", "majority", "mi_weighted", "best"]),
        "distinct": st.booleans(),
        "normalize": st.sampled_from(["token", "sum"]),
        "adaptive_keep": st.sampled_from([None, 0.3, 0.9]),
        "mi_weight": st.sampled_from([0.0, 0.5, 1.0, "auto"]),
        "clip": st.sampled_from([None, 0.4]),
        "token_mi": st.booleans(),
        "waves": st.booleans(),
        "wave": st.integers(1, 4),
        "certainty": st.sampled_from([0.6, 0.9]),
    }
)
ANSWERS = st.sampled_from(
    ["1", "1.0", "2", "7 cats", "", "a sentence of such length that nobody would call it an answer to it."]
)


def engine_of(described: list[tuple[str, str]], numbers: random.Random) -> FakeEngine:
    """Scripted samples whose nats are a function of the text, so that equal texts are equal samples."""
    nats = {words: numbers.uniform(-3, -0.1) for words, _ in described}
    prior = {words: numbers.uniform(-3, -0.1) for words, _ in described}
    said_next: dict[tuple[str, int], str] = {}

    def answer(suffix: str, branch: int) -> FakeText | str:
        made = chain(
            numbers.choice(["1", "2", "1.0", "", "a long sentence that is no short answer at all, no."])
        )
        cut = numbers.random() < 0.2
        text = said_next.setdefault((suffix, branch), "<think>round and round" if cut else made)
        return FakeText(text, finish_reason="length") if "</think>" not in text else text

    texts = [FakeText(words, nats[words], prior[words], ending) for words, ending in described]  # type: ignore[arg-type]
    return FakeEngine(texts, answer, plain=[chain("1")])


def live(engine: FakeEngine, options: dict[str, Any], model: ModelSettings = SETTINGS) -> Result:
    return asyncio.run(result_of(engine, settings=model, sampling=Sampling(max_tokens=64, seed=5), **options))


def banked_from(engine: FakeEngine, everything: Result) -> BankedQuestion:
    """What the pipeline sampled with every gate open, as a bank."""
    descriptions = []
    for sample in everything.descriptions:
        script = engine._descriptions[sample.index]
        descriptions.append(
            BankedDescription(
                text=sample.text,
                tokens=len(sample.token_ids),
                content_tokens=sample.content_tokens,
                reason=sample.reason,
                logprobs=(script.logprobs,) * sample.content_tokens,  # type: ignore[arg-type]
                marginals={} if sample.reason else {"text": (script.marginal,) * sample.content_tokens},  # type: ignore[dict-item]
                right=None,
            )
        )
    chains = [
        BankedChain(
            -1 if c.description is None else c.description,
            c.fork,
            c.answer,
            c.answer == "1",
            c.tokens,
            c.finish_reason,
            None,
            None,
        )
        for c in sorted(everything.chains, key=lambda c: (c.description or 0, c.fork))
    ]
    if everything.fallback:
        return question(descriptions, [], plain=chains[0])
    return question(descriptions, chains)


@settings(max_examples=80, deadline=None)
@given(scripts, OPTIONS, st.randoms(use_true_random=False))
def test_replay_is_the_pipeline(
    described: list[tuple[str, str]], options: dict[str, Any], numbers: random.Random
) -> None:
    engine = engine_of(described, numbers)
    everything = {"descriptions": DESCRIPTIONS, "forks": FORKS, "gate": "none", "early_stop": False}
    banked = banked_from(engine, live(engine, everything))
    draw = ReplayDraw(tuple(range(DESCRIPTIONS)), tuple(range(FORKS)), seed=5)

    model = ModelSettings(
        instruction="",
        options=MIRLOptions(**options, early_stop=False),
        calibration=Calibration(intercept=-1, vote_share=3, distinct_share=-2),
    )
    real = live(engine, {**options, "early_stop": False}, model)
    (method,) = parse_methods("mirl", model)
    replayed = method.play(banked, draw)
    assert (replayed.answer or "") == real.content
    assert replayed.generated_tokens == real.completion_tokens
    assert replayed.scored_tokens == real.scored_tokens
    assert replayed.trajectories == len(real.chains)
    assert replayed.confidence == (None if real.confidence is None else pytest.approx(real.confidence))
    assert replayed.right == (real.content == "1")
    assert real.calibrated == (real.vote is not None and real.fallback is None)
    raw = Gated("mirl", model.options).play(banked, draw)
    assert raw.confidence == (None if real.vote is None else pytest.approx(real.vote.share))

    real = live(engine, {**options, "early_stop": True})
    stopped = Gated("mirl", MIRLOptions(**options)).play(banked, draw)
    if not options["waves"]:
        # Of waves those chains vote that end first: by the clock of tokens in a replay, by time on an engine.
        assert normalize(stopped.answer or "") == normalize(real.content)
    assert stopped.trajectories <= replayed.trajectories
    assert len(real.chains) <= replayed.trajectories


trajectories = st.lists(
    st.tuples(st.one_of(st.none(), ANSWERS), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=10
)


def bank_of(triples: list[tuple[str | None, int, int]]) -> BankedQuestion:
    return question(
        [said("x" * length, [-1.0] * length) for _, length, _ in triples],
        [reasoned(j, 0, answer, tokens) for j, (answer, _, tokens) in enumerate(triples)],
    )


@settings(max_examples=200, deadline=None)
@given(trajectories, st.sampled_from(["auto", "majority", "best"]))
def test_stopping_changes_no_answer_and_never_costs_more(
    triples: list[tuple[str | None, int, int]], aggregate: str
) -> None:
    banked = bank_of(triples)
    count = len(triples)
    names = f"sc@{count}(aggregate={aggregate}),sc@{count}+stop(aggregate={aggregate})"
    patient, hasty = parse_methods(names, ModelSettings())
    for draw in replay_draws(banked, 3, 0):
        full, stopped = patient.play(banked, draw), hasty.play(banked, draw)
        assert normalize(stopped.answer or "") == normalize(full.answer or "")
        assert stopped.generated_tokens <= full.generated_tokens
        assert stopped.trajectories <= full.trajectories
        assert (stopped.scored_tokens, full.scored_tokens) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), ANSWERS), st.integers(1, 9), st.floats(-3, 3)), min_size=1, max_size=9
    ),
    st.sampled_from(["auto", "majority", "mi_weighted", "best"]),
)
def test_the_vote_is_stopped_at_the_first_tick_that_decides_it(
    chains: list[tuple[str | None, int, float]], aggregate: Any
) -> None:
    traces = [
        trace(j, 0, reasoned(j, 0, answer, ticks), score) for j, (answer, ticks, score) in enumerate(chains)
    ]
    last = max(ticks for _, ticks, _ in chains)
    first = last
    for now in sorted({ticks for _, ticks, _ in chains}):
        ended = [traced.chain for traced in traces if traced.ticks <= now]
        outstanding = [
            Pending(traced.chain.description, 0, traced.chain.score)
            for traced in traces
            if traced.ticks > now
        ]
        if decided(ended, outstanding, aggregate):
            first = now
            break
    played = run(traces, aggregate, early_stop=True, generated_before=10)
    assert played.generated_tokens == 10 + sum(min(traced.ticks, first) for traced in traces)


@settings(max_examples=100, deadline=None)
@given(trajectories, st.integers(0, 3))
def test_a_gate_that_keeps_everything_is_no_gate(
    triples: list[tuple[str | None, int, int]], seed: int
) -> None:
    banked = bank_of(triples)
    count = len(triples)
    options = f"descriptions={count};keep={count};forks=1;early_stop=false;aggregate=majority"
    gated, ungated, sampled = parse_methods(
        f"mirl({options};normalize=sum),none({options}),sc@{count}(aggregate=majority)", ModelSettings()
    )
    draw = replay_draws(banked, 1, seed)[0]
    kept, free = gated.play(banked, draw), ungated.play(banked, draw)
    assert free == sampled.play(banked, draw)
    assert (kept.generated_tokens, kept.trajectories) == (free.generated_tokens, free.trajectories)
    # Ties are broken by MI in the one and by place in the other; the winner's share is the same.
    assert kept.confidence == free.confidence
    assert kept.scored_tokens > 0
    stopped = parse_methods(f"mirl({options.replace('=false', '=true')})", ModelSettings())[0].play(
        banked, draw
    )
    assert stopped.generated_tokens <= kept.generated_tokens


def test_played_is_the_same_twice() -> None:
    banked = bank_of([("1", 2, 3), ("2", 1, 4), (None, 3, 3)])
    (method,) = parse_methods("mirl(descriptions=3)", ModelSettings(options=MIRLOptions(forks=1)))
    first: Replay = method.play(banked, in_order(banked))
    assert first == method.play(banked, in_order(banked))
