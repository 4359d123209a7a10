"""Evidence of a steered and of a gated answer, as the demo receives it."""

from __future__ import annotations

from mirl_client import Chain, Decoding, Description, Evidence, Representative, Stage, Switch, Vote


def switch(position: int, drafted: str, chosen: str, gain: float | None) -> Switch:
    return Switch(position=position, drafted=drafted, chosen=chosen, gain=gain)


def decoded(
    index: int, text: str, weight: float, votes: int, *switches: Switch, repeats: int | None = None
) -> Description:
    """Return a decoded description; only λ above 0 measures its MI."""
    mi = 8.0 * weight if weight else None
    return Description(
        index=index,
        text=text,
        tokens=9,
        mi=mi,
        mi_per_token=None if mi is None else mi / 8,
        score=None,
        kept=True,
        reason=None,
        votes=votes,
        repeats=repeats,
        decoding=Decoding(mi_weight=weight, rounds=1, switches=switches),
    )


def sampled(
    index: int,
    text: str,
    score: float | None = None,
    reason: str | None = None,
    votes: int | None = None,
    repeats: int | None = None,
) -> Description:
    """Return a sampled description, dropped where it has a reason."""
    mi = None if score is None else 8 * score
    return Description(
        index=index,
        text=text,
        tokens=9,
        mi=mi,
        mi_per_token=score,
        score=score,
        kept=reason is None,
        reason=reason,
        votes=votes,
        repeats=repeats,
    )


def chain(description: int, fork: int, answer: str | None, votes: int = 1) -> Chain:
    """Return a chain; without an answer it was stopped."""
    return Chain(
        description=description,
        fork=fork,
        answer=answer,
        tokens=40,
        finish_reason="stop" if answer else "abort",
        votes=votes,
    )


def evidence_of(
    descriptions: tuple[Description, ...], chains: tuple[Chain, ...], winner: int, **fields: object
) -> Evidence:
    """Return the evidence of an answer that continues description number `winner`."""
    values: dict[str, object] = {
        "descriptions": descriptions,
        "chains": chains,
        "representative": Representative(description=winner, fork=0),
        "vote": Vote(answer="24", counts={"25": 1.0, "24": 3.0}, share=0.75),
        "confidence": 0.75,
        "margin": None,
        "aggregation": "majority",
        "partial": False,
        "fallback": None,
        "stages": (
            Stage(stage="describe", sequences=4, generated_tokens=92, scored_tokens=0, seconds=1.14),
            Stage(stage="score", sequences=3, generated_tokens=0, scored_tokens=18, seconds=0.2),
            Stage(stage="fork", sequences=3, generated_tokens=120, scored_tokens=0, seconds=3.04),
        ),
    }
    return Evidence.model_validate(values | fields)


STEERED = evidence_of(
    (
        # Fewer votes than the next ones, so that the order of rank is not that of the indices.
        decoded(0, "limes 4, apples 13", 1.0, 1, switch(1, " 5", " 4", 1.25), switch(4, " 12", " 13", 0.5)),
        decoded(1, "limes 6, apples 18", 0.0, 2),
        decoded(2, "limes 6, apples 18", 0.5, 2, repeats=1),
        sampled(3, "9 apples, 6 limes", votes=1),
        sampled(4, "limes 6, apples 18", votes=1, repeats=1),
        sampled(5, "limes 7,", reason="stopped", votes=1),
    ),
    (chain(1, 0, "24", votes=5), chain(0, 0, None), chain(3, 0, "15")),
    winner=1,
    mi_weight=1.0,
)

GATED = evidence_of(
    (
        sampled(0, "limes 6, apples 17", 0.25, "gate"),
        sampled(1, "limes 6, apples 18", 0.5),
        sampled(2, "limes 6", None, "truncated"),
        sampled(3, "apples 18, limes 6", 0.75),
        sampled(4, "18 limes, 6 apples", -0.5),
    ),
    (chain(1, 0, "24"), chain(1, 1, "24"), chain(3, 0, None), chain(3, 1, "25"), chain(4, 0, None),
     chain(4, 1, None)),
    winner=1,
    mi_weight=0.5,
)  # fmt: skip
