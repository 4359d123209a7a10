"""One optimiser step after another, the same however rows are spread over ranks and forward passes."""

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
    """What one optimiser step saw on this rank."""

    loss: Tensor
    """(segments,) each segment's share of the loss, float64."""
    diagnostics: Diagnostics | None = None
    tokens_read: int = 0
    grad_norm: float = 0.0


class Trainer:
    """AdamW on a policy.

    An optimiser step depends on all ranks' rows together, not on which rank or forward pass has which (up to
    the order of additions); only where one batch makes several updates, each rank chooses by itself which of
    its rows are in which. No step leaves weights that are not numbers.

    Args:
        policy: on this rank's device; made to run on all ranks.
        settings: the recipe's, as given to the policy.
        total_steps: when the learning-rate schedule ends.
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
        """Steps done; the learning rate follows from it."""
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
        """Of a step, counted from 0: linear warm-up, then constant or a cosine to a tenth."""
        settings = self.settings
        if step < settings.warmup:
            return settings.learning_rate * (step + 1) / settings.warmup
        if settings.schedule == "constant":
            return settings.learning_rate
        done = min(1.0, (step - settings.warmup) / max(1, self.total_steps - settings.warmup))
        return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))

    def step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """Train on one batch of rollouts: `updates` optimiser steps of `accumulate` forward passes each.

        Every rank calls this, with its own rows, also with none. Without a trained token anywhere, weights
        and optimiser stay as they are.

        Returns:
            Metrics of all ranks together: loss by segment, gradient norm, `Diagnostics.metrics`, rows,
            trained tokens, tokens read by the language model; and of this rank: seconds, and on GPUs peak
            memory (GiB) and MFU (`hardware.py`).

        Raises:
            TrainingError: loss or gradient is not finite, or the gradient explodes; the weights are those
                from before the optimiser step that would have taken it.
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
        # With one update the weights before it are the weights in training.
        olds = [self._old(update, rendered) if len(updates) > 1 else None for update in updates]
        figures = [self._update(*one, rendered) for one in zip(updates, olds, strict=True)]
        rate = self.learning_rate(self.step_count)
        self.step_count += 1
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return {
            **self._metrics([one for one in figures if one is not None]),
            "learning_rate": rate,
            **self._usage(rows, figures, time.perf_counter() - begin),
        }

    def state(self) -> dict[str, Any]:
        """Step, trained weights and optimiser state, whole and on the CPU. Every rank calls this; ranks but
        the first may get less."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights = get_model_state_dict(self.policy.network, options=options)
        names = self._every_name()
        return {
            "step": self.step_count,
            # Frozen weights that are tied are not left out by themselves.
            "weights": {name: value for name, value in weights.items() if name in names},
            "optimizer": get_optimizer_state_dict(self.policy.network, self.optimizer, options=options),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave. Every rank calls this; weights are taken from the first.

        Raises:
            ConfigError: the state is of another model or of other trained parameters.
        """
        options = StateDictOptions(
            full_state_dict=True,
            broadcast_from_rank0=self.accelerator.num_processes > 1,
            ignore_frozen_params=True,
            strict=False,
        )
        have = {name: tuple(value.shape) for name, value in self._every_name().items()}
        found = {name: tuple(value.shape) for name, value in state["weights"].items()}
        step, found = from_first((state["step"], found), self.accelerator)
        if have != found:
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

    def _every_name(self) -> dict[str, Tensor]:
        """The trained parameters under all their names: a tied weight has several."""
        parameters = self.policy.network.named_parameters(remove_duplicate=False)
        return {name: value for name, value in parameters if value.requires_grad}

    def _update(
        self,
        passes: Sequence[Sequence[TrainingRow]],
        old: Sequence[Tensor | None] | None,
        rendered: RenderedPrompts,
    ) -> _Figures | None:
        """One optimiser step; None where no rank has a trained token."""
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
        for place, part in enumerate(passes):
            with self._alone() if place + 1 < len(passes) else nullcontext():
                self._pass(part, None if old is None else old[place], normalizers, figures, rendered)
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
        """One forward and backward pass: gradients and figures are added to."""
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
        # Gradients are averaged over ranks, while shares of the loss are to be added.
        loss = normalized_loss(losses.loss, factors) * self.accelerator.num_processes
        self.accelerator.backward(loss)
        shares = losses.loss.detach().sum(dim=1).double() * factors
        places = torch.tensor([SEGMENTS.index(row.segment) for row in rows], device=shares.device)
        figures.loss.index_add_(0, places, shares)
        found = diagnose(losses, new.detach(), batch.mask, rows)
        figures.diagnostics = found if figures.diagnostics is None else figures.diagnostics + found
        figures.tokens_read += batch.tokens_read(self.policy.network.prompts_once)

    @torch.no_grad()
    def _old(self, passes: Sequence[Sequence[TrainingRow]], rendered: RenderedPrompts) -> list[Tensor | None]:
        """Log-probabilities of each pass under the weights as they are; None for a pass that isn't run."""
        filled = [self._filled(part, rendered) for part in passes]
        return [self.policy.logprobs(self.policy.encode(rows, rendered)) if rows else None for rows in filled]

    def _filled(self, part: Sequence[TrainingRow], rendered: RenderedPrompts) -> list[TrainingRow]:
        """The rows of a pass. Several ranks must run the same layers, so that one without an image, or
        without rows, gets a row that has an image and trains nothing."""
        seen = any(rendered[id(row.prompt)].media for row in part)
        idle = [] if seen or self.accelerator.num_processes == 1 else [self.policy.idle_row()]
        return [*part, *idle]

    def _alone(self) -> AbstractContextManager[None]:
        """Don't add up gradients over ranks yet. (FSDP2 always does, or it would keep whole gradients.)"""
        runner = self.policy.runner
        return runner.no_sync() if isinstance(runner, DistributedDataParallel) else nullcontext()

    def _clip(self) -> float:
        """The norm of all gradients together, before they are clipped to `max_grad_norm`."""
        parameters = list(self.policy.trained().values())
        return float(whole(self.accelerator.clip_grad_norm_(parameters, self.settings.max_grad_norm)))

    def _refuse(self, figures: _Figures) -> None:
        """TrainingError, on every rank at once, where the step would ruin the weights."""
        parts = {name: value for name, value in zip(SEGMENTS, figures.loss.tolist(), strict=True) if value}
        bound = self.settings.stop_grad_norm or math.inf
        finite = all(map(math.isfinite, (*parts.values(), figures.grad_norm)))
        if finite and figures.grad_norm <= bound:
            return
        self.optimizer.zero_grad(set_to_none=True)
        what = ", ".join(f"{name} loss {value:.4g}" for name, value in parts.items())
        raise TrainingError(
            f"step {self.step_count}: {what}, gradient norm {figures.grad_norm:.4g}"
            + (f" (above {bound:g})" if finite else "")
            + ": the weights were left as they were; a lower learning rate may help",
            param="optimizer.stop_grad_norm" if finite else None,
        )

    def _metrics(self, figures: Sequence[_Figures]) -> dict[str, float]:
        if not figures:
            return {}
        shares = torch.stack([one.loss for one in figures]).mean(dim=0).tolist()
        parts = {f"loss/{name}": value for name, value in zip(SEGMENTS, shares, strict=True) if value}
        return {
            "loss": sum(shares),
            **parts,
            "grad_norm": sum(one.grad_norm for one in figures) / len(figures),
            **self._diagnostics(figures).metrics(),
        }

    def _diagnostics(self, figures: Sequence[_Figures]) -> Diagnostics:
        device = self.accelerator.device
        total = Diagnostics(torch.zeros(1, device=device), torch.zeros(1, device=device))
        for one in figures:
            if one.diagnostics is not None:
                total = total + one.diagnostics
        return Diagnostics(
            summed(total.sums.double(), self.accelerator), largest(total.maxima.double(), self.accelerator)
        )

    def _usage(
        self, rows: Sequence[TrainingRow], figures: Sequence[_Figures | None], seconds: float
    ) -> dict[str, float]:
        device = self.accelerator.device
        read = sum(one.tokens_read for one in figures if one is not None)
        mine = [len(rows), sum(row.trained_tokens for row in rows), read]
        counts = summed(torch.tensor(mine, device=device, dtype=torch.float64), self.accelerator).tolist()
        usage = dict(zip(("rows", "tokens/trained", "tokens/read"), counts, strict=True))
        usage["seconds/train"] = seconds
        if device.type == "cuda":
            usage["memory/peak"] = torch.cuda.max_memory_allocated() / 2**30
        peak = peak_flops(device, self.settings.dtype)
        mfu = utilization(self._language_parameters, read, seconds, peak)
        return usage if mfu is None else {**usage, "mfu": mfu}
