"""Figures of the comparison over HTTP: pure functions from replies to JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirl_core.tasks.questions import Question, is_right
from mirl_core.tasks.resampling import Resampling
from tests.benchmarks.arms import Reply

Answers = Mapping[str, Reply]
"""By the question's key."""


@dataclass(frozen=True, slots=True)
class Pass:
    """All answers to one split's questions at one concurrency."""

    data: str
    concurrency: int
    answers: Mapping[str, Answers]
    """By the arm's name; an arm may have been asked fewer questions."""
    seconds: Mapping[str, float]
    """Wall time in which an arm had requests in flight."""


def turns(arms: Sequence[str], number: int) -> list[str]:
    """In which order the arms get question or block `number`: each is as often first as last."""
    start = number % len(arms)
    turned = [*arms[start:], *arms[:start]]
    return turned if number // len(arms) % 2 == 0 else turned[::-1]


def summarise(result: Pass, questions: Sequence[Question], reference: str) -> dict[str, dict[str, Any]]:
    """Per arm: accuracy, tokens, latency, and paired differences of the `reference` arm minus it.

    Accuracy in 0..1 with 95% intervals (Wilson's, and a bootstrap over scenes and glyphs for differences);
    tokens are means a question; seconds of wall time.
    """
    figures = {}
    for arm, answers in result.answers.items():
        answered = [question for question in questions if question.key in answers]
        if not answered:
            continue
        resampling = Resampling([question.clusters or (question.key,) for question in answered])
        replies = [answers[question.key] for question in answered]
        right = grade(answered, answers)
        accuracy = resampling.proportion(right)
        seconds = np.array([each.seconds for each in replies])
        figures[arm] = {
            "accuracy": accuracy.mean,
            "low": accuracy.low,
            "high": accuracy.high,
            "n": accuracy.n,
            "no_answer": sum(each.answer is None for each in replies),
            "prompt_tokens": float(np.mean([each.prompt_tokens for each in replies])),
            "sampled_tokens": float(np.mean([each.sampled_tokens for each in replies])),
            "scored_tokens": float(np.mean([each.scored_tokens for each in replies])),
            "p50_seconds": float(np.quantile(seconds, 0.5)),
            "p95_seconds": float(np.quantile(seconds, 0.95)),
            "wall_seconds": result.seconds[arm],
            "questions_per_second": len(answered) / result.seconds[arm],
        }
        if arm == reference or not all(question.key in result.answers[reference] for question in answered):
            continue
        theirs = result.answers[reference]
        ours = grade(answered, theirs)
        paired = resampling.difference(ours, right)
        times = np.array([theirs[question.key].seconds for question in answered])
        figures[arm]["reference_minus_this"] = {
            "accuracy": paired.mean,
            "low": paired.low,
            "high": paired.high,
            "reference_alone_right": int(((ours == 1) & (right == 0)).sum()),
            "this_alone_right": int(((ours == 0) & (right == 1)).sum()),
            "tokens_ratio": cost([theirs[q.key] for q in answered]) / max(cost(replies), 1e-9),
            "p50_ratio": float(np.quantile(times, 0.5) / np.quantile(seconds, 0.5)),
        }
    return figures


def grade(questions: Sequence[Question], answers: Answers) -> np.ndarray:
    """1 where an answer is right, else 0: [questions]."""
    return np.array([float(is_right(question, answers[question.key].answer)) for question in questions])


def cost(replies: Sequence[Reply]) -> float:
    """Sampled and scored tokens, all together."""
    return float(sum(each.sampled_tokens + each.scored_tokens for each in replies))


def rows(figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row an arm."""
    made = []
    for arm, of in figures.items():
        paired = of.get("reference_minus_this")
        made.append(
            [
                arm,
                str(of["n"]),
                percent(of),
                "" if paired is None else points(paired),
                "" if paired is None else f"{paired['reference_alone_right']} / {paired['this_alone_right']}",
                f"{of['prompt_tokens']:.0f}",
                f"{of['sampled_tokens']:.0f} + {of['scored_tokens']:.0f}"
                if of["scored_tokens"]
                else f"{of['sampled_tokens']:.0f}",
                f"{1000 * of['p50_seconds']:.0f}",
                f"{1000 * of['p95_seconds']:.0f}",
                f"{of['questions_per_second']:.1f}",
            ]
        )
    return made


HEAD = (
    "arm", "n", "right, %", "gated minus this, points", "right alone: gated / this", "prompt tokens",
    "sampled + scored tokens", "p50, ms", "p95, ms", "questions/s",
)  # fmt: skip


def percent(of: Mapping[str, Any]) -> str:
    """A share with its interval."""
    return f"{100 * of['accuracy']:.1f} [{100 * of['low']:.1f}, {100 * of['high']:.1f}]"


def points(of: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    return f"{100 * of['accuracy']:+.1f} [{100 * of['low']:+.1f}, {100 * of['high']:+.1f}]"


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def put(document: str, name: str, text: str) -> str:
    """A document with `text` between its lines `<!-- NAME -->` and `<!-- end of NAME -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the document has no one place for {name}: it lacks {begin} or {end}")
    before, _, rest = document.partition(begin)
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}"


def write(output: Path, results: Any, text: str, document: Path | None, name: str) -> None:
    """Write the results as JSON, with their table beside it and, if there is one, in a document."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1))
    output.with_suffix(".md").write_text(text + "\n")
    if document is not None:
        document.write_text(put(document.read_text(), name, text))
