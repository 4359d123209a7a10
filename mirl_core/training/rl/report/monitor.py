"""Sinks of a run's figures: metrics.jsonl always, TensorBoard and Weights & Biases where the recipe sets
them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mirl_core.errors import ConfigError
from mirl_core.training.rl.recipe.config import LogConfig
from mirl_core.training.step_lines import Lines, cut_back, read_lines

__all__ = ["Lines", "Monitor", "cut_back", "read_lines"]


class Sink(Protocol):
    """A receiver of a step's figures."""

    def log(self, step: int, values: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files; events of an earlier process after `step` are purged."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if _number(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One W&B run per folder, continued by the id that is kept there."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        marker = folder / "wandb-id"
        identity = marker.read_text().strip() if marker.is_file() else wandb.util.generate_id()
        try:
            self._run = wandb.init(
                project=project, id=identity, resume="allow", dir=str(folder), config=dict(config)
            )
        except Exception as error:
            # Its errors have no common base; after any of them, the run has not begun.
            raise ConfigError(f"log.wandb: {' '.join(str(error).split())}", param="log.wandb") from error
        marker.write_text(identity)
        # W&B refuses to go back in its own step count, which a resumed run does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step} | {name: value for name, value in values.items() if _number(value)})

    def close(self) -> None:
        self._run.finish()


class Monitor:
    """All sinks of a run that continues at `step`.

    Args:
        config: the recipe, for W&B.

    Raises:
        ConfigError: a sink can't be opened.
    """

    def __init__(self, folder: Path, log: LogConfig, step: int, config: Mapping[str, Any]) -> None:
        self._others: list[Sink] = []
        if log.wandb is not None:
            self._others.append(WeightsAndBiases(folder, log.wandb, config))
        if log.tensorboard:
            self._others.append(TensorBoard(folder / "tensorboard", step))
        path = folder / "metrics.jsonl"
        cut_back(path, step)
        self._lines = Lines(path)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one line; call it once per step."""
        for sink in (self._lines, *self._others):
            sink.log(step, values)

    def log_dev_evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a dev evaluation's figures to all sinks but metrics.jsonl: they have a separate file."""
        for sink in self._others:
            sink.log(step, values)

    def close(self) -> None:
        for sink in (self._lines, *self._others):
            sink.close()


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
