"""What stages of all worlds share: the mean over tokens, and files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mirl_core.training.sft.batches import Tokens
from mirl_core.training.sft.model import ModelForward
from mirl_core.training.sft.stage import part_of, token_loss, total_loss, write_state


class _Scripted(ModelForward):
    """Writes fixed logits, whatever the tokens are."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def speak(
        self, ids: torch.Tensor, pictures: torch.Tensor | None, owner: torch.Tensor | None
    ) -> torch.Tensor:
        return torch.tensor([0.0, 1.0, 2.0]).expand(*ids.shape, 3)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def _nats(token: int) -> float:
    return cross_entropy(torch.tensor([0.0, 1.0, 2.0]), torch.tensor(token)).item()


def test_descriptions_are_weighed_against_reasoning_over_all_chunks() -> None:
    none = torch.tensor([-1])
    chunks = [
        Tokens(torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2]]), none),
        Tokens(torch.tensor([[0, 2, 0]]), torch.tensor([[2, 0]]), none),
    ]
    loss, figures = token_loss(_Scripted(), chunks, None, description_weight=3.0)
    reasoning = _nats(1) + _nats(2)
    assert loss.item() == pytest.approx((3 * _nats(0) + reasoning) / 5)
    assert figures == pytest.approx({"description": _nats(0), "reasoning": reasoning / 2})


def test_the_loss_is_the_sum_of_its_terms() -> None:
    loss, figures = total_loss([torch.tensor(1.5), torch.tensor(2.0)], {"description": 2.0})
    assert loss.item() == 3.5
    assert figures == {"description": 2.0, "loss": 3.5}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.model.vision_model.embeddings.weight", "vision"),
        ("model.model.connector.projection.weight", "connector"),
        ("model.model.text_model.embed_tokens.weight", "text"),
        ("cell_digit.bias", "heads"),
    ],
)
def test_parameters_belong_to_parts(name: str, part: str) -> None:
    assert part_of(name) == part


def test_a_file_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_state(path, {"a": 1})
    with pytest.raises(Exception, match="pickle"):
        write_state(path, {"a": lambda: None})
    assert torch.load(path, weights_only=True) == {"a": 1}
