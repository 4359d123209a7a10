"""A run of a recipe: engine, frozen scorer, policy, trainer and weight sync, opened, used by one loop,
closed.

    OUTPUT/recipe.yaml, metrics.jsonl, looks.jsonl, trajectories.jsonl, pictures/, checkpoints/, export/

A run resumes by itself: the content of OUTPUT decides where it continues.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError, MIRLError
from mirl_core.families import find_settings
from mirl_core.tasks.model_files import fingerprint
from mirl_core.training.rl.dev_evaluation import DevEvaluation
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.distributed.torch_thread import in_thread
from mirl_core.training.rl.loop import Loop, RunParts, State, Totals
from mirl_core.training.rl.planners import make_planner
from mirl_core.training.rl.planners.question_source import DataCursor, QuestionSource
from mirl_core.training.rl.recipe.checks import model_folder
from mirl_core.training.rl.recipe.config import RLRecipe
from mirl_core.training.rl.report.console import Board
from mirl_core.training.rl.report.monitor import Monitor
from mirl_core.training.rl.report.pages import TrajectoryLog
from mirl_core.training.rl.rewards import Judge, make_rewards
from mirl_core.training.rl.rewards.mi_scorers import SCORERS, MIScorer, reference_pictures
from mirl_core.training.rl.state.run_folder import (
    CHECKPOINTS,
    EXPORT,
    FINAL,
    METRICS,
    check_origin,
    claimed,
    is_finished,
    lost_checkpoint,
    mark_finished,
)
from mirl_core.training.rl.weight_sync.sampler import opened_sampler
from mirl_core.training.state_files import mark_saved
from mirl_core.training.step_lines import made_again, read_lines

if TYPE_CHECKING:
    from mirl_core.training.rl.model.policy import Policy
    from mirl_core.training.rl.model.trainer import Trainer

__all__ = ["run_blocking", "train"]


def run_blocking(recipe: RLRecipe, max_seconds: float | None = None) -> bool:
    """Train on a terminal; return True when the recipe is done, False when the time is over.

    Raises:
        ConfigError: the recipe doesn't fit this machine or its folder.
        typer.Exit: the run was stopped by a signal (128 + its number), or failed (1); a line on standard
            error gives the reason.
    """
    process_group = ProcessGroup.from_environment()
    _prepare(recipe)
    with Board(recipe.output.name, recipe.steps, quiet=not process_group.first) as board:
        received: list[int] = []
        try:
            finished = asyncio.run(_until_stopped(recipe, process_group, max_seconds, board, received))
        except ConfigError:
            raise
        except MIRLError as error:
            # Ctrl-C reaches the engine's process too, which may end first.
            if not received:
                _say(f"{error.message}; the last good state was kept: run the same command again to continue")
                raise typer.Exit(1) from error
            finished = False
        except (KeyboardInterrupt, asyncio.CancelledError):
            finished = False
            received = received or [signal.SIGINT]
    if received and not finished:
        _say("interrupted; run the same command again to continue")
        # The exit code that a shell reports for a process killed by this signal.
        raise typer.Exit(128 + received[0])
    return finished


async def _until_stopped(
    recipe: RLRecipe,
    process_group: ProcessGroup,
    max_seconds: float | None,
    board: Board,
    received: list[int],
) -> bool:
    """Run `train`; the first SIGTERM or SIGINT ends it after the running update, the second at once."""
    stop = asyncio.Event()
    until = None if max_seconds is None else time.monotonic() + max_seconds
    task = asyncio.ensure_future(train(recipe, process_group, stop, until, board))

    def on(number: int) -> None:
        received.append(number)
        stop.set()
        if len(received) > 1:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on, number)
    finished = await task
    if not finished and process_group.world > 1:
        # A rank that stops because another rank received a signal isn't finished either, and must not exit
        # with 0: Kubernetes never restarts a node that does.
        numbers = await asyncio.to_thread(process_group.gather, received[0] if received else 0)
        if not received and any(numbers):
            received.append(max(numbers))
    return finished


async def train(
    recipe: RLRecipe,
    process_group: ProcessGroup,
    stop: asyncio.Event,
    until: float | None = None,
    board: Board | None = None,
) -> bool:
    """Continue training from the state of the output folder; return True when the recipe is done and
    exported.

    Args:
        stop: when set, the run ends after the running update.
        until: `time.monotonic()` after which no further step begins.

    Raises:
        ConfigError: data, model, folder or a package doesn't fit; raised before anything is sampled.
        TrainingError, EngineError, RequestError: a step failed; the state before it is saved.
    """
    say: Callable[[str], None] = lambda line: None  # noqa: E731
    show: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None  # noqa: E731
    if board is not None:
        say, show = board.say, board.show
    with ExitStack() as folder:
        lost = ""
        if process_group.first:
            lost = lost_checkpoint(recipe, folder.enter_context(claimed(recipe)))
        if is_finished(recipe) and (recipe.output / EXPORT / FINAL).is_dir():
            return True
        if process_group.world == 1:
            _check_checkpoints(recipe, lost)
        async with _opened(recipe, process_group, say, lost) as (parts, state, saved):
            if board is not None:
                board.begin(state.step)
            loop = Loop(recipe, parts, process_group, state, saved, show)
            finished = await loop.run(stop, until)
            if finished:
                await in_thread(parts.thread, lambda: parts.export(FINAL))
        if finished and process_group.first:
            mark_finished(recipe)
        return finished


@asynccontextmanager
async def _opened(
    recipe: RLRecipe, process_group: ProcessGroup, say: Callable[[str], None], lost: str
) -> AsyncIterator[tuple[RunParts, State, int | None]]:
    """Open all parts of the loop, with the engine on the policy's weights; close them at the end.

    Args:
        say: shows a line on what is being done, or on what was found damaged.
        lost: see `checkpoint.load`.
    """
    async with AsyncExitStack() as stack:
        # Errors in data or packages surface before minutes are spent on models.
        source = QuestionSource.open(recipe.data, recipe.seed)
        # No repairs: training teaches the format, and its rows hold sampled tokens alone.
        settings = find_settings(model_folder(recipe)).settings.model_copy(update={"lenient": False})
        if process_group.first:
            origin = {"model": fingerprint(model_folder(recipe)), "data": source.digests}
            check_origin(recipe, origin, say)
        judge = Judge(make_rewards(recipe.rewards.answer, settings.tags))
        needs_references = ESTIMATORS[recipe.rewards.mi.estimator].needs_references
        references = reference_pictures(settings, recipe.data.sets, recipe.seed) if needs_references else ()
        dev_evaluation = DevEvaluation(recipe, settings, process_group)
        thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="trainer"))
        say(f"starting the rollout engine on {recipe.model}")
        sampler = await stack.enter_async_context(opened_sampler(recipe, process_group, thread))
        say("loading the model to train")
        policy, trainer, resumed = await in_thread(thread, lambda: _trainer(recipe, process_group, say, lost))
        state = State() if resumed is None else _state(resumed.step, resumed.cursor, resumed.extra)
        scorer = await _scorer(recipe, sampler.engine, references, policy, stack)

        async def push(version: int) -> None:
            await sampler.push(policy, version)

        if state.step or not sampler.has_start_weights:
            await push(state.step)
        if process_group.first:
            _note_metrics(recipe, state.step, resumed is None, say)
        dev_evaluation.open(state.step)
        stack.callback(dev_evaluation.close)
        monitor, samples = None, None
        if process_group.first:
            monitor = Monitor(recipe.output, recipe.log, state.step, recipe.model_dump(mode="json"))
            samples = TrajectoryLog(recipe.output, state.step)
            stack.callback(monitor.close)
            stack.callback(samples.close)
        parts = RunParts(
            engine=sampler.engine,
            source=source,
            planner=make_planner(sampler.engine, settings, recipe, judge, scorer),
            trainer=trainer,
            push=push,
            save=_saver(recipe, trainer),
            export=_exporter(recipe, policy, process_group),
            dev_evaluation=dev_evaluation,
            monitor=monitor,
            samples=samples,
            thread=thread,
        )
        yield parts, state, None if resumed is None else state.step


def _prepare(recipe: RLRecipe) -> None:
    """Set the environment of this process and the engine's, before torch is loaded."""
    # Log lines of other libraries would break the progress bar.
    quiet = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if recipe.rollout.serial:
        # Sums over several threads are added in a different order each time.
        os.environ["OMP_NUM_THREADS"] = "1"


