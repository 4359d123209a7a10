"""The command `mirl-eval run`: sample every question once, replay methods on the samples, report.

    OUTPUT/bank/           the samples; nothing is sampled twice, whatever is replayed (`bank/store.py`)
    OUTPUT/live/METHOD/    outcomes of the real pipeline, for methods given as `live`
    OUTPUT/questions/      one line a question: the outcomes of every method
    OUTPUT/summary.json, report.md, plots/
    OUTPUT/questions.html, pictures/   the first questions, to look at (`report/browser`)

The model is loaded only if a question is missing in the first two.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError, MIRLError
from mirl_core.evaluation.bank.fill import fill_live
from mirl_core.evaluation.bank.store import LiveBank
from mirl_core.evaluation.measures.outcomes import Outcomes, as_entry, outcomes_of, write_rows
from mirl_core.evaluation.methods import Method
from mirl_core.evaluation.methods.gated import Gated
from mirl_core.evaluation.methods.replay_bank import replay
from mirl_core.evaluation.methods.sampled import Direct, SelfConsistency
from mirl_core.evaluation.methods.steered import Steered
from mirl_core.evaluation.run.needs import check, temperature_of
from mirl_core.evaluation.run.progress import Bars
from mirl_core.evaluation.run.setup import OpenEngine, RunSettings, RunSetup, missing
from mirl_core.tasks.file_names import file_name
from mirl_core.tasks.questions import DataSet, is_right

__all__ = [
    "command_line",
    "live_options",
    "names",
    "numbers",
    "once",
    "one_line",
    "run",
    "run_blocking",
    "vllm_engine",
]

T = TypeVar("T")
EngineFactory = Callable[[], AbstractAsyncContextManager[Engine]]


async def run(settings: RunSettings, engine_factory: EngineFactory | None = None) -> Path:
    """Do all of `mirl-eval run`, and return the summary's path.

    Args:
        engine_factory: opens the engine when it is first needed; None: vLLM on the run's model.

    Raises:
        ConfigError: settings, data, methods or the output folder don't fit.
        RequestError, EngineError: the engine refused a question, or failed; finished questions stay.
    """
    from mirl_core.evaluation.report import write_report
    from mirl_core.evaluation.report.browser import Browsed, write_browser
    from mirl_core.evaluation.report.browser.pictures import keep_pictures
    from mirl_core.evaluation.report.summary import add_data, new_summary, write_summary

    bars = Bars()
    setup = RunSetup(settings, bars.status)
    methods = setup.methods(settings.methods)
    live = {method.name: method for method in (setup.methods(settings.live) if settings.live else ())}
    lives = {name: (live_options(method, setup), temperature_of(method)) for name, method in live.items()}
    # A live run is compared with its replay, so that runs too.
    methods += tuple(method for name, method in live.items() if name not in {other.name for other in methods})
    check(methods, setup.plan, setup.data)
    with bars:
        async with AsyncExitStack() as stack:
            engine = once(stack, engine_factory or vllm_engine(settings.model), bars)
            await setup.fill(engine, bars)
            lived = {
                name: await _live(setup, name, *conditions, engine, bars)
                for name, conditions in lives.items()
            }
        summary = new_summary(
            setup.facts() | {"methods": {method.name: _options_json(method) for method in methods}}
        )
        browsed = []
        for data in setup.data:
            banked = setup.banked(data)
            with bars.bar(f"{data.name}: replaying", len(banked)) as bar:
                rows = replay(banked, methods, settings.replays, settings.seed, bar.step)
            write_rows(settings.output / "questions" / f"{file_name(data.name)}.jsonl", rows)
            with bars.bar(f"{data.name}: statistics", 1):
                live_outcomes = {
                    name: outcomes for name, by in lived.items() if (outcomes := by.get(data.name))
                }
                add_data(summary, data.name, outcomes_of(rows), live_outcomes, banked, setup.plan.estimators)
            if settings.browse:
                keep_pictures(settings.output, data.name, data.questions[: settings.browse])
                browsed.append(Browsed(data.name, rows, banked))
        if browsed:
            with bars.bar("questions.html", 1):
                write_browser(settings.output, summary, methods, browsed, settings.browse)
    path = write_summary(settings.output, summary)
    write_report(settings.output)
    return path


def run_blocking(settings: RunSettings) -> None:
    """Run `run` for a command line."""
    one_line(run(settings))


def one_line(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; report an engine's error as one line on standard error and exit code 1."""
    try:
        return asyncio.run(_stopped_by_sigterm(work))
    except ConfigError:
        raise
    except MIRLError as error:
        typer.echo(f"mirl-eval: {error.message}; run the same command again to continue", err=True)
        raise typer.Exit(1) from error
    except (KeyboardInterrupt, asyncio.CancelledError) as stopped:
        typer.echo("mirl-eval: interrupted; run the same command again to continue", err=True)
        sent = signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal.SIGTERM
        # The exit code by which a shell reports a process that the signal killed.
        raise typer.Exit(128 + sent) from stopped


