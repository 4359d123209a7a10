"""How far published rules agree with the product's, on the pairs of tests/unit/algorithm/answers/pairs.

    python -m tests.benchmarks.answer_rules --document docs/evaluation.md

The rules are written anew from these sources: MathVista's `evaluation/calculate_score.py`
(lupantech/MathVista; the type of a question follows from the truth, and options have no texts here), POPE's
`evaluate.py` (AoiDragon/POPE), ChartQA's relaxed accuracy as lmms-eval has it (`tasks/chartqa/utils.py`).
math-verify is called as lmms-eval calls it (`_task_utils/math_verify_utils.py`). Either answer of a pair may
be the truth.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from mirl_core.algorithm.answers import equivalent, normalize
from tests.benchmarks.tables import write

PAIRS = Path(__file__).parent.parent / "unit" / "algorithm" / "answers" / "pairs"
YES_NO = ("yes", "no")
SHOWN = 3

Rule = Callable[[str, str], bool | None]
"""Whether truth and answer are the same; None where the rule is not made for such a truth."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers, and whether they are one."""

    a: str
    b: str
    kind: str
    same: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a rule says of the pairs that it is made for."""

    rule: str
    pairs: int
    same: int
    """Pairs that are one answer."""
    merged: int
    """Of these, pairs that the rule holds to be one."""
    parted: int
    """Of the others, pairs that the rule holds to be two."""
    with_ours: int
    """Pairs of which the product's rule says the same."""
    false_merges: tuple[tuple[str, int], ...]
    """The kinds of pairs that it merges wrongly most often, with their numbers."""
    false_splits: tuple[tuple[str, int], ...]


def ours(truth: str, answer: str) -> bool:
    """The product's rule."""
    return equivalent(normalize(truth), normalize(answer))


def math_verify(truth: str, answer: str) -> bool:
    """Math-Verify: the truth boxed, as lmms-eval calls it, and the answer boxed, else as it stands."""
    from math_verify import parse, verify

    try:
        return bool(verify(parse(_boxed(truth)), parse(_boxed(answer)) or parse(answer)))
    except Exception:  # noqa: BLE001  a grader counts what it can't read as wrong
        return False


def _boxed(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"\\boxed{{{text}}}"


def mathvista(truth: str, answer: str) -> bool:
    """MathVista's normalisation of an extracted answer, and string equality."""
    if re.fullmatch("[A-J]", truth):
        letters = re.findall(r"\(([a-zA-Z])\)", answer)
        return (letters[0].upper() if letters else answer.strip()) == truth
    try:
        if re.fullmatch(r"-?\d+", truth):
            return str(int(float(answer))) == truth
        if re.fullmatch(r"-?\d*\.\d+", truth):
            decimals = len(truth.partition(".")[2])
            return str(round(float(answer), decimals)) == str(round(float(truth), decimals))
    except (ValueError, OverflowError):
        return False
    return answer.strip() == truth.strip()


def pope(truth: str, answer: str) -> bool | None:
    """POPE's reading of the first sentence: no where it has "no" or "not", else yes."""
    if truth.lower() not in YES_NO:
        return None
    words = answer.split(".")[0].replace(",", "").split(" ")
    return ("no" if {"No", "not", "no"} & set(words) else "yes") == truth.lower()


def chartqa(truth: str, answer: str) -> bool:
    """ChartQA's relaxed accuracy: numbers within 5%, percentages as shares, other answers in any case."""
    a, b = _float(answer), _float(truth)
    if a is not None and b:
        return abs(a - b) / abs(b) <= 0.05
    return answer.lower() == truth.lower()


def _float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


RULES: dict[str, Rule] = {
    "this project": ours,
    "math-verify": math_verify,
    "MathVista": mathvista,
    "POPE": pope,
    "ChartQA": chartqa,
}


def read_pairs(folder: Path = PAIRS) -> list[Pair]:
    """Return the pairs of both sets."""
    pairs = []
    for name in ("same", "different"):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n"):
            if line:
                pair = json.loads(line)
                pairs.append(Pair(pair["a"], pair["b"], pair["rule"], name == "same"))
    return pairs


def compare(name: str, rule: Rule, pairs: Iterable[Pair]) -> Agreement:
    """Return how far `rule` agrees with the pairs and with the product's rule."""
    verdicts = [(pair, verdict) for pair in pairs if (verdict := _either(rule, pair)) is not None]
    wrong = [pair for pair, verdict in verdicts if verdict is not pair.same]
    return Agreement(
        rule=name,
        pairs=len(verdicts),
        same=sum(pair.same for pair, _ in verdicts),
        merged=sum(verdict and pair.same for pair, verdict in verdicts),
        parted=sum(not verdict and not pair.same for pair, verdict in verdicts),
        with_ours=sum(verdict is ours(pair.a, pair.b) for pair, verdict in verdicts),
        false_merges=_most(pair.kind for pair in wrong if not pair.same),
        false_splits=_most(pair.kind for pair in wrong if pair.same),
    )


def _either(rule: Rule, pair: Pair) -> bool | None:
    """Return whether the rule accepts either answer for the other; None where it reads neither as a truth."""
    verdicts = [verdict for verdict in (rule(pair.a, pair.b), rule(pair.b, pair.a)) if verdict is not None]
    return any(verdicts) if verdicts else None


def _most(kinds: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(kinds).most_common(SHOWN), key=lambda item: (-item[1], item[0])))


def report(agreements: Sequence[Agreement]) -> str:
    """Return the table."""
    head = (
        "rule",
        "pairs",
        "one answer: merged",
        "two answers: parted",
        "agrees",
        "merges wrongly",
        "parts wrongly",
    )
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for item in agreements:
        different = item.pairs - item.same
        lines.append(
            f"| {item.rule} | {item.pairs} | {item.merged} of {item.same} | {item.parted} of {different} "
            f"| {item.with_ours / item.pairs:.0%} "
            f"| {_listed(item.false_merges)} | {_listed(item.false_splits)} |"
        )
    return "\n".join(lines) + "\n"


def _listed(kinds: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{kind} ({number})" for kind, number in kinds) or "–"


def main(
    output: Annotated[Path, typer.Option(help="where the figures go, as JSON")] = Path(
        "out/answer-rules.json"
    ),
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    """Compare the rules on the pairs, and print the table."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    pairs = read_pairs()
    agreements = [compare(name, rule, pairs) for name, rule in RULES.items()]
    table = report(agreements)
    typer.echo(table)
    write(output, [asdict(item) for item in agreements], table, document, "answer-rules")


if __name__ == "__main__":
    typer.run(main)