def _check_checkpoints(recipe: RLRecipe, lost: str) -> None:
    """Raise ConfigError where the run can't go on, before minutes are spent on an engine."""
    folder = recipe.output / CHECKPOINTS
    if lost or folder.exists():
        from mirl_core.training.rl.state import checkpoint

        checkpoint.check(folder, lost)


def _trainer(
    recipe: RLRecipe, process_group: ProcessGroup, say: Callable[[str], None], lost: str
) -> tuple[Policy, Trainer, Any]:
    """Return policy and trainer, continued from the newest checkpoint if there is one."""
    import torch
    from transformers.utils import logging

    from mirl_core.training.rl.distributed.ranks import make_accelerator
    from mirl_core.training.rl.model.policy import Policy
    from mirl_core.training.rl.model.trainer import Trainer
    from mirl_core.training.rl.state import checkpoint

    logging.disable_progress_bar()
    if recipe.rollout.serial:
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(recipe.seed)
    accelerator = make_accelerator()
    if accelerator.num_processes != process_group.world:
        raise ConfigError(
            f"{process_group.world} processes were started, but they don't find each other: "
            f"accelerate counts {accelerator.num_processes}; start them with torchrun or accelerate launch"
        )
    policy = Policy.load(model_folder(recipe), recipe.optimizer, accelerator.device)
    trainer = Trainer(
        policy, recipe.optimizer, recipe.steps, accelerator, max_tokens=recipe.rollout.max_tokens
    )
    return policy, trainer, checkpoint.load(recipe.output / CHECKPOINTS, trainer, say, lost)


