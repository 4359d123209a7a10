"""Decoding in plain torch: greedy turns, and their parts."""

from __future__ import annotations

from pathlib import Path

import torch

from mirl_core.training.charts.batches import draw_batch
from mirl_core.training.charts.decode import decode, split_turn
from mirl_core.training.charts.trainer import ChartsTrainer
from mirl_core.training.sft import text
from tests.unit.training.charts.charts_cases import copy_tokenizer, small_recipe


@torch.no_grad()
def test_greedy_decoding_is_the_forwards_own_choice(tmp_path: Path, tokenizer_folder: Path) -> None:
    trainer = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder)))
    tokenizer, forward = trainer.tokenizer, trainer.forward.eval()
    pixels = draw_batch(trainer.recipe, tokenizer, 0).pixels
    assert pixels is not None
    connected = forward.connect(forward.see(pixels))
    prompts = [
        text.render_prompt(q, True) for q in ("What is it?", "What is Monday's total of apples and limes?")
    ]
    wrote = decode(forward, tokenizer, prompts, [1, 0], connected, 0.0, torch.Generator(), limit=6)
    banned = [tokenizer.token_to_id(t) for t in text.SPECIAL_TOKENS if t != text.END]
    for prompt, owner, turn in zip(prompts, (1, 0), wrote, strict=True):
        ids, chosen = tokenizer.encode(prompt).ids, []
        for _ in range(6):
            logits = forward.logits(forward.speak(torch.tensor([ids]), connected, torch.tensor([owner])))[
                0, -1
            ]
            logits[banned] = -torch.inf
            chosen.append(int(logits.argmax()))
            if chosen[-1] == tokenizer.token_to_id(text.END):
                chosen.pop()
                break
            ids = [*ids, chosen[-1]]
        assert turn == tokenizer.decode(chosen, skip_special_tokens=False)


def test_a_turn_is_split_and_what_is_missing_is_empty() -> None:
    whole = "<description>apples 3</description><think>so 3.</think><answer>3</answer>"
    assert split_turn(whole) == ("apples 3", "so 3.", "3")
    assert split_turn("<description>apples 3</description><think>so") == ("apples 3", "", "")
