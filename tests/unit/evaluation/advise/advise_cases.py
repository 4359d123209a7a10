"""What the tests of `advise` share: tables of figures, and banks with decoded descriptions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mirl_core.config import ModelSettings
from mirl_core.evaluation.advise.advice import Advice, weigh
from mirl_core.evaluation.advise.candidates import DESCRIPTIONS, FORKS, methods_text
from mirl_core.evaluation.advise.measures import slips
from mirl_core.evaluation.advise.rule import SMALLEST_GAIN, TOLERANCE, Contender, shares_chains
from mirl_core.evaluation.bank.records import BankedChain, BankedDecoded, BankedQuestion
from mirl_core.evaluation.methods import parse_methods
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.replay_bank import replay
from mirl_core.tasks.resampling import Estimate
from tests.unit.evaluation.synthetic import banked_question

SETTINGS = ModelSettings()
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
Gains = dict[str, dict[str, Estimate]]


def table(
    figures: Mapping[str, tuple[float, float]], half: float, n: int = 300
) -> tuple[list[Contender], Gains]:
    """Contenders from name → (tokens, accuracy), and gains whose intervals are `half` to either side."""
    contenders = [Contender(name, tokens, accuracy) for name, (tokens, accuracy) in figures.items()]
    gains: Gains = {
        a.name: {
            b.name: Estimate(gain, gain - half, gain + half, n)
            for b in contenders
            if b is not a
            for gain in (b.accuracy - a.accuracy,)
        }
        for a in contenders
    }
    return contenders, gains


def ranking(settings: ModelSettings = SETTINGS) -> Gated:
    (method,) = parse_methods("gate", settings)
    assert isinstance(method, Gated)
    return method


def decoding_question(
    number: int, greedy_right: bool, data: str = "digits/iid", **made: Any
) -> BankedQuestion:
    """A made-up question whose greedy trajectory and decodes are right, or wrong."""
    line = banked_question(number, data, descriptions=DESCRIPTIONS, forks=FORKS, **made)
    answer = line.truth if greedy_right else str(int(line.truth) + 1)
    rng = random.Random(f"decodes-{number}")
    text = next(description for description in line.descriptions if description.reason is None)

    def chain(fork: int) -> BankedChain:
        return BankedChain(-1, fork, answer, greedy_right, rng.randint(15, 45), "stop", None, None)

    decoded = tuple(
        BankedDecoded(
            weight,
            replace(text, text=f"{text.text} {index // 2}"),
            0,
            (index,),
            (),
            (index,) if weight else (),
            tuple(chain(fork) for fork in range(FORKS)),
        )
        for index, weight in enumerate(WEIGHTS)
    )
    return replace(
        line,
        greedy=(text, chain(0)),
        decoded=decoded,
        drafts=(text.tokens,) * len(WEIGHTS),
        verified=(text.content_tokens,) * len(WEIGHTS),
    )


def weighed(
    questions: Mapping[str, Sequence[BankedQuestion]],
    settings: ModelSettings = SETTINGS,
    tolerance: float = TOLERANCE,
    smallest_gain: float = SMALLEST_GAIN,
) -> Advice:
    """The advice on banked questions, with a draw of each."""
    shared = shares_chains(slips([line for lines in questions.values() for line in lines]))
    methods = parse_methods(methods_text(settings, shared), settings)
    rows = {data: replay(lines, methods, 1, 0) for data, lines in questions.items()}
    return weigh(questions, rows, settings, ranking(settings), tolerance, smallest_gain)
