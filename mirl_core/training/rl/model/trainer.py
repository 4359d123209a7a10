"""Optimiser steps, the same however rows are spread over ranks and forward passes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

from mirl_core.errors import ConfigError, TrainingError
from mirl_core.training.rl.distributed.ranks import (
    from_first,
    largest,
    make_accelerator,
    parameter_count,
    summed,
    whole,
)
from mirl_core.training.rl.model.encoding import RenderedPrompts
from mirl_core.training.rl.model.hardware import peak_flops, utilization
from mirl_core.training.rl.model.objective import (
    SEGMENTS,
    Diagnostics,
    Normalizers,
    diagnose,
    normalized_loss,
    token_losses,
)
from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.model.sharding import distribute
from mirl_core.training.rl.model.splitting import split_passes, split_updates
from mirl_core.training.rl.planners.rows import TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig


@dataclass(slots=True)
class _Figures:
    """The metrics of one optimiser step on this rank."""

    loss: Tensor
    """(segments,) each segment's share of the loss, float64."""
    diagnostics: Diagnostics | None = None
    tokens_read: int = 0
    grad_norm: float = 0.0


class Trainer:
    """AdamW on a policy.

    An optimiser step depends on all ranks' rows together, not on their assignment to ranks and forward passes
    (up to the order of additions); only where one batch makes several updates, each rank assigns its own rows
    to the updates. No step leaves weights that are not finite.

    Args:
        policy: on this rank's device; made to run on all ranks.
        settings: the recipe's, the same as the policy's.
        total_steps: the step at which the learning-rate schedule ends.
        accelerator: this process among its ranks; None: `make_accelerator()` for the policy's device.
        max_tokens: longest trajectory, for `normalization: constant`.
    """

    def __init__(
        self,
        policy: Policy,
        settings: OptimizerConfig,
        total_steps: int,
        accelerator: Accelerator | None = None,
        *,
        max_tokens: int = 1,
    ) -> None:
        self.policy = policy
        self.settings = settings
        self.total_steps = total_steps
        self.accelerator = accelerator or make_accelerator(policy.device.type)
        self.step_count = 0
        """Steps done; it determines the learning rate."""
        self._max_tokens = max_tokens
        self._language_parameters = parameter_count(policy.language_model)
        distribute(policy, self.accelerator)
        trained = list(policy.trained().values())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=settings.betas,
            fused=True,
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: linear warm-up, then constant or a cosine to a
        tenth."""
        settings = self.settings
        if step < settings.warmup:
            return settings.learning_rate * (step + 1) / settings.warmup
        if settings.schedule == "constant":
            return settings.learning_rate
        done = min(1.0, (step - settings.warmup) / max(1, self.total_steps - settings.warmup))
        return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))

    def step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """Train on one batch of rollouts: `updates` optimiser steps of `accumulate` forward passes each.

        Every rank calls this with its own rows, even if it has none. If no rank has a trained token, weights
        and optimiser stay unchanged.

        Returns:
            Metrics of all ranks together: loss by segment, gradient norm, `Diagnostics.metrics`, rows,
            trained tokens, tokens read by the language model; and of this rank: seconds, and on GPUs peak
            memory (GiB) and MFU (`hardware.py`).

        Raises:
            TrainingError: loss or gradient is not finite, or the gradient norm is above its bound; the
                weights are those before the optimiser step that failed.
            ValueError: a completion holds a media placeholder.
            MIRLError: a prompt can't be rendered.
        """
        begin = time.perf_counter()
        if self.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rendered: RenderedPrompts = {}
        self.policy.render(rows, rendered)
        updates = [
            split_passes(
                part,
                self.settings.accumulate,
                lambda row: len(rendered[id(row.prompt)]),
                self.policy.network.prompts_once,
            )
            for part in split_updates(rows, self.settings.updates)
        ]
        # With one update, the weights before the update are the weights in training.
        olds = [self._old(update, rendered) if len(updates) > 1 else None for update in updates]
        figures = [self._update(passes, old, rendered) for passes, old in zip(updates, olds, strict=True)]
        rate = self.learning_rate(self.step_count)
        self.step_count += 1
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return {
            **self._metrics([update for update in figures if update is not None]),
            "learning_rate": rate,
            **self._usage(rows, figures, time.perf_counter() - begin),
        }

    def state(self) -> dict[str, Any]:
        """Return step, trained weights and optimiser state, whole and on the CPU. Every rank calls this;
        ranks but the first may get less."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights = get_model_state_dict(self.policy.network, options=options)
        names = self._trained_by_all_names()
        return {
            "step": self.step_count,
            # torch does not leave out frozen weights that are tied.
            "weights": {name: value for name, value in weights.items() if name in names},
            "optimizer": get_optimizer_state_dict(self.policy.network, self.optimizer, options=options),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`. Every rank calls this; the first rank's weights are used.

        Raises:
            ConfigError: the state is of another model or of other trained parameters.
        """
        options = StateDictOptions(
            full_state_dict=True,
            broadcast_from_rank0=self.accelerator.num_processes > 1,
            ignore_frozen_params=True,
            strict=False,
        )
        own_shapes = {name: tuple(value.shape) for name, value in self._trained_by_all_names().items()}
        saved_shapes = {name: tuple(value.shape) for name, value in state["weights"].items()}
        step, saved_shapes = from_first((state["step"], saved_shapes), self.accelerator)
        if own_shapes != saved_shapes:
            raise ConfigError(
                "the checkpoint is of another model, or trains other parameters: use the recipe it was made "
                "with, or another output folder",
                param="output",
            )
        self.optimizer.zero_grad(set_to_none=True)
        set_model_state_dict(self.policy.network, dict(state["weights"]), options=options)
        set_optimizer_state_dict(
            self.policy.network, self.optimizer, optim_state_dict=dict(state["optimizer"]), options=options
        )
        self.step_count = step

    def _trained_by_all_names(self) -> dict[str, Tensor]:
        """Return the trained parameters under all their names: a tied weight has several."""
        parameters = self.policy.network.named_parameters(remove_duplicate=False)
        return {name: value for name, value in parameters if value.requires_grad}

    def _update(
        self,
        passes: Sequence[Sequence[TrainingRow]],
        old: Sequence[Tensor | None] | None,
        rendered: RenderedPrompts,
    ) -> _Figures | None:
        """Make one optimiser step; return None where no rank has a trained token."""
        counts = torch.tensor(
            Normalizers.of(row for part in passes for row in part).counts,
            device=self.accelerator.device,
            dtype=torch.float64,
        )
        normalizers = Normalizers.from_counts(summed(counts, self.accelerator).tolist())
        if not sum(normalizers.tokens):
            return None
        self.optimizer.zero_grad(set_to_none=True)
        figures = _Figures(torch.zeros(len(SEGMENTS), device=self.accelerator.device, dtype=torch.float64))
        for index, part in enumerate(passes):
            with self._without_reduction() if index + 1 < len(passes) else nullcontext():
                self._pass(part, None if old is None else old[index], normalizers, figures, rendered)
        figures.loss = summed(figures.loss, self.accelerator)
        figures.grad_norm = self._clip()
        self._refuse(figures)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step_count)
        self.optimizer.step()
        return figures

    def _pass(
        self,
        part: Sequence[TrainingRow],
        old: Tensor | None,
        normalizers: Normalizers,
        figures: _Figures,
        rendered: RenderedPrompts,
    ) -> None:
        """Run one forward and backward pass; add to gradients and figures."""
        rows = self._filled(part, rendered)
        if not rows:
            return
        batch = self.policy.encode(rows, rendered)
        new = self.policy.logprobs(batch)
        losses = token_losses(
            new,
            new.detach() if old is None else old,
            batch.sampler,
            self.policy.reference_logprobs(batch),
            batch.advantages,
            batch.mask,
            self.settings,
        )
        factors = new.new_tensor(normalizers.factors(rows, self.settings, self._max_tokens))
        # Gradients are averaged over ranks, but shares of the loss must be summed.
        loss = normalized_loss(losses.loss, factors) * self.accelerator.num_processes
        self.accelerator.backward(loss)
        shares = losses.loss.detach().sum(dim=1).double() * factors
        segments = torch.tensor([SEGMENTS.index(row.segment) for row in rows], device=shares.device)
        figures.loss.index_add_(0, segments, shares)
        diagnostics = diagnose(losses, new.detach(), batch.mask, rows)
        figures.diagnostics = (
            diagnostics if figures.diagnostics is None else figures.diagnostics + diagnostics
        )
        figures.tokens_read += batch.tokens_read(self.policy.network.prompts_once)

    @torch.no_grad()
    def _old(self, passes: Sequence[Sequence[TrainingRow]], rendered: RenderedPrompts) -> list[Tensor | None]:
        """Return each pass's log-probabilities under the current weights; None for a pass that isn't run."""
        filled = [self._filled(part, rendered) for part in passes]
        return [self.policy.logprobs(self.policy.encode(rows, rendered)) if rows else None for rows in filled]

    def _filled(self, part: Sequence[TrainingRow], rendered: RenderedPrompts) -> list[TrainingRow]:
        """Return the rows of a pass, with an idle row where it is needed.

        Several ranks must run the same layers, so a pass without an image, or without rows, gets a row with
        an image that trains nothing.
        """
        has_image = any(rendered[id(row.prompt)].media for row in part)
        idle = [] if has_image or self.accelerator.num_processes == 1 else [self.policy.idle_row()]
        return [*part, *idle]

    def _without_reduction(self) -> AbstractContextManager[None]:
        """Defer the sum of gradients over ranks. (FSDP2 always sums, or it would keep whole gradients.)"""
        runner = self.policy.runner
        return runner.no_sync() if isinstance(runner, DistributedDataParallel) else nullcontext()

    def _clip(self) -> float:
        """Clip the gradients to `max_grad_norm`; return their norm before clipping."""
        parameters = list(self.policy.trained().values())
        return float(whole(self.accelerator.clip_grad_norm_(parameters, self.settings.max_grad_norm)))

    def _refuse(self, figures: _Figures) -> None:
        """Raise TrainingError, on every rank at once, where the step would ruin the weights."""
        parts = {name: value for name, value in zip(SEGMENTS, figures.loss.tolist(), strict=True) if value}
        bound = self.settings.stop_grad_norm or math.inf
        finite = all(map(math.isfinite, (*parts.values(), figures.grad_norm)))
        if finite and figures.grad_norm <= bound:
            return
        self.optimizer.zero_grad(set_to_none=True)
        losses = ", ".join(f"{name} loss {value:.4g}" for name, value in parts.items())
        raise TrainingError(
            f"step {self.step_count}: {losses}, gradient norm {figures.grad_norm:.4g}"
            + (f" (above {bound:g})" if finite else "")
            + ": the weights were left as they were; a lower learning rate may help",
            param="optimizer.stop_grad_norm" if finite else None,
        )

    def _metrics(self, figures: Sequence[_Figures]) -> dict[str, float]:
        if not figures:
            return {}
        shares = torch.stack([update.loss for update in figures]).mean(dim=0).tolist()
        parts = {f"loss/{name}": value for name, value in zip(SEGMENTS, shares, strict=True) if value}
        return {
            "loss": sum(shares),
            **parts,
            "grad_norm": sum(update.grad_norm for update in figures) / len(figures),
            **self._diagnostics(figures).metrics(),
        }

    def _diagnostics(self, figures: Sequence[_Figures]) -> Diagnostics:
        device = self.accelerator.device
        total = Diagnostics(torch.zeros(1, device=device), torch.zeros(1, device=device))
        for update in figures:
            if update.diagnostics is not None:
                total = total + update.diagnostics
        return Diagnostics(
            summed(total.sums.double(), self.accelerator), largest(total.maxima.double(), self.accelerator)
        )

    def _usage(
        self, rows: Sequence[TrainingRow], figures: Sequence[_Figures | None], seconds: float
    ) -> dict[str, float]:
        device = self.accelerator.device
        read = sum(update.tokens_read for update in figures if update is not None)
        own_counts = [len(rows), sum(row.trained_tokens for row in rows), read]
        counts = summed(
            torch.tensor(own_counts, device=device, dtype=torch.float64), self.accelerator
        ).tolist()
        usage = dict(zip(("rows", "tokens/trained", "tokens/read"), counts, strict=True))
        usage["seconds/train"] = seconds
        if device.type == "cuda":
            usage["memory/peak"] = torch.cuda.max_memory_allocated() / 2**30
        peak = peak_flops(device, self.settings.dtype)
        mfu = utilization(self._language_parameters, read, seconds, peak)
        return usage if mfu is None else {**usage, "mfu": mfu}
