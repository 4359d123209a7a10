"""Statements of an answer in a text: the one list of lead words, `\\boxed{…}`, and where each statement
stands.

A statement is a lead and what follows it up to the end of the line, or of displayed mathematics. The lead
words are those that published graders look for: lmms-eval (`mcq_extract`, MMMU), Math-Verify, HELM ("answer
is"), simple-evals ("Answer:" in many languages), GSM8K ("####").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirl_core.algorithm.answers.spelling import fold_in_place

__all__ = ["CONCLUSION", "Statement", "find_statements", "strip_lead"]

_CONNECTIVES = (
    "so",
    "thus",
    "therefore",
    "hence",
    "then",
    "overall",
    "finally",
    "in conclusion",
    "in summary",
    "∴",
)
_RANKS = ("correct", "right", "best", "most likely", "most appropriate")
_ANSWERS = ("answer", "ans")
_CHOICES = ("choice", "option", "letter")
# "Answer:" at the beginning of a line, as OpenAI's simple-evals lists it.
_FOREIGN = (
    "antwort", "respuesta", "risposta", "réponse", "resposta", "jawaban", "jibu",
    "正确答案", "最终答案", "答案", "答复", "答", "答え", "回答", "解答", "정답", "답변", "답",
    "उत्तर", "উত্তর",
    "الإجابة", "إجابة", "الجواب", "الإجابة النهائية", "الإجابة الصحيحة",
)  # fmt: skip
_FOREIGN_VERBS = ("答案是", "答案为", "正确答案是", "정답은", "답은", "答えは", "正解は")
_VERBS = ("is", "are", "was", "would be", "must be", "should be", "will be", "equals", "=", ":")
# Behind "the answer is" these say something about the answer, not what it is.
_NO_ANSWER = (
    "not", "based on", "given by", "obtained", "consistent with", "as follows", "expressed", "rounded to",
    "because", "needed", "required", "asked", "wanted", "expected",
)  # fmt: skip
_PICKS = ("choose", "pick", "select", "go with")


def _any(*words: str) -> str:
    return "(?:" + "|".join(re.escape(word).replace(r"\ ", r"\s") for word in words) + ")"


_MARKS = r"[*_]*"
_LINE = r"^[^\w\n∴]*+"
_SO = rf"(?:{_any(*_CONNECTIVES)}[,:]?\s)?"
_WHOSE = r"(?:(?:the|my|our)\s)?"
_RANKED = rf"{_WHOSE}(?:{_any(*_RANKS)}\s)?{_any(*_ANSWERS)}|{_WHOSE}{_any(*_RANKS)}\s{_any(*_CHOICES)}"
_ABOUT = r"(?:\s(?:to|for|of)\s[^.\n:]{1,80}?)?"
_VERB = rf"(?:\s+(?:{_any(*(verb for verb in _VERBS if verb[0].isalpha()))})\b:?|\s*[:=])"
_WORD_VERB = rf"\s+{_any(*(verb for verb in _VERBS if verb[0].isalpha()))}\b:?"
_END = rf"{_MARKS}+\s*+(?!{_any(*_NO_ANSWER)}\b)"
_HEADING = rf"{_MARKS}:?{_MARKS}[^\S\n]*\n\s*"
_FINAL = rf"final\s(?:{_any(*_ANSWERS, *_CHOICES)}|result|value)"

_LEAD = re.compile(
    # Nothing before "final answer" is a part of the lead, so that it may stand anywhere.
    rf"\b{_FINAL}(?:{_ABOUT}{_MARKS}{_VERB}{_END}|{_HEADING})"
    rf"|{_LINE}{_SO}(?:{_RANKED}|{_any(*_CHOICES)})(?:{_MARKS}\s*[:=]{_END}|{_HEADING})"
    rf"|{_LINE}{_SO}(?:{_RANKED}){_ABOUT}{_MARKS}{_WORD_VERB}{_END}"
    rf"|(?<![^\s(*_\"'$]){_SO}(?:{_RANKED}){_ABOUT}{_MARKS}{_WORD_VERB}{_END}"
    rf"|{_LINE}{_any(*_FOREIGN)}{_MARKS}\s*[:=]{_MARKS}\s*|{_any(*_FOREIGN_VERBS)}:?\s*"
    rf"|\bI(?:'d|\swould|\swill)?\s{_any(*_PICKS)}\s+(?={_any(*_CHOICES)}?\s?[*_(\"]*(?-i:[A-J])\b)"
    rf"|{_LINE}{_SO}(?:{_RANKED})\s+(?=[*(\[]*(?-i:[A-J])[*)\].]*\s*$)"
    r"|^####\s+(?=[-+$€£]?[\d.][\d.,/]*%?\s*$)",
    re.I | re.M,
)
_BEFORE_FINAL = re.compile(rf"{_SO}(?:(?:the|my|our)\s)?", re.I)
_NO_STATEMENT = re.compile(r"\b(?:if|whether|unless)\s*$", re.I)
# "Option B is correct." has its answer before the words.
_LETTER = re.compile(
    rf"(?<!\w)(?i:{_any(*_CHOICES, *_ANSWERS)}\s)?(?P<letter>\(?[A-J]\)?)\sis\s(?:the\s)?{_any(*_RANKS)}"
    rf"(?:\s{_any(*_ANSWERS, *_CHOICES)})?(?=[.!*]*\s*(?:$|[A-Z]))",
    re.M,
)
_BRACE = re.compile(r"\\(?P<box>boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

CONCLUSION = re.compile(
    rf"{_LINE}(?:{_any(*_CONNECTIVES)}\b[,:]?\s+(?:we\s(?:get|have)\s|this\sis\s)?|)(?:it(?:'s|\sis|\smust\sbe)\s)?",
    re.I,
)
"""Words at the beginning of a line that lead to an answer where a value is all that follows them."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of an answer. All are indices in the text."""

    start: int
    """Where its lead begins."""
    begin: int
    """Where its answer begins."""
    end: int
    """Where its answer ends at the latest."""


def find_statements(text: str) -> list[Statement]:
    """Return the statements in a text, in the order of their answers; linear in the text."""
    plain = fold_in_place(text)
    statements = [
        Statement(match.start(), match.end(), _end(plain, match.end()))
        for match in _LEAD.finditer(plain)
        if not _NO_STATEMENT.search(plain, max(0, match.start() - 12), match.start())
    ]
    statements += [Statement(match.start(), *match.span("letter")) for match in _LETTER.finditer(plain)]
    return sorted(statements + _boxes(plain), key=lambda statement: statement.begin)


def strip_lead(text: str) -> str:
    """Return `text` without the lead words that it begins with."""
    before = _BEFORE_FINAL.match(text)
    match = _LEAD.match(text) or (before and _LEAD.match(text, before.end()))
    return text[match.end() :] if match else text


def _end(text: str, begin: int) -> int:
    """Return the end of the line, or of the displayed mathematics that begins there."""
    for opening, closing in (("$$", "$$"), ("\\[", "\\]")):
        if text.startswith(opening, begin) and (closed := text.find(closing, begin + 2)) >= 0:
            return closed + 2
    line = text.find("\n", begin)
    return line if line >= 0 else len(text)


def _boxes(text: str) -> list[Statement]:
    """Return the boxes whose braces balance; a box in a box counts for itself."""
    open_braces: list[re.Match[str]] = []
    boxes: list[Statement] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{" or match["box"]:
            open_braces.append(match)
        elif match[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening["box"]:
                boxes.append(Statement(opening.start(), opening.end(), match.start()))
    return boxes
