"""Training of the charts model: rows, batches, a stage that resumes bit for bit, and decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mirl_core.errors import ConfigError
from mirl_core.tasks.worlds.charts import language
from mirl_core.tasks.worlds.charts.scenes import FRUITS
from mirl_core.training.charts import rows
from mirl_core.training.charts.batches import draw_batch
from mirl_core.training.charts.decode import decode, split_turn
from mirl_core.training.charts.recipe import ChartsRecipe, load_charts_recipe
from mirl_core.training.charts.stage import ChartsTrainer
from mirl_core.training.sft import text

RECIPES = Path(__file__).parents[4] / "mirl_core" / "training" / "recipes" / "charts"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _recipe(folder: Path, **changes: object) -> ChartsRecipe:
    base = {"steps": 4, "output": folder, "images": 2, "rows_per_image": 2, "text_rows": 3, "pool": 20}
    return ChartsRecipe.model_validate({**base, "warmup": 1, "dev_every": 100, "word_weight": 0.5, **changes})


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    text.build_tokenizer(rows.corpus(300), 704, digits=2).save(str(folder / "tokenizer.json"))
    return folder


def _folder(tmp_path: Path, name: str, tokenizer_folder: Path) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    return folder


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "weights.pt", weights_only=True))


def test_a_stopped_stage_resumes_bit_for_bit(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChartsTrainer, "measure", lambda self: {})
    whole = _recipe(_folder(tmp_path, "whole", tokenizer_folder))
    assert ChartsTrainer(whole).run()
    parts = _recipe(_folder(tmp_path, "parts", tokenizer_folder))
    while not ChartsTrainer(parts).run(max_seconds=0.0):
        pass
    first, second = _weights(whole.output), _weights(parts.output)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    folder = _folder(tmp_path, "stage", tokenizer_folder)
    ChartsTrainer(_recipe(folder)).run(max_seconds=0.0)
    with pytest.raises(ConfigError, match="another recipe"):
        ChartsTrainer(_recipe(folder, seed=9))


def test_a_stage_needs_the_one_before_it(tmp_path: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ConfigError, match="finish that stage first"):
        ChartsTrainer(_recipe(_folder(tmp_path, "stage", tokenizer_folder), init=tmp_path))


@pytest.mark.parametrize(("rates", "still"), [({"text_rate": 0.0}, "text"), ({"vision_rate": 0.0}, "vision")])
def test_a_rate_of_nothing_freezes_a_part(
    tmp_path: Path, tokenizer_folder: Path, rates: dict[str, float], still: str
) -> None:
    trainer = ChartsTrainer(_recipe(_folder(tmp_path, "stage", tokenizer_folder), **rates))
    before = {k: v.clone() for k, v in trainer.forward.state_dict().items()}
    trainer.train_step()
    moved = {k for k, v in trainer.forward.state_dict().items() if not torch.equal(v, before[k])}
    sees = {k for k in before if ".vision_model." in k or ".connector." in k}
    assert moved
    assert moved <= (sees if still == "text" else before.keys() - sees)


def test_batches_depend_on_recipe_and_step_alone(tmp_path: Path, tokenizer_folder: Path) -> None:
    trainer = ChartsTrainer(_recipe(_folder(tmp_path, "stage", tokenizer_folder)))
    first, again, other = (draw_batch(trainer.recipe, trainer.tokenizer, n) for n in (3, 3, 4))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first.chunks, again.chunks, strict=True))
    assert first.pixels is not None
    assert again.pixels is not None
    assert other.pixels is not None
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)


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


@torch.no_grad()
def test_greedy_decoding_is_the_forwards_own_choice(tmp_path: Path, tokenizer_folder: Path) -> None:
    trainer = ChartsTrainer(_recipe(_folder(tmp_path, "stage", tokenizer_folder)))
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


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid_and_follow_each_other(path: Path) -> None:
    recipe = load_charts_recipe(path)
    others = {load_charts_recipe(p).output for p in RECIPES.glob("*.yaml") if p.stem < path.stem}
    assert recipe.init in others if others else recipe.init is None
