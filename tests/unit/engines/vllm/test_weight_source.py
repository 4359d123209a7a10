"""Weights as vLLM's source of weights, in the shape of either version."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
import torch
import vllm.distributed.weight_transfer as transfer

from mirl_core.engines.vllm import weight_transfer
from tests.unit.engines.vllm.vllm_source import source

WEIGHTS = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}
POINTERS = {name: value.data_ptr() for name, value in WEIGHTS.items()}


class Stream:
    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        return [(name, value.dtype, tuple(value.shape)) for name, value in WEIGHTS.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(WEIGHTS.items())


def base() -> Any:
    """Return the module of the version under test that defines `WeightSource`."""
    spec = spec_from_file_location("weights_base", source() / "distributed" / "weight_transfer" / "base.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(monkeypatch: pytest.MonkeyPatch, kind: Any, meta: Any) -> list[str]:
    """Return in what a source of this kind fails to give the weights, again and again."""
    monkeypatch.setattr(transfer, "WeightSource", kind)
    monkeypatch.setattr(transfer, "ParamMeta", meta)
    made = weight_transfer._source(Stream())
    new = hasattr(kind, "iter_full")
    metadata = made.metadata if new else made.metadata()
    wrong = []
    if [(entry.name, entry.dtype, entry.shape) for entry in metadata] != Stream().metadata():
        wrong.append(f"metadata: {metadata}")
    for number in range(2):
        passed = dict(made.iter_full() if new else made)
        if {name: value.data_ptr() for name, value in passed.items()} != POINTERS:
            wrong.append(f"weights, pass {number}: {passed}")
    return wrong


def test_vllms_own_class_takes_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module = base()
    assert faults(monkeypatch, module.WeightSource, module.ParamMeta) == []


def test_the_shape_of_the_next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        """As vLLM 0.33's: metadata must be a cached property, and iteration is a method."""

        def __init_subclass__(cls) -> None:
            assert isinstance(cls.__dict__["metadata"], cached_property)

        def iter_full(self) -> Iterator[Any]:
            raise NotImplementedError

    assert faults(monkeypatch, Source, transfer.ParamMeta) == []
