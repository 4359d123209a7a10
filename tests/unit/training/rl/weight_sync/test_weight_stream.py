"""Weights one at a time are the weights that an export has: names, values, adapters, ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mirl_core.errors import ConfigError
from mirl_core.training.rl.weight_sync.weight_stream import WeightStream
from tests.unit.training.rl.model.policy_cases import make_policy


def exported(policy: Any, folder: Path) -> dict[str, torch.Tensor]:
    """What an export has, less the head, which is the embedding: that is sent once."""
    policy.save_weights(folder, torch.bfloat16)
    weights = load_file(folder / "model.safetensors")
    (embedding,) = [value for name, value in weights.items() if name.endswith("embed_tokens.weight")]
    assert torch.equal(weights.pop("lm_head.weight"), embedding)
    return weights


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 2}}], ids=["whole", "adapters"])
def test_a_stream_is_what_an_export_has(tmp_path: Path, changes: dict[str, Any]) -> None:
    policy = make_policy(tiny=True, **changes)
    with torch.no_grad():
        for value in policy.trained().values():
            value.add_(0.01 * torch.randn_like(value))
    stream = policy.stream(torch.bfloat16)
    sent = dict(stream)
    metadata = stream.metadata()
    assert [(name, value.dtype, tuple(value.shape)) for name, value in sent.items()] == metadata
    wanted = exported(policy, tmp_path)
    assert sent.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(sent[name], value), name
    assert policy.stream().metadata()[0][1] == torch.float32, "the start's own type"


def test_the_start_s_file_names_them(tmp_path: Path) -> None:
    """transformers calls some weights otherwise than their files do."""
    from transformers.core_model_loading import WeightRenaming

    policy = make_policy(tiny=True)
    policy.model._weight_conversions = [WeightRenaming(r"^backbone\.", "model.")]
    names = [name for name, *_ in policy.stream(torch.bfloat16).metadata()]
    assert any(name.startswith("backbone.") for name in names)
    assert not any(name.startswith("model.") for name in names)
    assert set(names) == set(exported(policy, tmp_path))
    assert set(policy.weights_in_file()) >= set(names)


def test_weights_that_a_file_keeps_joined_are_refused() -> None:
    from transformers.core_model_loading import Chunk, WeightConverter

    policy = make_policy(tiny=True)
    policy.model._weight_conversions = [
        WeightConverter(
            source_patterns="self_attn.qkv_proj.weight",
            target_patterns=[f"self_attn.{projection}_proj.weight" for projection in ("q", "k", "v")],
            operations=[Chunk(dim=0)],
        )
    ]
    with pytest.raises(ConfigError, match="folder"):
        policy.stream()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def test_a_pass_is_completed_once() -> None:
    network = Network()
    stream = WeightStream(network, network.model, None, torch.float32)
    read: list[str] = []
    pieces = stream._pieces

    def noted(get: Any) -> Any:
        for name, value in pieces(get):
            read.append(name)
            yield name, value

    stream._pieces = noted  # type: ignore[method-assign]
    names = [f"{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")]
    for _ in range(2):
        under_way = iter(stream)
        next(under_way)
        stream.complete()
        assert read == names, "the rest of the pass that had begun"
        read.clear()
    stream.complete()
    assert read == names, "a whole one, where none had"
