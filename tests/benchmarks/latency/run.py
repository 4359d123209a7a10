"""A whole run of the benchmark: model, engine, questions, rates and timed passes, as one JSON document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from mirl_core.algorithm.costs import Rates
from mirl_core.bundled import resolve
from mirl_core.config import ModelSettings
from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from tests.benchmarks.about import COLUMNS, about
from tests.benchmarks.latency.figures import costs, summarise
from tests.benchmarks.latency.measure import Interleaved, Pass, TimedRun
from tests.benchmarks.latency.methods import live_methods
from tests.benchmarks.latency.probe import block_tokens, probe
from tests.benchmarks.latency.real_size.checkpoint import make_checkpoint
from tests.benchmarks.latency.real_size.forced import ForcedLengths, Lengths
from tests.benchmarks.latency.score_stage.profile import profile
from tests.benchmarks.latency.score_stage.timers import EXTENSION

if TYPE_CHECKING:
    from mirl_core.engines.vllm.engine import VLLMEngine

__all__ = ["METHODS", "REAL_SIZE", "RunSettings", "UserRates", "latency_run", "profile_run"]

REAL_SIZE = "real-size"
METHODS = (
    "sc@16,sc@12,sc@8,sc@1,adaptive@16,paper,gate,gate(descriptions=6;keep=2),waves,steered,"
    "steered(ahead=0),triple,fast"
)
REFERENCE = "sc@16"
BATCHES = (1, 4, 16, 64)
"""Batches whose decoding step the probe measures, besides that of 16 votes of all requests in flight."""


@dataclass(frozen=True, slots=True)
class UserRates:
    """Rates that the user gives; None: the probe measures them."""

    prefill: float | None = None
    steps: tuple[tuple[int, float], ...] | None = None
    score: float | None = None

    def complete(self) -> Rates:
        """Return the rates of another engine, without the costs of calls, images and rendering.

        Raises:
            ConfigError: prefill or decode rates are missing.
        """
        if self.prefill is None or self.steps is None:
            raise ConfigError("give --prefill-rate and --decode-rate", param="prefill-rate")
        return Rates(self.prefill, self.steps, self.score or self.prefill)

    def over(self, measured: Rates) -> Rates:
        """Return these rates, and the measured ones where the user gives none."""
        return Rates(
            self.prefill or measured.prefill,
            self.steps or measured.steps,
            self.score or measured.score,
            measured.call,
            measured.image,
            measured.render,
        )


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The command's options."""

    model: str
    data: str
    part: str
    n: int
    together: tuple[int, ...]
    methods: str
    window: int
    seed: int
    warm_up: int
    dtype: str
    kv_cache_gib: float
    lengths: Lengths | None
    cache: Path
    rates: UserRates

    def questions(self) -> tuple[Question, ...]:
        """Return the questions; those of the warm-up come after the timed ones."""
        return open_data(self.data, self.part, self.n + self.warm_up + 1, self.seed).questions

    def folder(self) -> Path:
        """Return the model's folder; the real-size checkpoint is made if it is missing."""
        return make_checkpoint(self.cache) if self.model == REAL_SIZE else Path(resolve(self.model))

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return the facts of the machine, the model and the settings."""
        from vllm.platforms import current_platform

        plain = asdict(self)
        del plain["cache"], plain["rates"]
        name = Path(self.model).name
        names = {"model": name, "device": current_platform.get_device_name()}
        return about(folder, name) | {"run": plain | names}


async def latency_run(
    settings: RunSettings, console: Console, keep: Callable[[dict[str, Any]], None] = lambda result: None
) -> dict[str, Any]:
    """Time all methods; return the result as it goes into the JSON file.

    Args:
        keep: called with the result so far after every number of requests in flight.
    """
    folder = settings.folder()
    model = ModelSettings.load(folder) or ModelSettings()
    methods = live_methods(settings.methods, model, window=settings.window)
    facts = settings.facts(folder)
    questions = settings.questions()
    timed, others = questions[: settings.n], questions[settings.n :] or questions[:1]
    names = [method.name for method in methods]
    reference = REFERENCE if REFERENCE in names else names[0]
    async with _engine(settings, folder, console) as vllm:
        engine: Engine = vllm
        if settings.lengths is not None:
            engine = ForcedLengths(vllm, model.tags, settings.lengths)
        with Progress(*COLUMNS, console=console) as progress:
            total = len(methods) * (settings.warm_up + len(timed) * len(settings.together))
            bar = progress.add_task("requests", total=total)

            def advance(ended: TimedRun) -> None:
                progress.advance(bar)
                if not console.is_terminal:  # a log file has no bar
                    console.print(f"{ended.method}: {ended.run.seconds:.2f} s")

            interleaved = Interleaved(
                engine,
                model,
                methods,
                settings.seed,
                block_tokens(vllm),
                advance,
            )
            await interleaved.warm_up(others[: settings.warm_up])
            batches = {*BATCHES, 16 * max(settings.together)}
            rates = settings.rates.over(await probe(vllm, others[-1], sorted(batches)))
            result: dict[str, Any] = {
                "about": facts,
                "reference": reference,
                "graded": settings.lengths is None,
                "rates": asdict(rates),
                "passes": [],
            }
            for count in settings.together:
                result["passes"].append(_entry(await interleaved.run(timed, count), reference, rates))
                keep(result)
    return result


async def profile_run(settings: RunSettings, console: Console) -> dict[str, Any]:
    """Split the score stage's time; return the result as it goes into the JSON file."""
    folder = settings.folder()
    model = ModelSettings.load(folder) or ModelSettings()
    facts = settings.facts(folder)
    async with _engine(settings, folder, console, worker_extension_cls=EXTENSION) as vllm:
        sampler: Engine = vllm
        if settings.lengths is not None:
            sampler = ForcedLengths(vllm, model.tags, settings.lengths)
        entries = await profile(
            vllm,
            sampler,
            model,
            settings.questions()[: settings.n],
            settings.together,
            descriptions=model.options.descriptions,
            max_tokens=model.options.description_tokens,
        )
    return {"about": facts, "profile": entries}


def _entry(measured: Pass, reference: str, rates: Rates) -> dict[str, Any]:
    return {
        "together": measured.together,
        "methods": summarise(measured, reference),
        "costs": costs(measured, rates),
        "wall": measured.wall,
        "runs": [run.to_json() for run in measured.runs],
    }


@asynccontextmanager
async def _engine(
    settings: RunSettings, folder: Path, console: Console, **more: Any
) -> AsyncIterator[VLLMEngine]:
    """Yield vLLM on the model, with the product's arguments for engines in process."""
    from mirl_core.engines.vllm.arguments import on_cpu
    from mirl_core.engines.vllm.engine import VLLMEngine

    if on_cpu():
        more["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
    with console.status("starting vLLM …"):
        engine = await VLLMEngine.start(str(folder), dtype=settings.dtype, **more)
    try:
        yield engine
    finally:
        await engine.close()
