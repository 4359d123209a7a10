"""The advice in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mirl_core.evaluation.advise.advice import Advice
from mirl_core.evaluation.advise.candidates import GREEDY
from mirl_core.evaluation.advise.rule import FEWEST, SLIPS, Decision, GateVerdict
from mirl_core.tasks.markdown_tables import percent
from mirl_core.tasks.resampling import Estimate

__all__ = ["headline", "sentences"]

_MANY_UNUSABLE = 0.05
"""Share of unusable descriptions that is worth a sentence."""


def headline(advice: Advice) -> str:
    """Return the advice in a few words."""
    if advice.decision is None:
        return "No answers to decide by"
    if advice.advised is None:
        return "Too few questions to decide"
    return f"Use {advice.advised.name}"


def sentences(advice: Advice) -> list[str]:
    """Return what to use, why, and what is uncertain: one text for each subject."""
    texts = [_method(advice), _chains(advice), _gate(advice), _descriptions(advice)]
    if advice.advised is not None:
        texts.append(
            "These questions chose the advice, so its figures flatter it: report on other questions "
            "(--part test)."
        )
    return [text for text in texts if text]


def _method(advice: Advice) -> str:
    decision = advice.decision
    if decision is None:
        return _without_answers(advice)
    if decision.too_small:
        return _too_small(advice, decision)
    if decision.cheapest:
        return (
            f"Use {_named(advice, decision.advised)}, the cheapest: nothing is better than it by more than "
            f"{_points(advice.tolerance)} with certainty.{_still_open(decision)}{_serving(advice)}"
        )
    cheaper = [
        name
        for name in sorted(decision.ruled_out, key=lambda name: advice.figures(name).tokens.mean)
        if advice.figures(name).tokens.mean < advice.figures(decision.advised).tokens.mean
    ]
    return (
        f"Use {_named(advice, decision.advised)}. It is the cheapest that is not certainly below another by "
        f"more than {_points(advice.tolerance)}: {_ruled_out(decision, cheaper)}.{_best(advice, decision)}"
        f"{_still_open(decision)}"
    )


def _without_answers(advice: Advice) -> str:
    changed = advice.measures.get("changed")
    bound = (
        f" 16 votes change the greedy answer in {_percent(changed.estimate)} of the questions: they can gain "
        "or lose no more than that."
        if changed
        else ""
    )
    return (
        "No question has an answer, so nothing shows which way of answering is right more often."
        f"{bound} Give some hundred questions an answer and run the command again: nothing is sampled twice."
    )


def _too_small(advice: Advice, decision: Decision) -> str:
    cheapest = _named(advice, decision.advised)
    if advice.labelled < FEWEST:
        reason = f"{advice.labelled} questions with an answer are too few; it takes {FEWEST}."
    else:
        assert decision.open is not None, "another candidate may be better"
        reason = (
            f"The sample decides nothing: {decision.open.name} may be up to "
            f"{_points(decision.open.gain.high)} better than {cheapest}, but not with certainty "
            f"({_gain(decision.open.gain)})."
        )
    needed = (
        f" About {_rounded(decision.needed)} questions would decide, if the differences stay as they are."
        if decision.needed
        else ""
    )
    return f"{reason}{needed} Until then use {cheapest}, the cheapest."


def _ruled_out(decision: Decision, names: Sequence[str]) -> str:
    """Return what rules these candidates out: by rival, the candidates that it is better than."""
    by_rival: dict[str, list[str]] = {}
    for name in names:
        rival = decision.ruled_out[name]
        by_rival.setdefault(rival.name, []).append(f"{name} by {_interval(rival.gain)}")
    reasons = (f"{rival} is better than {', '.join(texts)} points" for rival, texts in by_rival.items())
    return "; ".join(reasons)


def _best(advice: Advice, decision: Decision) -> str:
    if decision.best is None:
        return " Nothing is more accurate on this sample."
    times = advice.figures(decision.best.name).tokens.mean / advice.figures(decision.advised).tokens.mean
    return (
        f" The most accurate on this sample is {decision.best.name}: {_gain(decision.best.gain)} at "
        f"{times:.1f} times the tokens."
    )


def _still_open(decision: Decision) -> str:
    if decision.open is None or decision.open.gain.high <= 0:
        return ""
    return (
        f" What remains uncertain: {decision.open.name} may be up to {_points(decision.open.gain.high)} "
        "better."
    )


def _serving(advice: Advice) -> str:
    if advice.advised is None or advice.advised.name != GREEDY:
        return ""
    return (
        " NAME:direct at temperature 0 answers so, where the prompt has the instruction of the mirl.json; "
        "MIRL need not run."
    )


def _chains(advice: Advice) -> str:
    slips = advice.measures.get("slips")
    if slips is None:
        return ""
    share = f"{_percent(slips.estimate)} of repeated chains of a description disagree"
    uncertain = (
        "" if not slips.estimate.low <= SLIPS < slips.estimate.high else ", which the interval leaves open"
    )
    if advice.share_chains:
        return f"Equal descriptions may share a chain: {share}, not more than {100 * SLIPS:.0f}%{uncertain}."
    return (
        f"Give every vote a separate chain (share_chains false): {share}, more than {100 * SLIPS:.0f}%"
        f"{uncertain}."
    )


def _gate(advice: Advice) -> str:
    ranking, follows = advice.measures.get("ranking"), advice.measures.get("follows")
    gated = [candidate.name for candidate in advice.candidates if candidate.gated]
    ranks = (
        "right answers after the top-ranked description, less those after a random one: "
        f"{_gain(ranking.estimate)}"
        if ranking
        else ""
    )
    match advice.gate:
        case GateVerdict.use:
            return f"The gate pays here: {ranks}." if ranks else ""
        case GateVerdict.against:
            decision = advice.decision
            harmed = [name for name in gated if decision and name in decision.ruled_out]
            why = _ruled_out(decision, harmed) if decision and harmed else ""
            return f"Don't use the gate here: {'; '.join(filter(None, (why, ranks)))}."
    if follows is not None and follows.estimate.low <= 0:
        agree = _gain(follows.estimate)
        return (
            "Nothing shows that answers follow their descriptions, without which no gate gains: chains of "
            f"the same description agree {agree} more often than others."
        )
    if ranking is not None and ranking.estimate.low > 0:
        return f"MI ranks better than chance, but the gate is not shown to pay here ({ranks})."
    return f"The gate is not shown to pay here: {ranks}." if ranks else ""


def _descriptions(advice: Advice) -> str:
    unusable = advice.measures.get("unusable")
    if unusable is None or unusable.estimate.mean <= _MANY_UNUSABLE:
        return ""
    return (
        f"{_percent(unusable.estimate)} of the descriptions are unusable ({unusable.note}). Truncated "
        "descriptions need more description_tokens, the others another instruction or training."
    )


def _named(advice: Advice, name: str) -> str:
    return f"{name} ({advice.candidate(name).meaning})"


def _points(share: float) -> str:
    number = f"{100 * share:.1f}".removesuffix(".0")
    return f"{number} point" if number == "1" else f"{number} points"


def _gain(gain: Estimate) -> str:
    return f"{_interval(gain)} points"


def _interval(gain: Estimate) -> str:
    low, high = f"{100 * gain.low:+.1f}", f"{100 * gain.high:+.1f}"
    return f"{100 * gain.mean:+.1f} [{low}, {high}]"


def _percent(estimate: Estimate) -> str:
    return f"{percent(estimate.mean, estimate.low, estimate.high)}%"


def _rounded(number: int) -> str:
    """Return a number with two significant digits; more would pretend."""
    digits = max(0, len(str(number)) - 2)
    return f"{-(-number // 10**digits) * 10**digits:,}"
