"""Reads the `mirl` object of an answer into typed values. Needs no part of the server.

>>> response = client.chat.completions.create(...)      # the openai package, or plain JSON
>>> evidence(response).best.text
"""

from __future__ import annotations

from mirl_client.evidence import Budget, Chain, Description, Evidence, Representative, Stage, Vote, evidence

__all__ = ["Budget", "Chain", "Description", "Evidence", "Representative", "Stage", "Vote", "evidence"]
