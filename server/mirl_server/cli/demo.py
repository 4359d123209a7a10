"""`make demo`: serve the bundled model, send it bundled questions with the OpenAI client, print the evidence.

Starts `mirl-serve` on a free port and always stops it.
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
from mirl_core.bundled import CHARTS, DemoQuestion

START_SECONDS = 180
QUESTION_COUNT = 4


def main() -> int:
    """Run the demo; return 0 when every question got an answer."""
    console = Console(highlight=False)
    demo_questions = CHARTS.questions()[:QUESTION_COUNT]
    with serving(console) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)
        right = sum([ask(client, question, seed, console) for seed, question in enumerate(demo_questions)])
    console.print(f"\n{right} of {len(demo_questions)} answers match the truth. The server has stopped.")
    console.print(
        "The model is a toy of a few million parameters, made to be unsure: see docs/bundled-model.md.\n"
        "[bold]make serve[/bold] keeps the server up; README.md shows curl and Python against it."
    )
    return 0


@contextmanager
def serving(console: Console) -> Iterator[str]:
    """Run `mirl-serve` on a free port; yield its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "mirl_server.cli.main", "--port", str(port)]
        # In a new session, so that the engine's processes end with it.
        server = subprocess.Popen(  # noqa: S603 - a fixed command
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
    """End the server and all processes that it started."""
    server.send_signal(signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(client: OpenAI, question: DemoQuestion, seed: int, console: Console) -> bool:
    """Send a question and print the pipeline's evidence; return whether the answer is right."""
    response = client.chat.completions.create(
        model=CHARTS.name,
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
    details = evidence(response)
    assert details is not None, "a gated answer carries its evidence"
    answer = response.choices[0].message.content or ""
    right = answer.strip().lower() == question.answer.strip().lower()
    console.print()
    title = f"[bold]{question.question}[/bold]\n{display_path(question.file)}  ({question.split}, test data)"
    console.print(Panel(title, expand=False))
    if details.fallback:
        console.print(f"the gate was not used: {details.fallback}")
    console.print(descriptions_table(details))
    console.print(f"vote: {vote_line(details)}")
    console.print(f"confidence: {confidence_line(details)}")
    console.print(stages_table(details))
    mark = "[green]right[/green]" if right else "[red]wrong[/red]"
    sampled = response.usage.completion_tokens if response.usage else 0
    console.print(
        f"answer: [bold]{answer}[/bold]   truth: [bold]{question.answer}[/bold]   {mark}   "
        f"({sampled} tokens sampled)"
    )
    return right


def display_path(path: Path) -> str:
    """Return a path relative to the working directory, where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def descriptions_table(details: Evidence) -> Table:
    """Return a table of the descriptions, the gate's verdicts and the answers of their chains."""
    table = Table("description", "MI, nats", "per token", "gate", "its chains' answers")
    for description in details.descriptions:
        answers = [chain_answer(chain) for chain in details.chains if chain.description == description.index]
        verdict = "kept" if description.kept else f"dropped: {description.reason}"
        table.add_row(
            description.text,
            format_nats(description.mi),
            format_nats(description.mi_per_token),
            verdict,
            ", ".join(answers),
            style="bold" if description.kept else "dim",
        )
    return table


def chain_answer(chain: Chain) -> str:
    if chain.finish_reason == "abort":
        return "(stopped: decided)"
    return chain.answer or "(no answer)"


def vote_line(details: Evidence) -> str:
    if details.vote is None:
        return "none; the best description's chain answers"
    counts = ", ".join(f"{answer} × {weight:g}" for answer, weight in details.vote.counts.items())
    return f"{counts}   →  {details.vote.answer}  ({details.vote.share:.0%} of the votes)"


def confidence_line(details: Evidence) -> str:
    if details.confidence is None:
        return "none without a vote"
    meaning = "calibrated: how often such a vote is right" if details.calibrated else "the share of the votes"
    return f"{details.confidence:.0%} ({meaning})"


def stages_table(details: Evidence) -> Table:
    """Return a table of each stage's sequences, tokens and seconds."""
    table = Table("stage", "sequences", "sampled tokens", "scored tokens", "seconds")
    for stage in details.stages:
        table.add_row(
            stage.stage,
            str(stage.sequences),
            str(stage.generated_tokens),
            str(stage.scored_tokens),
            f"{stage.seconds:.2f}",
        )
    return table


def format_nats(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
