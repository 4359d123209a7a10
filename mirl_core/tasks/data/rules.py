"""Options in texts and answers, and the data sets' rules of rightness."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from string import ascii_uppercase

from mirl_core.algorithm.answers import equivalent, normalize
from mirl_core.algorithm.answers.quantities import Quantity, split_key
from mirl_core.algorithm.answers.spelling import fold
from mirl_core.tasks.questions import chosen

_HEADING = re.compile(r"(?:choices|options)\s*:", re.I)
_BARE = re.compile(r"[$€£]?([-+]?(?:\d[\d,]*\.?\d*|\.\d+))(%?)\.?")


def parse_choices(text: str) -> tuple[str, ...]:
    """Return the options in a text.

    The text is a list literal of Python or JSON, or has marks: `A: … B: …`, `(A) … (B) …`, `A. … B. …`. Marks
    count in the order of the alphabet only, after "Choices:" or "Options:" if the text has that. A single
    option is no list of options: the result is empty.
    """
    if text.strip().startswith("["):
        try:
            listed = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            return ()
        return tuple(str(item).strip() for item in listed)
    headings = list(_HEADING.finditer(text))
    rest = text[headings[-1].end() :] if headings else text
    options: list[str] = []
    for letter in ascii_uppercase:
        # The first option starts the text or a line; a later one may also follow a comma, or else a blank.
        starts = (r"(?:^|\n)\s*",) if letter == "A" else (r"[\n,;]\s*", r"\s")
        marks = (re.search(rf"{start}(?:\({letter}\)|{letter}[:.)])", rest) for start in starts)
        mark = next((match for match in marks if match), None)
        if mark is None:
            break
        if letter != "A":
            options.append(rest[: mark.start()].strip().rstrip(",;").strip())
        rest = rest[mark.end() :]
    else:
        return ()
    return (*options, rest.strip()) if options else ()


def option(form: str, choices: tuple[str, ...], truth: str) -> int | None:
    """Return the index of the option that the data set's answer means; None where it means none of them."""
    if form == "text":
        return choices.index(truth) if truth in choices else chosen(choices, truth)
    if form == "index":
        index = int(truth) if re.fullmatch(r"\d+", truth) else len(choices)
    else:
        letter = truth.strip().strip("().:").upper()
        index = ascii_uppercase.index(letter) if letter and letter in ascii_uppercase else len(choices)
    return index if index < len(choices) else None


def rule(
    truths: tuple[str, ...], tolerance: float | None, decimals: float | None
) -> Callable[[str], bool] | None:
    """Return the data set's rule of rightness; None where equality with one truth is the rule."""
    if tolerance is None and decimals is None and len(truths) == 1:
        return None

    def accept(answer: str) -> bool:
        return any(
            equivalent(normalize(answer), normalize(truth))
            or (tolerance is not None and within(answer, truth, tolerance))
            or (decimals is not None and rounds_to(answer, truth, int(decimals)))
            for truth in truths
        )

    return accept


def within(answer: str, truth: str, tolerance: float) -> bool:
    """Return whether two bare numbers differ by at most `tolerance` of the truth.

    This is ChartQA's relaxed accuracy (Masry et al. 2022, section 5.1), `14%` being 0.14. A truth of 0 has no
    tolerance.
    """
    a, b = _bare(answer), _bare(truth)
    return a is not None and b is not None and b != 0 and abs(a - b) <= tolerance * abs(b)


def _bare(text: str) -> float | None:
    if not (match := _BARE.fullmatch(fold(text))):
        return None
    return float(match[1].replace(",", "")) / (100 if match[2] else 1)


def rounds_to(answer: str, truth: str, decimals: int) -> bool:
    """Return whether a number equals the truth at `decimals` (MathVista's rule).

    The answer has the truth's unit. Where the truth has none, as MathVista's, the question names the unit
    and the answer may repeat it.
    """
    a, b = _quantity(answer), _quantity(truth)
    if a is None or b is None or (b.unit and a.unit != b.unit):
        return False
    return round(a.value, decimals) == round(b.value, decimals)


def _quantity(text: str) -> Quantity | None:
    answer = normalize(text)
    return split_key(answer.key) if answer.kind == "number" else None
