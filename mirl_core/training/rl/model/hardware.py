"""Utilisation of the device by a training step."""

from __future__ import annotations

import re

import torch

# Peak dense rates from the vendors' data sheets, without sparsity; FLOP/s: (bfloat16, float32). float32 is
# torch's default, which doesn't use TF32.
PEAK_FLOPS = {
    "B200": (2250e12, 75e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100 NVL": (835e12, 60e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10": (125e12, 31.2e12),
    "RTX 4090": (165e12, 82.6e12),
    "MI300X": (1307e12, 163e12),
}


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Return the peak rate of a device, FLOP/s; None where the device is not in the table.

    Args:
        device: of the model.
        dtype: of the forward pass: `float32` or `bfloat16`.
    """
    return named_peak(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None


def named_peak(name: str, dtype: str) -> float | None:
    """Return the peak rate by the device's name, FLOP/s: the entry whose words all occur in it, the longest
    first; an A10G is no A10."""
    words = set(re.findall(r"\w+", name))
    entries = [entry for entry in PEAK_FLOPS if words.issuperset(entry.split())]
    return PEAK_FLOPS[max(entries, key=len)][dtype != "bfloat16"] if entries else None


def utilization(parameters: int, tokens: int, seconds: float, peak: float | None) -> float | None:
    """Return the model FLOPs utilisation of forward and backward passes, 0 to 1; None where the peak is
    unknown.

    6 · parameters · tokens / (seconds · peak), Chowdhery et al. 2022 ("PaLM", appendix B) without the
    attention term: two operations per parameter forward, four backward. Image encoders, recomputed
    activations and reference passes are not counted, so it is a lower bound.

    Args:
        parameters: of the language model.
        tokens: read by it, without padding.
        seconds: duration of the step.
        peak: FLOP/s.
    """
    return 6 * parameters * tokens / (seconds * peak) if peak and seconds else None
