"""Answers: taken out of a chain's text, brought to a canonical form, compared.

    extraction.py     a chain's text → reasoning and answer, verbatim
    normalization.py  an answer's text → kind and key; equal keys of a kind are the same answer
    quantities.py     the key of a number with a unit
    structured.py     the key of JSON and tool calls
    mathematics.py    the key of a mathematical expression

Sameness is equality of keys, hence symmetric and transitive: what cluster an answer is in never depends on
which other answers there are, and `voting.decided` relies on that.
"""

from __future__ import annotations

from mirl_core.algorithm.answers.extraction import Extract, extract, locate
from mirl_core.algorithm.answers.normalization import Answer, Kind, clusters, equivalent, group, normalize

__all__ = [
    "Answer",
    "Extract",
    "Kind",
    "clusters",
    "equivalent",
    "extract",
    "group",
    "locate",
    "normalize",
]
