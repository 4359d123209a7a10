"""The demo: an opening, four questions, and what they don't show."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from openai import OpenAI
from PIL import Image
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from mirl_client.cli import WIDTH
from mirl_client.cli.pictures import COLUMNS, display_path, half_blocks, shows_pictures
from mirl_client.cli.serving import serving
from mirl_client.cli.summary import summary
from mirl_client.cli.switches import Tokenize, largest_switches
from mirl_client.cli.tables import UNKNOWN, WINNER, answers_table, descriptions_table
from mirl_core.bundled import CHARTS, DemoQuestion
from mirl_core.config import ModelSettings
from mirl_core.presets import PresetName
from mirl_server.cli.demo.attempts import VOTES, Asker, Attempt
from mirl_server.cli.demo.tokens import tokenizer_of

PRESETS: tuple[PresetName, ...] = ("waves", "waves", "steered", "gate")
"""MIRL's preset for each question."""

OPENING = f"""\
{CHARTS.name}, a toy model that reads charts of fruit sales and is often unsure, answers four questions: \
greedily, by a vote of {VOTES} samples, and with MIRL. MIRL describes the picture several times and reasons \
from the descriptions that owe most to it: from the best first, and from the others only where its chains \
disagree (preset "waves", this model's own). The third question decodes descriptions instead ("steered"): \
where λ > 0, they prefer words that come from the picture to words that are likely anyway. The last has a \
gate like the paper's ("gate"): of ten descriptions the three that owe most to the picture go on. Below the \
answers are MIRL's descriptions by rank, the words that λ changed, the vote and its cost."""

LEGENDS: dict[PresetName, str] = {
    "waves": f"""\
{WINNER} has the returned answer. MI: log p of the text with the picture less 0.35 of that without it, in \
nats a token. The best descriptions have two chains first, the other kept ones only if those disagree.""",
    "steered": f"""\
{WINNER} has the returned answer. λ = 0 is the model alone. MI: log p of the text with the picture less that \
without it, in nats a token; {UNKNOWN} where it isn't needed. Chains are stopped once the vote is decided.""",
    "gate": f"""\
{WINNER} has the returned answer. MI: log p of the text with the picture less half of that without it \
(λ = 0.5), in nats a token. Each kept description has two chains; those that end \
after the decision don't vote.""",
}

CLOSING = """\
The server has stopped. Four questions decide nothing: docs/evidence.md and docs/bundled-model.md have \
measurements. [bold]make serve[/bold] keeps the server up; README.md shows curl and Python against it."""


def main() -> int:
    """Run the demo; return 0 when every question got an answer."""
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    console.print(OPENING)
    console.print()
    tokenize = tokenizer_of(CHARTS)
    rounds: list[list[Attempt]] = []
    with serving(console) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)
        settings = ModelSettings.load(CHARTS.path) or ModelSettings()
        asker = Asker(client, CHARTS.name, settings.temperature)
        for question, preset in zip(CHARTS.questions(), PRESETS, strict=False):
            number = len(rounds)
            print_question(console, question, number + 1)
            with console.status("Answering …"):
                attempts = [
                    asker.greedy(question, seed=number),
                    asker.votes(question, seed=number),
                    asker.mirl(question, preset, seed=number),
                ]
            print_answers(console, question, attempts)
            legend = LEGENDS[preset] if preset not in PRESETS[:number] else None
            print_evidence(console, attempts[-1], tokenize, legend)
            rounds.append(attempts)
    console.print()
    console.print(Rule(style="dim"))
    console.print(tally(rounds))
    console.print(CLOSING)
    return 0


def print_question(console: Console, question: DemoQuestion, number: int) -> None:
    """Print a question with its picture, or with the picture's path alone where there are no colours."""
    console.print()
    console.print(Rule(f"Question {number} of {len(PRESETS)}", align="left", style="dim"))
    console.print(Text(question.question, "bold"))
    console.print(Text(f"picture: {display_path(question.file)}"))
    if shows_pictures(console):
        with Image.open(question.file) as image:
            console.print(half_blocks(image, min(COLUMNS, console.width)))
    console.print()


def print_answers(console: Console, question: DemoQuestion, attempts: Sequence[Attempt]) -> None:
    """Print the answers side by side, and the true one."""
    console.print(answers_table(attempts, [attempt.right for attempt in attempts]))
    console.print(f"truth: [bold]{question.answer}[/bold]\n")


def print_evidence(console: Console, attempt: Attempt, tokenize: Tokenize, legend: str | None) -> None:
    """Print how MIRL reached an answer; the legend is that of the descriptions' table."""
    details = attempt.evidence
    assert details is not None, "MIRL's answer has evidence"
    if details.fallback:
        console.print(Text(f"the gate was not used: {details.fallback}"))
    console.print(f"[bold]{attempt.way}[/bold]: its descriptions by rank")
    console.print(descriptions_table(details))
    if legend:
        console.print(Text(legend, "dim"))
    console.print()
    if sentences := largest_switches(details, tokenize):
        console.print("words that λ changed, and what each was worth:")
        for sentence in sentences:
            console.print(Padding(Text(sentence), (0, 0, 0, 2), expand=False))
    console.print(summary(details))


def tally(rounds: Sequence[Sequence[Attempt]]) -> str:
    """Return how many answers of each way are right, and what they cost."""
    ways = zip(("greedy", f"{VOTES} votes", "MIRL"), zip(*rounds, strict=True), strict=True)
    counts = []
    for way, attempts in ways:
        right = sum(attempt.right for attempt in attempts)
        counts.append(f"{way} {right} ({sum(attempt.tokens for attempt in attempts):,})")
    return f"Right of {len(rounds)} (tokens): {', '.join(counts)}."


if __name__ == "__main__":
    sys.exit(main())