def _note_metrics(recipe: RLRecipe, step: int, new: bool, say: Callable[[str], None]) -> None:
    """Say where the metrics don't end at the step at which the run goes on."""
    lines = read_lines(recipe.output / METRICS)
    last = lines[-1]["step"] if lines else 0
    if last > step:
        of = "there is no checkpoint yet" if new else f"the checkpoint is of step {step}"
        say(f"{of}: {made_again(step + 1, last, Path(METRICS))}")
    elif last < step:
        say(
            f"{METRICS} ends at step {last}, and the checkpoint is of step {step}: the lines between are lost"
        )


async def _scorer(
    recipe: RLRecipe, engine: Engine, references: Any, policy: Policy, stack: AsyncExitStack
) -> MIScorer | None:
    """Return the scorer of descriptions, or None where MI is no reward."""
    mi_reward = recipe.rewards.mi
    if recipe.description_reward != "mi":
        return None
    scoring_engine = engine
    if mi_reward.scorer == "frozen":
        from mirl_core.engines.hf.engine import HFEngine

        on_cpu = policy.device.type == "cpu"
        scoring_engine = await HFEngine.start(
            model_folder(recipe), dtype="float32" if on_cpu else "auto", device=str(policy.device)
        )
        stack.push_async_callback(scoring_engine.close)
    return SCORERS[mi_reward.scorer](scoring_engine, mi_reward, references)


def _state(step: int, cursor: Mapping[str, int], extra: Mapping[str, Any]) -> State:
    try:
        return State(step, DataCursor.from_json(cursor), Totals(**extra["totals"]))
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"output: the checkpoint is of another version ({error!r})", param="output"
        ) from error


def _saver(recipe: RLRecipe, trainer: Trainer) -> Callable[[State], None]:
    from mirl_core.training.rl.state import checkpoint

    def save(state: State) -> None:
        try:
            checkpoint.save(
                recipe.output / CHECKPOINTS,
                state.step,
                trainer,
                state.cursor.to_json(),
                {"totals": asdict(state.totals)},
                keep=recipe.checkpoint.keep,
            )
            if trainer.accelerator.is_main_process:
                mark_saved(recipe.output, state.step)
        except OSError as error:
            raise MIRLError(f"the checkpoint can't be written: {error}") from error

    return save


def _exporter(recipe: RLRecipe, policy: Policy, process_group: ProcessGroup) -> Callable[[str], None]:
    def export(name: str) -> None:
        target, partial = (recipe.output / EXPORT / folder for folder in (name, f".{name}.partial"))
        if process_group.first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        policy.export(partial)
        if process_group.first:
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)

    return export


def _say(text: str) -> None:
    typer.echo(f"mirl-train: {text}", err=True)
