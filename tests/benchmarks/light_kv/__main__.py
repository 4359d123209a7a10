"""Lighter KV cache and smaller pictures against full precision and size, on a bundled model and real vLLM.

    python -m tests.benchmarks.light_kv --model mirl-charts --n 60

`--engine transformers` rounds keys and values instead, where vLLM's backend has no such cache.

Every arm answers the same dev questions under the model's own options, with the same seeds, and measures the
MI of the same descriptions, which the first arm sampled. One request is in flight at a time, so that the peak
of used KV blocks is the request's own. A run that was interrupted continues where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from mirl_core.bundled import DIGITS, resolve
from mirl_core.config import ModelSettings
from mirl_core.errors import ConfigError, MIRLError
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from tests.benchmarks.about import about, line
from tests.benchmarks.light_kv.arms import REFERENCE, Arm, named_arms
from tests.benchmarks.light_kv.engines import Opened, on_transformers, on_vllm
from tests.benchmarks.light_kv.figures import compare, table
from tests.benchmarks.light_kv.measure import Measured, measure, sample_descriptions
from tests.benchmarks.tables import write


def main(
    model: Annotated[str, typer.Option(help="mirl-charts, mirl-tiny, or a folder")] = "mirl-charts",
    data: Annotated[str, typer.Option(help="data set; empty: the model's world")] = "",
    part: Annotated[str, typer.Option(help="dev or test")] = "dev",
    n: Annotated[int, typer.Option(min=2, help="questions")] = 60,
    skip: Annotated[int, typer.Option(min=0, help="questions left out before them")] = 0,
    arms: Annotated[str, typer.Option(help="with commas")] = "full,again,side48,side32,processor32,fp8",
    engine: Annotated[Literal["vllm", "transformers"], typer.Option(help="what runs the model")] = "vllm",
    seed: Annotated[int, typer.Option(help="of questions and samples")] = 0,
    kv_cache_mib: Annotated[int, typer.Option(min=1, help="size of the KV cache, MiB")] = 64,
    output: Annotated[Path | None, typer.Option(help="JSON file")] = None,
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    """Compare arms with full precision and size."""

    def started(kv_cache_dtype: str) -> AbstractAsyncContextManager[Opened]:
        if engine == "vllm":
            return on_vllm(folder, kv_cache_dtype, kv_cache_mib * 2**20)
        return on_transformers(folder, kv_cache_dtype)

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    console = Console(file=sys.stderr)
    name = f"light-kv-{Path(model).name}" + ("" if engine == "vllm" else f"-{engine}")
    file = output or Path("/tmp/mirl-benchmarks") / f"{name}.json"
    try:
        chosen = named_arms(f"{REFERENCE},{arms}")
        questions = open_data(
            data or ("digits/iid" if model == DIGITS.name else "charts/iid"), part, n, seed, skip=skip
        ).questions
        folder = Path(resolve(model))
        run = {"model": Path(model).name, "engine": engine, "n": n, "part": part, "seed": seed, "skip": skip}
        result = _stored(file, run)
        result["about"] = about(folder, Path(model).name)
        asyncio.run(_run(result, started, folder, chosen, questions, seed, file, console))
    except ConfigError as error:
        console.print(f"error: {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    text = _report(result)
    write(file, result, text, document, name)
    print(text)


async def _run(
    result: dict[str, Any],
    started: Callable[[str], AbstractAsyncContextManager[Opened]],
    folder: Path,
    arms: tuple[Arm, ...],
    questions: tuple[Question, ...],
    seed: int,
    file: Path,
    console: Console,
) -> None:
    settings = ModelSettings.load(folder) or ModelSettings()
    missing = [arm for arm in arms if arm.name not in result["arms"]]
    for kv_cache_dtype, group in groupby(missing, key=lambda arm: arm.kv_cache_dtype):
        of_engine = list(group)
        console.print(f"starting an engine with kv_cache_dtype={kv_cache_dtype}")
        try:
            async with started(kv_cache_dtype) as engine:
                if not result["descriptions"]:
                    result["block_tokens"] = engine.block_tokens
                    for question in questions:
                        result["descriptions"][question.key] = await sample_descriptions(
                            engine, settings, question, seed
                        )
                for arm in of_engine:
                    await _arm(result, engine, arm, settings, questions, seed, console)
                    write(file, result, _report(result), None, "light-kv")
        except (MIRLError, ValueError, RuntimeError) as error:
            # The type of the cache is refused: a result too.
            for arm in of_engine:
                if arm.name not in result["arms"]:
                    result["arms"][arm.name] = {"refused": " ".join(str(error).split())[:200]}


async def _arm(
    result: dict[str, Any],
    engine: Opened,
    arm: Arm,
    settings: ModelSettings,
    questions: tuple[Question, ...],
    seed: int,
    console: Console,
) -> None:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % 10 == 0:
            console.print(f"{arm.name}: {done} of {len(questions)}")

    descriptions = {key: [tuple(ids) for ids in each] for key, each in result["descriptions"].items()}
    try:
        runs = await measure(engine, arm, settings, questions, descriptions, seed, advance)
    except MIRLError as error:
        result["arms"][arm.name] = {"refused": " ".join(str(error).split())[:200]}
        return
    reference = (
        runs
        if arm.name == REFERENCE
        else {key: Measured.from_json(entry) for key, entry in result["arms"][REFERENCE]["runs"].items()}
    )
    result["arms"][arm.name] = {
        "bytes_per_token": engine.bytes_per_token,
        "figures": compare(questions, runs, reference, settings.options.keep),
        "runs": {key: run.to_json() for key, run in runs.items()},
    }


def _stored(file: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Return the result so far of the same run, or an empty one.

    Raises:
        ConfigError: the file holds another run.
    """
    if not file.exists():
        return {"run": run, "reference": REFERENCE, "block_tokens": None, "descriptions": {}, "arms": {}}
    result: dict[str, Any] = json.loads(file.read_text())
    if result.get("run") != run:
        raise ConfigError(f"output: {file} holds another run; name another file", param="output")
    return result


def _report(result: dict[str, Any]) -> str:
    blocks = f" Blocks of {result['block_tokens']} tokens." if result["block_tokens"] else ""
    return f"{line(result['about'])}{blocks}\n\n{table(result)}"


if __name__ == "__main__":
    typer.run(main)
