"""The charts trainer: it resumes bit for bit, learns as its first version did, and writes plain weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirl_core.errors import ConfigError
from mirl_core.training.charts.trainer import ChartsTrainer
from tests.unit.training.charts.charts_cases import copy_tokenizer, small_recipe


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "weights.pt", weights_only=True))


def test_a_stopped_stage_resumes_bit_for_bit(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChartsTrainer, "measure", lambda self: {})
    whole = small_recipe(copy_tokenizer(tmp_path, "whole", tokenizer_folder))
    assert ChartsTrainer(whole).run()
    parts = small_recipe(copy_tokenizer(tmp_path, "parts", tokenizer_folder))
    while not ChartsTrainer(parts).run(max_seconds=0.0):
        pass
    first, second = _weights(whole.output), _weights(parts.output)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    folder = copy_tokenizer(tmp_path, "stage", tokenizer_folder)
    ChartsTrainer(small_recipe(folder)).run(max_seconds=0.0)
    with pytest.raises(ConfigError, match="another recipe"):
        ChartsTrainer(small_recipe(folder, seed=9))


def test_a_stage_needs_the_stage_before_it(tmp_path: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ConfigError, match="finish the stage of that folder first"):
        ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder), init=tmp_path))


@pytest.mark.parametrize(("rates", "still"), [({"text_rate": 0.0}, "text"), ({"vision_rate": 0.0}, "vision")])
def test_a_rate_of_nothing_freezes_a_part(
    tmp_path: Path, tokenizer_folder: Path, rates: dict[str, float], still: str
) -> None:
    trainer = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder), **rates))
    before = {k: v.clone() for k, v in trainer.forward.state_dict().items()}
    trainer.train_step()
    moved = {k for k, v in trainer.forward.state_dict().items() if not torch.equal(v, before[k])}
    sees = {k for k in before if ".vision_model." in k or ".connector." in k}
    assert moved
    assert moved <= (sees if still == "text" else before.keys() - sees)


def test_two_steps_have_the_losses_of_the_first_version(tmp_path: Path, tokenizer_folder: Path) -> None:
    folder = copy_tokenizer(tmp_path, "stage", tokenizer_folder)
    trainer = ChartsTrainer(small_recipe(folder, text_rate=0.5))
    # Recorded on one thread before digits and charts shared their stage; other CPUs round differently.
    assert trainer.train_step() == pytest.approx(
        {
            "value_words": 47.0384407043457,
            "other_words": 52.238853454589844,
            "description": 6.503848951690051,
            "reasoning": 6.791063419725529,
            "loss": 35.50121307373047,
        },
        rel=1e-4,
    )
    assert trainer.train_step() == pytest.approx(
        {
            "value_words": 60.503265380859375,
            "other_words": 58.282066345214844,
            "description": 6.398824964250837,
            "reasoning": 6.32795866862731,
            "loss": 42.41591262817383,
        },
        rel=1e-4,
    )


def test_weights_are_a_plain_state_dict_at_every_measurement(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChartsTrainer, "measure", lambda self: {})
    trainer = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder), dev_every=3))
    assert trainer.run()
    assert sorted(path.name for path in trainer.folder.glob("average-*.pt")) == [
        "average-3.pt",
        "average-4.pt",
    ]
    final = _weights(trainer.folder)
    assert final.keys() == trainer.forward.state_dict().keys()
    last = torch.load(trainer.folder / "average-4.pt", weights_only=True)
    assert all(torch.equal(final[k], last[k]) for k in final)
    following = ChartsTrainer(small_recipe(tmp_path / "next", init=trainer.folder))
    assert all(torch.equal(final[k], v) for k, v in following.forward.state_dict().items())
    assert (following.folder / "tokenizer.json").read_bytes() == (
        trainer.folder / "tokenizer.json"
    ).read_bytes()


def test_a_checkpoint_of_the_first_version_resumes_bit_for_bit(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    whole = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "whole", tokenizer_folder), text_rate=0.5))
    whole.train_step()
    whole.save()
    state = torch.load(whole.folder / "checkpoint.pt", weights_only=True)
    # The first version had one folder in `init`, no `world`, and a factor in each parameter group.
    state["recipe"] = state["recipe"].replace('"init":[]', '"init":null').replace('"world":"charts",', "")
    assert "world" not in state["recipe"]
    for group in state["optimizer"]["param_groups"]:
        group["factor"] = 0.5
    torch.save(state, whole.folder / "checkpoint.pt")
    resumed = ChartsTrainer(whole.recipe)
    assert resumed.step == 1
    assert whole.train_step() == resumed.train_step()
    assert all(torch.equal(whole.average[k], v) for k, v in resumed.average.items())


def test_final_weights_without_their_recipe_are_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    trainer = ChartsTrainer(small_recipe(copy_tokenizer(tmp_path, "stage", tokenizer_folder)))
    trainer.train_step()
    torch.save(trainer.average, trainer.folder / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt has no checkpoint\.pt beside it .* to train anew"):
        ChartsTrainer(trainer.recipe)
    following = small_recipe(copy_tokenizer(tmp_path, "next", tokenizer_folder), init=[trainer.folder])
    averages = ChartsTrainer(following).average
    assert all(torch.equal(trainer.average[k], v) for k, v in averages.items())
