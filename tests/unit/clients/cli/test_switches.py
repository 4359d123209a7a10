"""Switches in words: the clause around the token, the largest gains first."""

from __future__ import annotations

import re

import pytest

from mirl_client import Switch
from mirl_client.cli.switches import largest_switches
from mirl_core.bundled import CHARTS
from mirl_server.cli.demo.tokens import tokenizer_of
from tests.unit.clients.cli.evidence_cases import STEERED, decoded, evidence_of, switch


def tokenize(text: str) -> list[str]:
    """Split at words with the space before them, and at punctuation."""
    return re.findall(r" ?\w+|[^\w\s]", text)


def sentence(text: str, taken: Switch) -> str:
    details = evidence_of((decoded(0, text, 0.5, 1, taken),), (), 0)
    (only,) = largest_switches(details, tokenize)
    return only


@pytest.mark.parametrize(
    ("text", "taken", "expected"),
    [
        (
            "limes 6, mangos 3",
            switch(4, " 4", " 3", 1.24),
            'λ = 0.5 writes "mangos 3" where the model alone writes "mangos 4" (1.2 nats)',
        ),
        (
            "6 limes, 7 berries, 5 pears",
            switch(3, " 5", " 7", 2.0),
            'λ = 0.5 writes "7 berries" where the model alone writes "5 …" (2.0 nats)',
        ),
        (
            "17 apples",
            switch(0, "limes", "17", 1.5),
            'λ = 0.5 writes "17 apples" where the model alone writes "limes …" (1.5 nats)',
        ),
        (
            "limes 6, pears 2",
            switch(2, "</description>", ",", 0.4),
            'λ = 0.5 writes "limes 6," where the model alone stops after "limes 6" (0.4 nats)',
        ),
        (
            "limes 6",
            switch(2, ",", "</description>", 0.4),
            'λ = 0.5 stops after "limes 6" where the model alone writes "limes 6," (0.4 nats)',
        ),
        (
            "limes 6",
            switch(1, " 5", " 6", None),
            'λ = 0.5 writes "limes 6" where the model alone writes "limes 5" (never without the picture)',
        ),
        # The text has other tokens than the positions count: only the tokens themselves are certain.
        (
            "limes 6, pears 2",
            switch(3, " 4", " 2", 0.4),
            'λ = 0.5 writes "2" where the model alone writes "4" (0.4 nats)',
        ),
        (
            "limes 6",
            switch(9, "</description>", ",", 0.4),
            'λ = 0.5 writes "," where the model alone stops (0.4 nats)',
        ),
    ],
)
def test_a_switch_is_quoted_with_its_clause(text: str, taken: Switch, expected: str) -> None:
    assert sentence(text, taken) == expected


def test_the_largest_gains_come_first_and_infinity_is_the_largest() -> None:
    details = evidence_of(
        (
            decoded(0, "limes 6, pears 2", 0.5, 1, switch(1, " 5", " 6", 0.3), switch(4, " 1", " 2", None)),
            decoded(1, "nuts 9", 1.0, 1, switch(1, " 8", " 9", 0.7)),
        ),
        (),
        0,
    )
    assert [words.split('"')[1] for words in largest_switches(details, tokenize)] == ["pears 2", "nuts 9"]
    assert [words.split('"')[1] for words in largest_switches(details, tokenize, most=3)][2:] == ["limes 6"]


def test_a_switch_of_two_descriptions_is_named_once_with_its_larger_gain() -> None:
    details = evidence_of(
        (
            decoded(0, "limes 6", 0.5, 1, switch(1, " 5", " 6", 0.3)),
            decoded(1, "limes 6", 1.0, 1, switch(1, " 5", " 6", 0.9)),
        ),
        (),
        0,
    )
    assert largest_switches(details, tokenize) == [
        'λ = 1 writes "limes 6" where the model alone writes "limes 5" (0.9 nats)'
    ]


def test_the_bundled_models_tokens_are_those_of_its_switches() -> None:
    split = tokenizer_of(CHARTS)
    assert list(split("17 apples, limes 7")) == ["17", " apples", ",", " limes", " 7"]
    assert largest_switches(STEERED, split) == [
        'λ = 1 writes "limes 4" where the model alone writes "limes 5" (1.2 nats)',
        'λ = 1 writes "apples 13" where the model alone writes "apples 12" (0.5 nats)',
    ]


def test_descriptions_without_switches_say_nothing() -> None:
    assert largest_switches(evidence_of((decoded(0, "limes 6", 1.0, 1),), (), 0), tokenize) == []
