"""One question of the page as JSON: its descriptions, and of every method the first replay.

`descriptions` are those that some method used, each with its MI at λ = 1; a method's rows point to them.
`answers` are all answers that occur; `group` joins those that vote together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mirl_core.algorithm import answers, voting
from mirl_core.algorithm.gates import GATES
from mirl_core.config import MIRLOptions
from mirl_core.evaluation.bank.records import BankedDescription, BankedQuestion
from mirl_core.evaluation.methods import Method, Replay, ReplayDraw, replay_draws
from mirl_core.evaluation.methods.deepconf import DeepConf
from mirl_core.evaluation.methods.gated import ByOptions, Gated
from mirl_core.evaluation.methods.replay_chains import at_temperature
from mirl_core.evaluation.methods.sampled import Greedy, OracleAnswer, SelfConsistency
from mirl_core.evaluation.methods.steered import Steered
from mirl_core.evaluation.run.needs import temperature_of

__all__ = ["Player", "entry"]

Row = list[Any]


class Player:
    """The methods of one data set, ready to replay.

    Args:
        methods: prepared, where they learn from traffic.
        seed: that of the run's draws.
        baseline: the method that the others' answers are compared with.
    """

    def __init__(self, methods: Sequence[Method], seed: int, baseline: str | None) -> None:
        self.methods = methods
        self.baseline = baseline
        self._seed = seed

    def draw(self, banked: BankedQuestion, count: int) -> ReplayDraw:
        """Return the first of the run's draws."""
        return replay_draws(banked, max(count, 1), self._seed)[0]

    def score_words(self, name: str) -> str:
        """Return what the method ranks descriptions by; empty where it ranks none."""
        method = next(method for method in self.methods if method.name == name)
        if not isinstance(method, ByOptions):
            return ""
        return _score_words(method.options, name, isinstance(method, Steered))


class _Question:
    """The tables of one question while its methods are entered."""

    def __init__(self, banked: BankedQuestion) -> None:
        self.banked = banked
        self.descriptions: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self.answers: dict[str, int] = {}
        samples = [banked.greedy[1], banked.plain_fallback, *banked.chains]
        samples += [chain for decoded in banked.decoded for chain in decoded.chains]
        for trajectories in banked.at_temperatures.values():
            samples += [*trajectories.chains, trajectories.plain_fallback]
        self._right = {chain.answer: chain.right for chain in samples if chain and chain.answer is not None}

    def description(self, kind: str, number: int, description: BankedDescription) -> int:
        """Return the description's number on the page, entering it the first time."""
        key = (kind, number)
        if key not in self._numbers:
            self._numbers[key] = len(self.descriptions)
            self.descriptions.append(
                {
                    "kind": kind,
                    "text": description.text,
                    "right": description.right,
                    "reason": description.reason,
                    "mi": _mi(description),
                    "tokens": description.tokens,
                }
            )
        return self._numbers[key]

    def answer(self, text: str | None) -> int:
        """Return the answer's number on the page, entering it the first time; -1: no answer."""
        return -1 if text is None else self.answers.setdefault(text, len(self.answers))

    def answer_table(self) -> list[Row]:
        """Return the answers: text, whether it is right, and the number of its group."""
        texts = list(self.answers)
        group_of = {index: number for number, group in enumerate(answers.group(texts)) for index in group}
        return [
            [text, bool(self._right.get(text, False)), group_of.get(index, -1)]
            for index, text in enumerate(texts)
        ]


def entry(
    data: int,
    row: Mapping[str, Any],
    banked: BankedQuestion,
    player: Player,
    pictures: Sequence[str],
) -> dict[str, Any]:
    """Return one question of the page.

    Args:
        data: the data set's number.
        row: the question's line in `questions/<data>.jsonl`.
        pictures: sources of pictures.

    Raises:
        ConfigError: the bank lacks samples or scores that a method needs.
    """
    question = _Question(banked)
    played = [
        _method(question, method, row["methods"][method.name], player)
        for method in player.methods
        if method.name in row["methods"]
    ]
    return {
        "data": data,
        "key": row["key"],
        "family": row["family"],
        "text": banked.question,
        "truth": row["truth"],
        "pictures": list(pictures),
        "descriptions": question.descriptions,
        "answers": question.answer_table(),
        "methods": dict(played),
    }


def _method(
    question: _Question, method: Method, outcomes: Mapping[str, Any], player: Player
) -> tuple[str, dict[str, Any]]:
    """Return a method's name and what the page shows of it."""
    draw = player.draw(question.banked, len(outcomes["right"]))
    replay = method.play(question.banked, draw)
    shown = {
        "answer": question.answer(outcomes["answer"][0]),
        "right": bool(outcomes["right"][0]),
        "confidence": outcomes["confidence"][0],
        "generated": outcomes["generated_tokens"][0],
        "scored": outcomes["scored_tokens"][0],
        "rights": sum(map(bool, outcomes["right"])),
        "replays": len(outcomes["right"]),
    }
    # Lines of another version or bank: their figures stand, and the present replay is not shown as theirs.
    same = (replay.answer, replay.generated_tokens) == (
        outcomes["answer"][0],
        outcomes["generated_tokens"][0],
    )
    return method.name, shown | {"rows": _rows(question, method, draw, replay) if same else None}


