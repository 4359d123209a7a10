"""Answers: taken from a chain's text, normalised, compared; imports `types`, `config` and `engines.base`.

    extraction.py     a chain's text → reasoning and answer, verbatim
    statements.py     the lead words of statements ("the answer is", `\\boxed{…}`), and where a text has them
    forms.py          forms that answers must or may have: JSON, choices, tool calls
    tokens.py         which of a chain's tokens spell its answer
    normalization.py  an answer's text → kind and key; equal keys of a kind are the same answer
    spelling.py       first step: characters in one spelling
    markup.py         second step: no markup and lead words around the answer
    number_words.py   third step: numbers in words as digits
    quantities.py     the key of a number with a unit
    units.py          the key of a unit
    mathematics.py    the key of a mathematical expression
    structured.py     the key of JSON and tool calls

Sameness is equality of keys, hence symmetric and transitive: an answer's cluster never depends on the other
answers, and `voting.decided` relies on that.
"""

from __future__ import annotations

from mirl_core.algorithm.answers.extraction import Extract, extract, locate
from mirl_core.algorithm.answers.normalization import (
    Kind,
    NormalizedAnswer,
    clusters,
    equivalent,
    group,
    normalize,
)

__all__ = [
    "Extract",
    "Kind",
    "NormalizedAnswer",
    "clusters",
    "equivalent",
    "extract",
    "group",
    "locate",
    "normalize",
]
