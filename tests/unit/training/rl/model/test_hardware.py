"""Figures of use, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from mirl_core.training.rl.model.hardware import named_peak, peak_flops, utilization


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A10G", None, None),
        ("Tesla T4", None, None),
    ],
)
def test_peak_rates(name: str, half: float | None, single: float | None) -> None:
    assert named_peak(name, "bfloat16") == half
    assert named_peak(name, "float32") == single


def test_no_peak_is_known_for_the_cpu() -> None:
    assert peak_flops(torch.device("cpu"), "float32") is None
    assert utilization(10, 10, 1.0, None) is None


def test_utilization() -> None:
    # 7e9 parameters, 10,000 tokens: 4.2e14 operations; in 2 s on 1e15 FLOP/s that is 21%.
    assert utilization(7_000_000_000, 10_000, 2.0, 1e15) == pytest.approx(0.21)