def _rows(question: _Question, method: Method, draw: ReplayDraw, replay: Replay) -> list[Row]:
    """Return the rows of a replay: [description, kept, score, reason, chains], best first.

    A chain is [answer, votes]; null did not end. `description` is null for plain generation.
    """
    banked = question.banked
    ended: dict[int | None, list[Row]] = {}
    for chain in replay.chains:
        ended.setdefault(chain.description, []).append([question.answer(chain.answer), chain.votes])
    if isinstance(method, Greedy):
        description = banked.greedy[0]
        number = question.description("greedy", 0, description)
        return [[number, description.reason is None, None, description.reason, ended.get(None, [])]]
    rows: list[Row] = []
    for index, score, kept, reason, forks in _ranked(method, draw, replay):
        kind, number, description = _source(banked, method, draw, index)
        chains: list[Any] = [*ended.get(index, [])]
        chains += [None] * (forks - len(chains)) if description.reason is None else []
        rows.append(
            [
                question.description(kind, number, description),
                kept and description.reason is None,
                None if score is None else round(score, 4),
                description.reason or reason,
                chains,
            ]
        )
    # Where nothing is ranked, by MI: equal descriptions stand together.
    mi = [described["mi"] for described in question.descriptions]
    rows.sort(key=lambda row: (not row[1], -_first(row[2], mi[row[0]])))
    if None in ended:
        rows.append([None, True, None, None, ended[None]])
    return rows


def _first(*values: float | None) -> float:
    """Return the first value that there is."""
    return next((value for value in values if value is not None), -math.inf)


def _ranked(
    method: Method, draw: ReplayDraw, replay: Replay
) -> list[tuple[int, float | None, bool, str | None, int]]:
    """Return (position in the draw, score, kept, why not, chains started) of each description of a replay."""
    if replay.descriptions:
        # A decoded description has at least the chain that it shares its votes with.
        forks = method.options.forks if isinstance(method, Gated) else 1
        ranks = isinstance(method, Gated) and GATES[method.options.gate].uses_keep
        scored = ranks or isinstance(method, Steered)
        return [
            (
                description.index,
                description.score if scored else None,
                description.kept,
                description.reason if description.repeats is None else "shares an equal description's chain",
                forks if description.kept and description.repeats is None else 0,
            )
            for description in replay.descriptions
        ]
    if isinstance(method, ByOptions):
        # Without a usable description the answer is plain generation's.
        count = method.options.descriptions if isinstance(method, Gated) else len(method.options.contrast)
        return [(index, None, False, None, 0) for index in range(count)]
    if isinstance(method, SelfConsistency | OracleAnswer | DeepConf):
        count = method.count
    else:
        count = 1 + max(
            (chain.description for chain in replay.chains if chain.description is not None), default=0
        )
    return [(index, None, True, None, 1) for index in range(count)]


def _source(
    banked: BankedQuestion, method: Method, draw: ReplayDraw, index: int
) -> tuple[str, int, BankedDescription]:
    """Return (kind, number in the bank, description) of a position in the draw."""
    if isinstance(method, Steered):
        weights = method.options.contrast
        if index < len(weights):
            number, decoded = next(
                (number, decoded)
                for number, decoded in enumerate(banked.decoded)
                if decoded.weight == weights[index]
            )
            return f"decoded, λ = {decoded.weight:g}", number, decoded.description
        index -= len(weights)
    temperature = temperature_of(method)
    samples, _ = at_temperature(banked, draw, temperature, method.name)
    number = draw.descriptions[index]
    kind = "sampled" if temperature is None else f"sampled at {temperature:g}"
    return kind, number, samples.descriptions[number]


def _mi(description: BankedDescription) -> float | None:
    """Return the MI at λ = 1 under the bank's first estimator; nats per content token."""
    for marginal in description.marginals.values():
        if marginal and not description.reason:
            return round((sum(description.logprobs) - sum(marginal)) / len(marginal), 4)
    return None


def _score_words(options: MIRLOptions, name: str, steered: bool) -> str:
    unit = "nats a token" if options.normalize == "token" else "nats"
    if steered:
        return f"MI, {unit}" if voting.ranks(options.aggregate) else ""
    if name.startswith("auto-"):
        return f"MI at the rule's λ, {unit}"
    if name.startswith("oracle"):
        return "1 for right descriptions"
    gate = GATES[options.gate]
    words = gate.score_words(options)
    return f"{words}, {unit}" if words and gate.in_nats else words