async def _stopped_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, cancelled by SIGTERM: sudden death leaves the engine's processes behind."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def vllm_engine(model: Path) -> EngineFactory:
    """Return a factory that opens vLLM on the model, and closes it."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Engine, None]:
        from mirl_core.engines.vllm.throughput import start_engine

        # vLLM's log lines tear the progress bars apart.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        engine = await start_engine(model)
        try:
            yield engine
        finally:
            await engine.close()

    return opened


def live_options(method: Method, setup: RunSetup) -> MIRLOptions:
    """Return the options under which the pipeline does what the method replays.

    Raises:
        ConfigError: the pipeline has no such method; `param` is `live`.
    """
    # Rules that choose λ and oracles are gated methods that no pipeline has.
    if isinstance(method, Gated | Steered) and method.served:
        return method.options.model_copy(update={"fork_image": setup.plan.fork_image})
    plain = setup.model_settings.options.model_copy(
        update={
            "contrast": (),
            "prior_votes": (),
            "gate": "none",
            "forks": 1,
            "distinct": False,
            "fork_image": setup.plan.fork_image,
        }
    )
    if isinstance(method, SelfConsistency):
        changes = {"descriptions": method.count, "early_stop": method.stop, "aggregate": method.aggregate}
        return plain.model_copy(update=changes)
    if isinstance(method, Direct):
        return plain.model_copy(update={"descriptions": 1, "early_stop": False})
    raise ConfigError(
        f"live: the pipeline has no {method.name}; take mirl, presets, gates, sc@K, sc@K+stop or direct",
        param="live",
    )


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Return the numbers in a list with commas; None where there is no list.

    Raises:
        ConfigError: an entry is no number; `param` is `option`.
    """
    if text is None:
        return None
    try:
        return tuple(map(float, names(text)))
    except ValueError as error:
        raise ConfigError(
            f"{option}: {text!r} is no list of numbers with commas, such as 0,0.5,1", param=option
        ) from error


def command_line() -> str:
    """Return the command line without this machine's folders."""

    def short(word: str) -> str:
        return ",".join(Path(part).name if part.startswith(("/", "~")) else part for part in word.split(","))

    return " ".join(["mirl-eval", *(shlex.quote(short(word)) for word in sys.argv[1:])])


async def _live(
    setup: RunSetup,
    name: str,
    options: MIRLOptions,
    temperature: float | None,
    engine: OpenEngine,
    bars: Bars,
) -> dict[str, Outcomes]:
    """Return data set → outcomes of the real pipeline under `options`, running the missing questions.

    `temperature`: of descriptions and chains; None: the bank's.
    """
    settings = setup.settings
    folder = settings.output / "live" / file_name(name)
    store = LiveBank.open(
        folder,
        settings.model,
        setup.model_settings,
        options,
        settings.part,
        settings.seed,
        setup.plan.max_tokens,
    )
    outcomes = {}
    with store:
        for note in store.notes:
            bars.say(f"{name} live: {note}")
        for whole in setup.data:
            data = DataSet(whole.name, whole.part, whole.questions[: settings.live_n])
            current = store.current(data)
            for note in current.notes(data.name):
                bars.say(f"{name} live: {note}")
            if lacking := missing(data, current.records):
                started = await engine()
                with bars.bar(f"{data.name}: {name} live", len(data.questions), missing=lacking) as bar:
                    await fill_live(
                        store,
                        started,
                        setup.model_settings,
                        data,
                        options,
                        settings.seed,
                        setup.references(data) if ESTIMATORS[options.estimator].needs_references else (),
                        progress=bar.at,
                        max_tokens=setup.plan.max_tokens,
                        temperature=temperature or setup.plan.temperature,
                    )
                current = store.current(data)
            entries = [
                as_entry([replace(live_run, right=is_right(q, live_run.answer))], [live_run.seconds])
                for q in data.questions
                for live_run in (current.records[q.key],)
            ]
            outcomes[data.name] = Outcomes.of(
                [question.key for question in data.questions],
                [question.clusters or (question.key,) for question in data.questions],
                entries,
            )
    return outcomes


def once(stack: AsyncExitStack, factory: EngineFactory, bars: Bars) -> OpenEngine:
    """Return a function that opens the engine on its first call and shows that; the stack closes it."""
    opened: list[Engine] = []

    async def engine() -> Engine:
        if not opened:
            with bars.waiting("starting the engine"):
                opened.append(await stack.enter_async_context(factory()))
        return opened[0]

    return engine


def _options_json(method: Method) -> dict[str, Any] | None:
    options = getattr(method, "options", None)
    return options.model_dump(mode="json") if isinstance(options, MIRLOptions) else None
