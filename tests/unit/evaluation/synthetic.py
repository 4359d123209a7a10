"""Banked questions made up by a small generative model, so that statistics have something to find."""

from __future__ import annotations

import random

from mirl_core.evaluation.bank.records import BankedChain, BankedDescription, BankedQuestion

PRIOR = ("red", "blue", "green", "grey")


def banked_question(
    number: int,
    data: str = "digits/iid",
    descriptions: int = 16,
    forks: int = 3,
    seed: int = 0,
    skill: float = 0.45,
    misled: bool = False,
) -> BankedQuestion:
    """One question with right descriptions at a rate near `skill`; confidence misleads where `misled`."""
    rng = random.Random(f"{seed}-{data}-{number}")
    truth = str(rng.randrange(12))
    rate = min(max(rng.gauss(skill, 0.25), 0.02), 0.98)
    drawn = [_description(rng, rng.random() < rate, misled) for _ in range(descriptions)]
    chains = [
        _chain(rng, place, fork, truth, bool(description.right))
        for place, description in enumerate(drawn)
        if description.reason is None
        for fork in range(forks)
    ]
    first = next((place for place, description in enumerate(drawn) if description.reason is None), None)
    return BankedQuestion(
        key=f"{data.replace('/', '-')}-test-{number:06d}",
        data=data,
        family="count",
        truth=truth,
        clusters=(f"scene-{number}", f"glyph-{number % 37}", f"glyph-{number % 11}"),
        descriptions=tuple(drawn),
        chains=tuple(chains),
        greedy=(drawn[0], None if first is None else _chain(rng, -1, 0, truth, rate > 0.5)),
        plain_fallback=_chain(rng, -1, 0, truth, False) if first is None else None,
    )


def banked_questions(
    count: int, data: str = "digits/iid", **arguments: int | float | bool
) -> list[BankedQuestion]:
    """The first `count` questions of a made-up data set."""
    return [banked_question(number, data, **arguments) for number in range(count)]  # type: ignore[arg-type]


def _description(rng: random.Random, right: bool, misled: bool) -> BankedDescription:
    length = rng.randint(4, 9)
    # What the picture says speaks for the truth; what usually stands there speaks against it if misled.
    evidence = rng.gauss(0.25 if right else -0.25, 0.4)
    habit = rng.gauss((-0.3 if right else 0.3) if misled else (0.1 if right else -0.1), 0.2)
    logprobs = tuple(round(-0.8 + evidence + habit + rng.gauss(0, 0.2), 4) for _ in range(length))
    text = ", ".join(rng.choice(PRIOR) for _ in range(length // 2)) + (" *" if right else "")
    if rng.random() < 0.02:
        return BankedDescription("", 2, 0, "empty", (), {}, right=False)
    marginals = {
        "text": tuple(round(-1.6 + habit + rng.gauss(0, 0.1), 4) for _ in range(length)),
        "blank": tuple(round(-1.8 + 0.5 * habit + rng.gauss(0, 0.3), 4) for _ in range(length)),
    }
    return BankedDescription(text, length + 1, length, None, logprobs, marginals, right)


def _chain(rng: random.Random, place: int, fork: int, truth: str, right: bool) -> BankedChain:
    hit = rng.random() < (0.88 if right else 0.12)
    answer = truth if hit else str((int(truth) + rng.choice((1, 1, 2, 11))) % 12)
    return BankedChain(
        description=place,
        fork=fork,
        answer=None if rng.random() < 0.01 else answer,
        right=hit,
        tokens=rng.randint(15, 45),
        finish_reason="stop",
        confidence=rng.gauss(3 + 0.4 * hit, 0.3),
        lowest_confidence=rng.gauss(2 + 0.4 * hit, 0.4),
    )
