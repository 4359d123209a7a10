"""The gate against what one would do without it, over HTTP on this machine, on the same questions.

    python -m tests.benchmarks.peers.environments --install /tmp/mirl-peers  # else the peers are left out
    python -m tests.benchmarks.peers.rivals --n 100 --peer-n 40

Arms: `mirl-serve` with the gate; `NAME:direct` of the same server, and vLLM's own server without MIRL, with
`n=16` and `n=12` and a vote on the client; optillm and its_hub in front of vLLM's own server. Every question
goes to all arms one after the other, in an order that turns from question to question, so that the machine's
noise and what is cached is shared. Under load the arms take turns block by block.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from mirl_core.errors import ConfigError
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from tests.benchmarks.about import COLUMNS, about, line
from tests.benchmarks.arms import GATED, Arm, Gated, Reply, Voting, chat
from tests.benchmarks.peers import environments
from tests.benchmarks.tables import HEAD, Pass, markdown, rows, summarise, turns, write
from tests.helpers.servers import NAME, running

WARM_UP = 3
Messages = list[dict[str, Any]]


class Benchmark:
    """The arms, and the bar that shows how far they are."""

    def __init__(self, arms: Sequence[Arm], peer_n: int, progress: Progress) -> None:
        self._arms = {arm.name: arm for arm in arms}
        self._peer_n = peer_n
        self._progress = progress

    def requests(self, n: int) -> int:
        """How many requests one pass over `n` questions is."""
        return sum(min(n, self._peer_n) if arm.slow else n for arm in self._arms.values())

    async def run(self, data: str, questions: Sequence[Question], concurrency: int) -> Pass:
        """Ask everybody everything, `concurrency` requests of one arm at a time."""
        task = self._progress.add_task(
            f"{data}, {concurrency} at a time", total=self.requests(len(questions))
        )
        answers: dict[str, dict[str, Reply]] = defaultdict(dict)
        wall: dict[str, float] = defaultdict(float)
        size = 1 if concurrency == 1 else 3 * concurrency
        blocks = [questions[start : start + size] for start in range(0, len(questions), size)]
        for number, block in enumerate(blocks):
            conversations = [chat(question) for question in block]
            for name in turns(list(self._arms), number):
                batch = conversations
                if self._arms[name].slow:
                    batch = batch[: max(0, self._peer_n - number * size)]
                started = time.perf_counter()
                replies = await self._ask(self._arms[name], batch, number * size, concurrency)
                wall[name] += time.perf_counter() - started
                answers[name] |= {question.key: each for question, each in zip(block, replies, strict=False)}
                self._progress.advance(task, len(batch))
        return Pass(data, concurrency, answers, wall)

    async def warm_up(self, questions: Sequence[Question]) -> None:
        """A few requests that do not count."""
        for arm in self._arms.values():
            await self._ask(arm, [chat(question) for question in questions], 0, 1)

    async def _ask(
        self, arm: Arm, conversations: Sequence[Messages], first_seed: int, concurrency: int
    ) -> list[Reply]:
        limit = asyncio.Semaphore(concurrency)

        async def reply(place: int) -> Reply:
            async with limit:
                return await arm.ask(conversations[place], first_seed + place)

        return await asyncio.gather(*(reply(place) for place in range(len(conversations))))


@contextlib.asynccontextmanager
async def arms(folder: Path, logs: Path, console: Console) -> AsyncIterator[list[Arm]]:
    """All arms, with their servers running."""
    for name in ("mirl", "vllm"):
        (logs / name).mkdir()
    with contextlib.ExitStack() as stack:
        with console.status("starting mirl-serve, vLLM and the peers …"):
            ours = stack.enter_context(running(logs / "mirl"))
            theirs = stack.enter_context(
                running(logs / "vllm", command=environments.PLAIN_VLLM, ready="/health")
            )
            others = stack.enter_context(environments.started(folder, theirs.url, NAME, logs))
        if others.optillm is None or others.its_hub is None:
            console.print(
                f"not installed in {folder}, so left out: optillm or its_hub (see docs/benchmarks.md)"
            )
        client, plain = ours.async_client(), theirs.async_client()
        yield [
            Gated(client, NAME),
            Voting(client, f"{NAME}:direct", 16, "mirl-serve :direct"),
            Voting(client, f"{NAME}:direct", 12, "mirl-serve :direct"),
            Voting(plain, NAME, 16, "vLLM"),
            Voting(plain, NAME, 12, "vLLM"),
            Voting(plain, NAME, 1, "vLLM"),
            *others.arms(NAME, 16),
        ]


async def measure(
    data: Sequence[str], part: str, n: int, loaded: int, peer_n: int, folder: Path, console: Console
) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    facts = about()
    passes: list[Pass] = []
    sets = {name: open_data(name, part, n, 0).questions for name in data}
    with tempfile.TemporaryDirectory() as scratch:
        async with arms(folder, Path(scratch), console) as compared:
            with Progress(*COLUMNS, console=console) as progress:
                benchmark = Benchmark(compared, peer_n, progress)
                await benchmark.warm_up(open_data(data[0], "dev", WARM_UP, 0).questions)
                for name, questions in sets.items():
                    passes.append(await benchmark.run(name, questions, 1))
                    if loaded:
                        passes.append(await benchmark.run(name, questions[:loaded], 8))
    return {
        "about": facts,
        "peers": environments.frozen(folder),
        "part": part,
        "passes": [
            {
                "data": pass_.data,
                "concurrency": pass_.concurrency,
                "arms": summarise(pass_, sets[pass_.data], GATED),
                "answers": {
                    arm: {key: asdict(reply) for key, reply in answers.items()}
                    for arm, answers in pass_.answers.items()
                },
            }
            for pass_ in passes
        ],
    }


def report(results: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    parts = [line(results["about"]) + "\n"]
    for entry in results["passes"]:
        parts.append(f"**{entry['data']}, {results['part']}, {entry['concurrency']} at a time**\n")
        parts.append(markdown(HEAD, rows(entry["arms"])) + "\n")
    return "\n".join(parts)


def main(
    n: Annotated[int, typer.Option(help="questions a data set, one at a time")] = 100,
    loaded: Annotated[int, typer.Option(help="of those, how many are asked again 8 at a time; 0: none")] = 96,
    peer_n: Annotated[int, typer.Option(help="questions for optillm and its_hub")] = 40,
    data: Annotated[str, typer.Option(help="data sets, with commas")] = "digits/iid,digits/shifted",
    part: Annotated[str, typer.Option(help="dev or test")] = "test",
    peers_folder: Annotated[
        Path, typer.Option("--peers", help="where the peers are installed")
    ] = environments.FOLDER,
    output: Annotated[Path, typer.Option(help="JSON file")] = Path("/tmp/mirl-benchmarks/rivals.json"),
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    """The gate against client-side voting and the peers, over HTTP."""
    console = Console(file=sys.stderr)
    try:
        results = asyncio.run(measure(data.split(","), part, n, loaded, peer_n, peers_folder, console))
    except ConfigError as error:
        console.print(f"error: {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    write(output, results, report(results), document, "rivals")
    print(report(results))
    console.print(f"written: {output} and {output.with_suffix('.md')}")


if __name__ == "__main__":
    typer.run(main)
