"""The trainer: the fast forward is transformers' own, and a stopped run resumes bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mirl_core.bundled import DIGITS
from mirl_core.errors import ConfigError
from mirl_core.tasks.worlds import digits
from mirl_core.training.recipe import Recipe
from mirl_core.training.sft import text
from mirl_core.training.sft.batches import draw_batch
from mirl_core.training.sft.model import preprocess
from mirl_core.training.sft.rows import corpus
from mirl_core.training.sft.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _recipe(folder: Path, **changes: object) -> Recipe:
    folder.mkdir(exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        # The trained one, which takes seconds to train: test_text rebuilds it once.
        shutil.copyfile(DIGITS.path / "tokenizer.json", folder / "tokenizer.json")
    base: dict[str, object] = {
        "stage": "joint",
        "steps": 4,
        "output": folder,
        "digits_images": 2,
        "easy_images": 1,
    }
    return Recipe.model_validate(
        {
            **base,
            "text_rows": 2,
            "warmup": 1,
            "connector_steps": 1,
            "auxiliary": 0.1,
            "dev_every": 100,
            **changes,
        }
    )


def _finish(trainer: Trainer, steps: int) -> dict[str, torch.Tensor]:
    while trainer.step < steps:
        trainer.train_step()
    return trainer.average


def test_resuming_is_bit_exact(tmp_path: Path) -> None:
    straight = _finish(Trainer(_recipe(tmp_path / "a")), 4)
    stopped = Trainer(_recipe(tmp_path / "b"))
    _finish(stopped, 2)
    stopped.save()
    resumed = _finish(Trainer(_recipe(tmp_path / "b")), 4)
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_no_time_leaves_a_checkpoint_and_says_unfinished(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(tmp_path))
    assert trainer.run(max_seconds=0.0) is False
    assert trainer.step == 1
    assert (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "weights.pt").exists()


def test_another_recipe_may_not_continue_a_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(tmp_path))
    trainer.save()
    with pytest.raises(ConfigError, match="another recipe"):
        Trainer(_recipe(tmp_path, learning_rate=1e-5))


def test_the_connector_trains_alone_at_first(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(tmp_path, weight_decay=0.0))
    before = {k: v.clone() for k, v in trainer.forward.state_dict().items()}
    trainer.train_step()
    after = trainer.forward.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved
    assert all(".connector." in k for k in moved)


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finish the stage"):
        Trainer(_recipe(tmp_path / "a", init=(tmp_path / "lm",)))


def test_two_steps_have_the_losses_of_the_first_version(tmp_path: Path) -> None:
    text.build_tokenizer(corpus(300), 704).save(str(tmp_path / "tokenizer.json"))
    trainer = Trainer(_recipe(tmp_path, word_weight=0.3, description_weight=1.5))
    # Recorded on one thread before digits and charts shared their stage; other CPUs round differently.
    assert trainer.train_step() == pytest.approx(
        {
            "digit": 2.5783252716064453,
            "colour": 1.1892168521881104,
            "shape": 0.8957372903823853,
            "shape_colour": 2.5070509910583496,
            "digit_word": 16.168418884277344,
            "colour_word": 13.749256134033203,
            "cell_word": 1.5512242317199707,
            "description": 6.664983861586627,
            "reasoning": 6.722079806857639,
            "loss": 16.877683639526367,
        },
        rel=1e-4,
    )
    assert trainer.train_step() == pytest.approx(
        {
            "digit": 2.3054356575012207,
            "colour": 1.3353067636489868,
            "shape": 0.9765575528144836,
            "shape_colour": 2.972073554992676,
            "digit_word": 13.755626678466797,
            "colour_word": 16.75149154663086,
            "cell_word": 1.5240964889526367,
            "description": 6.720204228940218,
            "reasoning": 6.704108860181726,
            "loss": 17.043148040771484,
        },
        rel=1e-4,
    )


def test_final_weights_carry_their_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "measure", lambda self: {})
    trainer = Trainer(_recipe(tmp_path / "a", steps=1))
    assert trainer.run() is True
    saved = torch.load(tmp_path / "a" / "weights.pt", weights_only=True)
    assert saved["stage"] == "joint"
    assert all(torch.equal(saved["weights"][k], v) for k, v in trainer.average.items())
    following = Trainer(_recipe(tmp_path / "b", init=(tmp_path / "a",)))
    assert all(torch.equal(saved["weights"][k], v) for k, v in following.forward.state_dict().items())


@torch.no_grad()
def test_the_training_forward_is_transformers_own(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(tmp_path, digits_images=3, easy_images=0, text_rows=0, rows_per_image=1))
    forward = trainer.forward.eval()
    batch = draw_batch(trainer.recipe, trainer.tokenizer, 0)
    assert batch.pictures is not None
    connected = forward.connect(forward.see(batch.pictures.pixels))
    for tokens in batch.chunks:
        ours = forward.logits(forward.speak(tokens.ids, connected, tokens.owner))
        theirs = forward.model(
            input_ids=tokens.ids,
            attention_mask=torch.ones_like(tokens.ids),
            pixel_values=batch.pictures.pixels[tokens.owner].unsqueeze(1),
            pixel_attention_mask=torch.ones(len(tokens.ids), 1, 64, 64, dtype=torch.bool),
        ).logits
        assert torch.allclose(ours, theirs, atol=2e-4)


def test_preprocessing_is_the_processors_own() -> None:
    from PIL import Image
    from transformers import AutoProcessor

    pixels = digits.render(list(digits.scenes("iid", "dev", 2)))
    processor = AutoProcessor.from_pretrained(DIGITS.path)
    theirs = processor.image_processor([[Image.fromarray(p)] for p in pixels], return_tensors="pt")[
        "pixel_values"
    ]
    assert torch.allclose(preprocess(np.array(pixels)), theirs[:, 0], atol=1e-6)
