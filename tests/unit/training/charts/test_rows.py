"""Rows of the charts world: corrupted descriptions, written tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirl_core.tasks.worlds.charts import language
from mirl_core.tasks.worlds.charts.scenes import FRUITS
from mirl_core.training.charts import rows
from mirl_core.training.charts.decode import split_turn
from mirl_core.training.sft import text


def test_corrupted_descriptions_are_not_learned_and_reasoning_follows_them() -> None:
    rng = np.random.default_rng(2)
    scene = rows.training_scene("iid", 1)
    for _ in range(30):
        row = rows.picture_row(scene, rng, 0, corrupted=True, describe_only=False)
        assert not row.learn_description
        said = language.parse_description(split_turn(row.description)[0])
        assert said is not None
        _, chain, answer = split_turn(row.rest)
        assert all(f"{FRUITS[f]} {v}" in chain for f, v in said.items if FRUITS[f] in chain)
        assert answer.isdigit()


def test_tables_have_a_word_for_every_image_token(tokenizer_folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    values = {0: 14, 3: 6, 5: 20}
    words = rows.table_words(values)
    assert words[:4] == [" apples", " 14", " oranges", " no"]
    assert len(words) == text.IMAGE_TOKENS
    assert all(len(tokenizer.encode(w).ids) == 1 for w in words)
    assert len(tokenizer.encode("".join(words)).ids) == text.IMAGE_TOKENS


def test_rough_tables_are_rough_in_the_stated_share() -> None:
    values = dict.fromkeys(range(6), 10)
    rng = np.random.default_rng(0)
    entries = [w for _ in range(500) for w in rows.rough_table(values, 0.4, rng).split()[1:12:2]]
    assert 0.37 < np.mean([w != "10" for w in entries]) < 0.43
    assert {w for w in entries if w != "10"} == {"8", "9", "11", "12", "some"}
    assert rows.rough_table(values, 0.0, rng) == "".join(rows.table_words(values))
