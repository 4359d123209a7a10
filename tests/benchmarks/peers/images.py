"""What the peers do with a picture: one question, with and without its picture, through a recording proxy.

    python -m tests.benchmarks.peers.images [--peers /tmp/mirl-peers] [--output peer-images.json]

A peer that drops the picture sends no `image_url` part, and the model server counts as many prompt tokens
with the picture as without.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from openai import APIError, AsyncOpenAI
from rich.console import Console

from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from tests.benchmarks.arms import Arm, Proxied, Voting, chat
from tests.benchmarks.peers import environments
from tests.benchmarks.peers.recorder import Call, Recorder, pictures, recording
from tests.benchmarks.tables import markdown, write
from tests.helpers.servers import NAME, running


@dataclass(frozen=True, slots=True)
class Seen:
    """What reached the model server when one arm was asked one question."""

    arm: str
    with_picture: list[Call]
    without_picture: list[Call]
    error: str | None


async def look(arm: Arm, question: Question, recorder: Recorder) -> Seen:
    """Ask an arm twice, with the picture and without, and take down what arrives."""
    calls: list[list[Call]] = []
    error = None
    recorder.taken()
    for picture in (True, False):
        try:
            await arm.ask(chat(question, picture), seed=0)
        except APIError as failed:
            error = str(failed)
        calls.append(recorder.taken())
    return Seen(arm.name, calls[0], calls[1], error)


async def look_at_all(folder: Path, server: str, logs: Path, n: int = 16) -> list[Seen]:
    """Every way of each peer, and vLLM asked directly for comparison."""
    question = open_data("digits/iid", "dev", 1, 0).questions[0]
    with recording(server) as recorder, environments.started(folder, recorder.url, NAME, logs) as peers:
        direct = AsyncOpenAI(base_url=f"{recorder.url}/v1", api_key="none", max_retries=0)
        arms: list[Arm] = [Voting(direct, NAME, n, "no peer"), *peers.arms(NAME, n)]
        if peers.optillm is not None:
            client = peers.optillm.async_client()
            ways = {"none": NAME, "bon": f"bon-{NAME}", "cot_reflection": f"cot_reflection-{NAME}"}
            ways["proxy"] = f"proxy-{NAME}"
            arms += [Proxied(client, model, f"optillm, {name}", {}) for name, model in ways.items()]
        return [await look(arm, question, recorder) for arm in arms]


def table(seen: list[Seen]) -> str:
    """One row an arm, in Markdown."""
    rows = []
    for entry in seen:
        first = entry.with_picture[0] if entry.with_picture else None
        refused = sum(call.status != 200 for call in entry.with_picture)
        brought = sum(pictures(call) for call in entry.with_picture)
        rows.append(
            [
                entry.arm,
                " + ".join(f"{m['role']}: {', '.join(m['parts'])}" for m in first.messages) if first else "–",
                f"{brought} of {len(entry.with_picture)}",
                " / ".join(tokens(calls) for calls in (entry.with_picture, entry.without_picture)),
                ", ".join(
                    f"{key}={first.sampling[key]}" for key in ("n", "temperature") if key in first.sampling
                )
                if first
                else "–",
                entry.error or (f"{refused} of {len(entry.with_picture)} calls" if refused else ""),
            ]
        )
    head = [
        "asked through",
        "what arrived first",
        "calls with the picture",
        "prompt tokens a call, with / without",
    ]
    return markdown([*head, "sampling", "refused by vLLM"], rows)


def tokens(calls: list[Call]) -> str:
    """The prompt tokens of calls, each number once."""
    counted = sorted({call.prompt_tokens for call in calls if call.prompt_tokens is not None})
    return ", ".join(str(count) for count in counted) or "–"


def main(
    peers_folder: Annotated[
        Path, typer.Option("--peers", help="where the peers are installed")
    ] = environments.FOLDER,
    output: Annotated[Path, typer.Option(help="JSON file")] = Path("/tmp/mirl-benchmarks/peer-images.json"),
    document: Annotated[Path | None, typer.Option(help="document whose table is replaced")] = None,
) -> None:
    console = Console(file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        logs = Path(scratch)
        with (
            console.status("starting vLLM and the peers …"),
            running(logs, command=environments.PLAIN_VLLM, ready="/health") as server,
        ):
            seen = asyncio.run(look_at_all(peers_folder, server.url, logs))
    write(output, [asdict(entry) for entry in seen], table(seen), document, "peer-images")
    print(table(seen))
    console.print(f"written: {output} and {output.with_suffix('.md')}")


if __name__ == "__main__":
    typer.run(main)
