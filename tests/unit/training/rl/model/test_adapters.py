"""Adapters: nothing else is trained, the start stays at hand, and the export needs no peft."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mirl_core.errors import ConfigError
from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.model.trainer import Trainer
from mirl_core.training.rl.recipe.config import OptimizerConfig
from tests.unit.training.rl.model.policy_cases import make_policy, make_rows


def test_only_adapters_of_the_language_model_are_trained() -> None:
    policy = make_policy(tiny=True, lora={"rank": 4}, learning_rate=1e-2)
    trainer = Trainer(policy, policy.settings, 10)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    names = policy.trained()
    # Seven linear layers in each of two blocks, two factors each.
    assert len(names) == 28
    assert all(".text_model.layers." in name and ".lora_" in name for name in names)
    for _ in range(2):
        trainer.step(make_rows())
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, before[name]) is (".lora_" not in name), name


def test_the_start_is_the_reference_without_a_copy() -> None:
    policy = make_policy(tiny=True, lora={"rank": 4}, kl=0.1, learning_rate=1e-2)
    batch = policy.encode(make_rows())
    start = policy.logprobs(batch).detach()
    trained = set(policy.trained())
    Trainer(policy, policy.settings, 10).step(make_rows())
    reference = policy.reference_logprobs(batch)
    assert policy.reference is None
    assert reference is not None
    assert torch.equal(reference, start)
    assert not torch.allclose(policy.logprobs(batch), start, atol=1e-3)
    assert set(policy.trained()) == trained


def test_export_merges_adapters(tmp_path: Path) -> None:
    policy = make_policy(tiny=True, lora={"rank": 4, "alpha": 3.0}, learning_rate=1e-2)
    trainer = Trainer(policy, policy.settings, 10)
    for _ in range(3):
        trainer.step(make_rows())
    policy.export(tmp_path, torch.float32)
    # Read by transformers alone.
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert not any("lora" in name or "base_layer" in name for name in model.state_dict())
    again = Policy(model, AutoProcessor.from_pretrained(tmp_path), OptimizerConfig())
    start = make_policy(tiny=True)
    rows = make_rows()
    with torch.no_grad():
        values = policy.logprobs(policy.encode(rows))
        assert torch.allclose(again.logprobs(again.encode(rows)), values, atol=1e-4)
        assert not torch.allclose(start.logprobs(start.encode(rows)), values, atol=0.05)


def test_named_layers() -> None:
    policy = make_policy(tiny=True, lora={"rank": 2, "targets": ("q_proj",)})
    # One block of the vision tower has a layer of this name, too.
    assert len(policy.trained()) == 6


def test_every_rank_starts_alike() -> None:
    first, second = (make_policy(tiny=True, lora={"rank": 2}).trained() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_frozen_weights_stay_in_half_precision() -> None:
    policy = make_policy(torch.bfloat16, tiny=True, lora={"rank": 2}, dtype="bfloat16")
    kinds = {value.requires_grad: value.dtype for value in policy.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert Trainer(policy, policy.settings, 10).step(make_rows())["grad_norm"] > 0


def test_dropout_within_adapters(caplog: pytest.LogCaptureFixture) -> None:
    policy = make_policy(tiny=True, lora={"rank": 2, "dropout": 0.5})
    assert "dropout" in caplog.text
    training = [name for name, module in policy.model.named_modules() if module.training]
    assert training
    assert all(".lora_dropout." in name for name in training)


@pytest.mark.parametrize("target", ["no_such_layer", "embed_tokens", "lm_head", "self_attn"])
def test_layers_that_cannot_be_adapted_are_refused(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_policy(tiny=True, lora={"targets": (target,)})
    assert caught.value.param == "optimizer.lora.targets"


def test_peft_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="pip install peft"):
        make_policy(tiny=True, lora={})
