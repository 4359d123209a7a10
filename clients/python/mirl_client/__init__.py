"""Typed values of the `mirl` object in a response; imports nothing of the server or of `mirl_core`.

>>> response = client.chat.completions.create(...)      # the openai package, or plain JSON
>>> evidence(response).best.text
"""

from __future__ import annotations

from mirl_client.evidence import (
    Budget,
    Chain,
    Decoding,
    Description,
    Evidence,
    Representative,
    Stage,
    Switch,
    Vote,
    evidence,
)

__all__ = [
    "Budget",
    "Chain",
    "Decoding",
    "Description",
    "Evidence",
    "Representative",
    "Stage",
    "Switch",
    "Vote",
    "evidence",
]
