"""`make demo`: serve the bundled model, ask it bundled questions as any OpenAI client would, show the gate.

Starts `mirl-serve` on a free port, and stops it whatever happens.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from openai import OpenAI
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from mirl_client import Chain, Evidence, evidence
from mirl_core.bundled import DemoQuestion, questions
from mirl_server.vllm.flags import BUNDLED_NAME

START_SECONDS = 180
SHOWN = 4


def main() -> int:
    """Run the demo; 0 when every question got an answer."""
    console = Console(highlight=False)
    asked = questions()[:SHOWN]
    with serving(console) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)
        right = sum([ask(client, question, seed, console) for seed, question in enumerate(asked)])
    console.print(f"\n{right} of {len(asked)} answers match the truth. The server has stopped.")
    console.print(
        "The model is a toy of a few million parameters, made to be unsure: see docs/bundled-model.md.\n"
        "[bold]make serve[/bold] keeps the server up; README.md shows curl and Python against it."
    )
    return 0


@contextmanager
def serving(console: Console) -> Iterator[str]:
    """A `mirl-serve` on a free port; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "mirl_server.cli.main", "--port", str(port)]
        # A session of its own, so that the engine's processes go with it.
        server = subprocess.Popen(  # noqa: S603 - a command of our own
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with console.status("Starting mirl-serve on the bundled model (real vLLM, CPU) …"):
                started = time.monotonic()
                while not is_ready(f"{url}/ready"):
                    if server.poll() is not None or time.monotonic() - started > START_SECONDS:
                        log.seek(0)
                        sys.stderr.write(log.read().decode(errors="replace")[-8000:])
                        raise SystemExit("mirl-serve did not start; its log is above")
                    time.sleep(0.3)
            console.print(f"mirl-serve is ready after {time.monotonic() - started:.0f} s at {url}")
            yield url
        finally:
            stop(server)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and everything it started."""
    server.send_signal(signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(client: OpenAI, question: DemoQuestion, seed: int, console: Console) -> bool:
    """Ask one question, print what the pipeline did; whether the answer is the truth."""
    response = client.chat.completions.create(
        model=BUNDLED_NAME,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_url(question.file)}},
                    {"type": "text", "text": question.question},
                ],
            }
        ],
        seed=seed,
    )
    told = evidence(response)
    assert told is not None, "a gated answer carries its evidence"
    answer = response.choices[0].message.content or ""
    right = answer.strip().lower() == question.answer.strip().lower()
    console.print()
    title = f"[bold]{question.question}[/bold]\n{shown(question.file)}  ({question.split}, test data)"
    console.print(Panel(title, expand=False))
    if told.fallback:
        console.print(f"the gate was not used: {told.fallback}")
    console.print(descriptions_table(told))
    console.print(f"vote: {vote_line(told)}")
    console.print(f"confidence: {confidence_line(told)}")
    console.print(stages_table(told))
    mark = "[green]right[/green]" if right else "[red]wrong[/red]"
    sampled = response.usage.completion_tokens if response.usage else 0
    console.print(
        f"answer: [bold]{answer}[/bold]   truth: [bold]{question.answer}[/bold]   {mark}   "
        f"({sampled} tokens sampled)"
    )
    return right


def shown(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def descriptions_table(told: Evidence) -> Table:
    """Every description, the gate's verdict, and what its chains answered."""
    table = Table("description", "MI, nats", "per token", "gate", "its chains' answers")
    for one in told.descriptions:
        answers = [spoken(chain) for chain in told.chains if chain.description == one.index]
        verdict = "kept" if one.kept else f"dropped: {one.reason}"
        table.add_row(
            one.text,
            number(one.mi),
            number(one.mi_per_token),
            verdict,
            ", ".join(answers),
            style="bold" if one.kept else "dim",
        )
    return table


def spoken(chain: Chain) -> str:
    if chain.finish_reason == "abort":
        return "(stopped: decided)"
    return chain.answer or "(no answer)"


def vote_line(told: Evidence) -> str:
    if told.vote is None:
        return "none; the best description's chain answers"
    counts = ", ".join(f"{answer} × {weight:g}" for answer, weight in told.vote.counts.items())
    return f"{counts}   →  {told.vote.answer}  ({told.vote.share:.0%} of the votes)"


def confidence_line(told: Evidence) -> str:
    if told.confidence is None:
        return "none without a vote"
    meaning = "calibrated: how often such a vote is right" if told.calibrated else "the share of the votes"
    return f"{told.confidence:.0%} ({meaning})"


def stages_table(told: Evidence) -> Table:
    """What each stage cost."""
    table = Table("stage", "sequences", "sampled tokens", "scored tokens", "seconds")
    for stage in told.stages:
        table.add_row(
            stage.stage,
            str(stage.sequences),
            str(stage.generated_tokens),
            str(stage.scored_tokens),
            f"{stage.seconds:.2f}",
        )
    return table


def number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
