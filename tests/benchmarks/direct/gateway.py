"""What a gateway costs: before one server, over that server itself, which has MIRL in process too.

    python -m tests.benchmarks.direct.gateway [--rounds 20] [--slot 4] [--concurrency 1,8]

Both are asked the same kinds of questions, gated and `NAME:direct`, by turns: a run of one, a run of the
other, in an order that changes from round to round. Every run has pictures of its own. The ratios are paired
by round. The gateway, the server and the load share this machine's cores, so that the gateway's own work
takes from the engine what it would not take on a machine of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from tests.benchmarks.about import COLUMNS, about, line
from tests.benchmarks.ratios import Ratio, ratio
from tests.helpers.image_requests import image_question
from tests.helpers.servers import MIRL_SERVE, NAME, RunningServer, running, running_gateway

KINDS = {
    "gated": {"model": NAME, "mirl": {"descriptions": 6, "keep": 2, "forks": 2, "description_tokens": 48}},
    "direct": {"model": f"{NAME}:direct"},
}
FIGURES = ("requests/s", "p50")


async def load(
    client: httpx.AsyncClient, url: str, fields: dict[str, Any], seeds: Sequence[int], concurrency: int
) -> dict[str, float]:
    """Ask one question for each seed, `concurrency` at a time; return requests a second and the median, s."""
    waiting = iter(seeds)
    seconds: list[float] = []

    async def work() -> None:
        for seed in waiting:
            body = {**fields, "messages": image_question(seed=seed), "max_tokens": 64, "seed": seed}
            started = time.perf_counter()
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            seconds.append(time.perf_counter() - started)
            answer.raise_for_status()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(work())
    return {
        "requests/s": len(seconds) / (time.perf_counter() - began),
        "p50": float(np.median(seconds)),
    }


async def measure(
    gateway: str, server: str, rounds: int, slot: int, concurrencies: Sequence[int], console: Console
) -> dict[tuple[str, int, str], Ratio]:
    """Return the gateway over the server, by kind, concurrency and figure."""
    seeds: Iterator[int] = itertools.count(1)
    ratios: dict[tuple[str, int, str], Ratio] = {}
    async with httpx.AsyncClient(timeout=600) as client:
        with Progress(*COLUMNS, console=console) as progress:
            for (kind, fields), concurrency in itertools.product(KINDS.items(), concurrencies):
                task = progress.add_task(f"{kind}, {concurrency} at a time", total=(rounds + 1) * 2)
                runs: dict[str, list[dict[str, float]]] = {gateway: [], server: []}
                for number in range(-1, rounds):
                    for url in (gateway, server) if number % 2 else (server, gateway):
                        own = list(itertools.islice(seeds, slot * concurrency))
                        figures = await load(client, url, fields, own, concurrency)
                        if number >= 0:  # the first round warms everything up
                            runs[url].append(figures)
                        progress.advance(task)
                for figure in FIGURES:
                    ours, theirs = ([row[figure] for row in runs[url]] for url in (gateway, server))
                    ratios[kind, concurrency, figure] = ratio(ours, theirs)
    return ratios


def report(facts: dict[str, Any], ratios: dict[tuple[str, int, str], Ratio], rounds: int, slot: int) -> str:
    """Return the table, in Markdown."""
    lines = [f"{line(facts)} {rounds} rounds of {slot} requests for each in flight.", ""]
    lines += ["| requests | at a time | figure | gateway / in process |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {kind} | {concurrency} | {figure} | {of} |" for (kind, concurrency, figure), of in ratios.items()
    ]
    return "\n".join(lines)


def main(
    rounds: Annotated[int, typer.Option(help="rounds of two runs, at least 2", min=2)] = 20,
    slot: Annotated[int, typer.Option(help="requests a run, for each that may be in flight")] = 4,
    concurrency: Annotated[str, typer.Option(help="requests at a time, with commas")] = "1,8",
    server: Annotated[
        str, typer.Option(help="a running mirl-serve --enable-scale-out; else one starts")
    ] = "",
) -> None:
    """Run the benchmark and print its table."""
    console = Console(file=sys.stderr)
    facts = about()
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        if server:
            command = (*MIRL_SERVE, "--engine-url", server)
            gateway: RunningServer = stack.enter_context(running(folders[1], command=command))
            engine = server
        else:
            started = stack.enter_context(running(folders[0], ["--enable-scale-out"]))
            gateway = stack.enter_context(running_gateway(folders[1], started))
            engine = started.url
        levels = [int(level) for level in concurrency.split(",")]
        ratios = asyncio.run(measure(gateway.url, engine, rounds, slot, levels, console))
    print(report(facts, ratios, rounds, slot))


if __name__ == "__main__":
    typer.run(main)
