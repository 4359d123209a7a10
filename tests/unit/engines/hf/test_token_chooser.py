"""Sampling settings do what vLLM's do."""

from __future__ import annotations

import pytest
import torch

from mirl_core.engines.base import Sampling
from mirl_core.engines.hf.token_chooser import TokenChooser

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def drawn(sampling: Sampling, *, banned: tuple[int, ...] = (), prompt: tuple[int, ...] = ()) -> set[int]:
    """Every token drawn in 200 first draws."""
    tokens = set()
    for seed in range(200):
        settings = Sampling(**{name: getattr(sampling, name) for name in sampling.__slots__} | {"seed": seed})
        tokens.add(TokenChooser(settings, prompt, banned, 4).choose(LOGITS))
    return tokens


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(max_tokens=1), {0, 1, 2, 3}),
        (Sampling(max_tokens=1, temperature=0), {0}),
        (Sampling(max_tokens=1, top_k=2), {0, 1}),
        (Sampling(max_tokens=1, top_p=0.6), {0}),
        (Sampling(max_tokens=1, top_p=0.7), {0, 1}),
        (Sampling(max_tokens=1, min_p=0.2), {0, 1}),
        (Sampling(max_tokens=1, temperature=0.05), {0}),
    ],
)
def test_what_can_be_drawn(sampling: Sampling, possible: set[int]) -> None:
    assert drawn(sampling) == possible


def test_banned_tokens_are_never_drawn() -> None:
    assert drawn(Sampling(max_tokens=1), banned=(0, 3)) == {1, 2}


def test_penalties_move_the_greedy_choice() -> None:
    assert drawn(Sampling(max_tokens=1, temperature=0, repetition_penalty=4.0), prompt=(0,)) == {1}
    chooser = TokenChooser(Sampling(max_tokens=9, temperature=0, presence_penalty=1.5), (), (), 4)
    assert [chooser.choose(LOGITS) for _ in range(4)] == [0, 1, 0, 0]
    chooser = TokenChooser(Sampling(max_tokens=9, temperature=0, frequency_penalty=0.8), (), (), 4)
    assert [chooser.choose(LOGITS) for _ in range(5)] == [0, 0, 1, 0, 1]


def test_seeds_repeat_and_logits_stay() -> None:
    logits = LOGITS.clone()
    first, second = [
        [chooser.choose(logits) for _ in range(20)]
        for chooser in (TokenChooser(Sampling(max_tokens=1, seed=3, top_k=3), (), (), 4) for _ in range(2))
    ]
    assert first == second
    assert torch.equal(logits, LOGITS)
