"""Seconds and cost of whole requests by method, on one vLLM engine in this process.

    python -m tests.benchmarks.latency --model mirl-charts --n 60 --at 1,4,8
    python -m tests.benchmarks.latency --model real-size --cache FOLDER --n 12 --at 1
    python -m tests.benchmarks.latency --profile-score --model real-size --cache FOLDER --n 8 --at 1,4
    python -m tests.benchmarks.latency --again RESULT.json --prefill-rate 20000 --decode-rate 1:150,16:2000

The last form measures nothing: it predicts the seconds of a stored result's requests on an engine with other
rates.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mirl_core.algorithm.costs import decode_rates
from mirl_core.bundled import DIGITS
from mirl_core.errors import ConfigError
from tests.benchmarks.latency import report, run
from tests.benchmarks.latency.real_size.forced import Lengths
from tests.benchmarks.tables import write

CACHE = Path.home() / ".cache/mirl-benchmarks"


def main(
    model: Annotated[
        str, typer.Option(help="folder, mirl-charts, mirl-tiny, or real-size: 222M random weights")
    ] = "mirl-charts",
    data: Annotated[str, typer.Option(help="data set; empty: the model's world")] = "",
    part: Annotated[str, typer.Option(help="dev or test")] = "test",
    n: Annotated[int, typer.Option(help="questions, for each number of requests in flight")] = 40,
    at: Annotated[str, typer.Option(help="requests in flight, with commas")] = "1",
    arms: Annotated[str, typer.Option(help="methods as mirl-eval names them, with commas")] = run.METHODS,
    window: Annotated[int, typer.Option(help="samples that adaptive@K has side by side")] = 1,
    seed: Annotated[int, typer.Option(help="of the samples and of the methods' order")] = 0,
    warm_up: Annotated[int, typer.Option(help="untimed questions before, with every method")] = 1,
    dtype: Annotated[str, typer.Option(help="of the engine: auto, float32, bfloat16")] = "auto",
    kv_cache_gib: Annotated[float, typer.Option(help="size of a CPU engine's KV cache, GiB")] = 3.0,
    lengths: Annotated[
        str, typer.Option(help="tokens of a description and of a chain, forced; empty: the model's")
    ] = "",
    agreement: Annotated[float, typer.Option(help="share of chains that agree, with forced lengths")] = 0.8,
    switches: Annotated[int, typer.Option(help="switches of a decode, with forced lengths")] = 1,
    cache: Annotated[Path, typer.Option(help="folder for the real-size checkpoint")] = CACHE,
    prefill_rate: Annotated[float, typer.Option(help="tokens/s, for the cost model; 0: measured")] = 0.0,
    decode_rate: Annotated[str, typer.Option(help="tokens/s by batch, such as 1:40,16:400")] = "",
    score_rate: Annotated[float, typer.Option(help="tokens/s of scoring; 0: measured or as prefill")] = 0.0,
    profile_score: Annotated[bool, typer.Option(help="split the score stage's time instead")] = False,
    again: Annotated[Path | None, typer.Option(help="a result to predict with other rates")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file")] = None,
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    """Latency and cost of requests, method by method."""
    # vLLM's log lines tear the progress bar apart.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    console = Console(file=sys.stderr)
    try:
        rates = run.UserRates(
            prefill_rate or None, decode_rates(decode_rate) if decode_rate else None, score_rate or None
        )
        if again is not None:
            print(report.predicted_again(report.read(again), rates.complete()))
            return
        settings = run.RunSettings(
            model=model,
            data=data or ("digits/iid" if model == DIGITS.name else "charts/iid"),
            part=part,
            n=n,
            together=tuple(int(count) for count in at.split(",")),
            methods=arms,
            window=window,
            seed=seed,
            warm_up=warm_up,
            dtype=dtype,
            kv_cache_gib=kv_cache_gib,
            lengths=_lengths(lengths or ("60,120" if model == run.REAL_SIZE else ""), agreement, switches),
            cache=cache,
            rates=rates,
        )
        name = "score-profile" if profile_score else f"latency-{Path(model).name}"
        file = output or Path("/tmp/mirl-benchmarks") / f"{name}.json"

        def keep(result: dict[str, Any]) -> None:
            write(file, result, report.latency_report(result), None, name)

        if profile_score:
            result = asyncio.run(run.profile_run(settings, console))
            text = report.profile_report(result)
        else:
            result = asyncio.run(run.latency_run(settings, console, keep))
            text = report.latency_report(result)
    except (ConfigError, ValueError) as error:
        console.print(f"error: {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    write(file, result, text, document, name)
    print(text)
    console.print(f"written: {file} and {file.with_suffix('.md')}")


def _lengths(text: str, agreement: float, switches: int) -> Lengths | None:
    """Return the forced lengths; None for an empty text."""
    if not text:
        return None
    description, _, chain = text.partition(",")
    return Lengths(int(description), int(chain), agreement, switches)


if __name__ == "__main__":
    typer.run(main)
