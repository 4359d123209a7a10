"""The tokens that decoded descriptions owe to the picture, in words.

A *switch* is a position at which a decoded description takes another token than the model that sees the
picture would write: the contrast with the model that sees none prefers it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from mirl_client.evidence import Description, Evidence, Switch

Tokenize = Callable[[str], Sequence[str]]
"""Splits a text into the texts of its tokens."""

_BREAK = re.compile(r"[,;.:!?\n]")
_CLOSING = "</description>"
"""Ends a description, unless the model's settings have other tags."""


def largest_switches(details: Evidence, tokenize: Tokenize, most: int = 2) -> list[str]:
    """Return sentences about the switches with the largest gain, in descending order of it.

    A switch that several descriptions share is named once, with its largest gain.
    """
    switches = [
        (description, description.decoding.mi_weight, switch)
        for description in details.descriptions
        if description.decoding is not None
        for switch in description.decoding.switches
    ]
    switches.sort(key=lambda entry: -_size(entry[2]))
    sentences: dict[str, str] = {}
    for description, weight, switch in switches:
        difference = _difference(description, switch, tokenize)
        sentences.setdefault(difference, f"λ = {weight:g} {difference} ({_worth(switch)})")
    return list(sentences.values())[:most]


def _difference(description: Description, switch: Switch, tokenize: Tokenize) -> str:
    """Return in words the description's text at a switch, and the model's own text there."""
    tokens, position = tokenize(description.text), switch.position
    # Where the text splits into other tokens than it was decoded with, positions mean nothing.
    known = [token.strip() for token in (*tokens, _CLOSING)[position : position + 1]] == [
        switch.chosen.strip()
    ]
    before = _BREAK.split("".join(tokens[:position]))[-1] if known else ""
    ends_clause = switch.chosen == _CLOSING or _BREAK.search(switch.chosen)
    after = _BREAK.split("".join(tokens[position + 1 :]))[0] if known and not ends_clause else ""
    # How the model alone would go on after its token is unknown.
    unknown = " …" if after.strip() else ""
    chosen, drafted = _act(before, switch.chosen, after), _act(before, switch.drafted, unknown)
    return f"{chosen} where the model alone {drafted}"


def _act(before: str, token: str, after: str) -> str:
    """Return "writes …" with `token` after its clause so far, or "stops" where it ends the description."""
    if token == _CLOSING:
        return f'stops after "{before.strip()}"' if before.strip() else "stops"
    return f'writes "{(before + token + after).strip()}"'


def _worth(switch: Switch) -> str:
    if switch.gain is None:
        return "never without the picture"
    return f"{switch.gain:.1f} nats"


def _size(switch: Switch) -> float:
    return math.inf if switch.gain is None else switch.gain
