"""Figures on dev data during training, from 64 scenes of each kind: some seconds per measurement."""

from __future__ import annotations

import functools

import numpy as np
import torch
from tokenizers import Tokenizer

from mirl_core.tasks.worlds.charts import drawing, language, reasoning
from mirl_core.tasks.worlds.charts.scenes import Kind, Scene, scenes
from mirl_core.training.charts.batches import word_targets
from mirl_core.training.charts.decode import decode, split_turn
from mirl_core.training.charts.model import ChartsForward
from mirl_core.training.charts.rows import table_prompt
from mirl_core.training.sft.model import preprocess
from mirl_core.training.sft.text import render_prompt

_SCENES = 64


@functools.lru_cache(maxsize=5)
def _dev(kind: Kind) -> tuple[list[Scene], torch.Tensor]:
    dev_scenes = list(scenes(kind, "dev", _SCENES))
    return dev_scenes, preprocess(drawing.render(dev_scenes))


@torch.no_grad()
def measure(forward: ChartsForward, tokenizer: Tokenizer, sees: bool, speaks: bool) -> dict[str, float]:
    """Return dev figures, shares 0 to 1.

    Args:
        forward: the model.
        tokenizer: its tokenizer.
        sees: measure `values_read`, the values whose word is nearest to its image token; without it, turns
            are about exact written tables instead of pictures.
        speaks: measure turns, greedy and sampled: `chain` (right answers) and `sums` (true equations) after a
            right description, `description` (right ones) and `answer` (right ones) of whole turns.
    """
    out: dict[str, float] = {}
    generator = torch.Generator().manual_seed(5)
    for kind in ("iid", "shifted") if sees else ("iid",):
        dev_scenes, pixels = _dev(kind)
        connected = None
        if sees:
            connected = forward.connect(forward.see(pixels))
            known = torch.arange(forward.model.config.text_config.vocab_size)
            wanted = word_targets(dev_scenes, tokenizer)[:, 1:12:2]
            read = forward.word_logits(connected[:, 1:12:2], known).argmax(-1)
            out[f"dev_{kind}_values_read"] = (read == wanted).float().mean().item()
        if not speaks:
            continue
        rng = np.random.default_rng(99)
        questions = [language.ask(s, rng) for s in dev_scenes]
        truths = [language.Reading(tuple(language.see(s).items())) for s in dev_scenes]
        wanted_answers = [language.imply(q, t) for q, t in zip(questions, truths, strict=True)]
        if sees:
            prompts = [render_prompt(q.text, True) for q in questions]
        else:
            prompts = [
                table_prompt(q.text, t.values, 0.0, rng) for q, t in zip(questions, truths, strict=True)
            ]
        descriptions = [
            language.write_description(language.select(t.values, q, rng), rng)
            for t, q in zip(truths, questions, strict=True)
        ]
        owner = list(range(len(dev_scenes)))
        forced = [f"{p}<description>{d}</description>" for p, d in zip(prompts, descriptions, strict=True)]
        for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            turns = decode(forward, tokenizer, forced, owner, connected, temperature, generator)
            parts = [split_turn(turn) for turn in turns]
            sums = [right for _, chain, _ in parts for _, right in reasoning.equations(chain)]
            rights = [a == w for (_, _, a), w in zip(parts, wanted_answers, strict=True)]
            out[f"dev_{kind}_chain_{name}"] = float(np.mean(rights))
            out[f"dev_{kind}_sums_{name}"] = float(np.mean(sums)) if sums else 0.0
            turns = decode(forward, tokenizer, prompts, owner, connected, temperature, generator)
            parts = [split_turn(turn) for turn in turns]
            seen = [
                language.is_right(language.parse_description(d), s, q)
                for (d, _, _), s, q in zip(parts, dev_scenes, questions, strict=True)
            ]
            rights = [a == w for (_, _, a), w in zip(parts, wanted_answers, strict=True)]
            out[f"dev_{kind}_description_{name}"] = float(np.mean(seen))
            out[f"dev_{kind}_answer_{name}"] = float(np.mean(rights))
    return out
