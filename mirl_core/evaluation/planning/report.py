"""A plan on the terminal: tables within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirl_core.evaluation.planning.plan import MethodPlan, Plan

__all__ = ["print_plan"]

Column = tuple[str, Callable[[MethodPlan], str]]
_WIDTH = 80


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print the plan's tables.

    Args:
        console: None: standard output, 80 columns wide where it is no terminal.
    """
    console = console or _standard_output()
    load, against = plan.workload, plan.reference
    _line(
        console,
        f"Prompt {load.text_tokens} + {load.image_tokens} image tokens, descriptions "
        f"{load.description_tokens}, chains {load.chain_tokens}; {load.rate:g} requests/s at "
        f"{load.utilization:.0%} utilization; a full GPU decodes {plan.batch:g} sequences.\n",
    )
    _print(console, "Tokens of a request", plan.methods, _tokens())
    _print(
        console,
        "GPU milliseconds of a request, by stage",
        plan.methods,
        [
            *(
                (stage, lambda method, stage=stage: _milliseconds(method.gpu_seconds.get(stage)))
                for stage in ("describe", "score", "fork", "sample")
            ),
            ("all", lambda method: _milliseconds(method.total_gpu_seconds)),
            (f"× {against.name}", lambda method: _ratio(method.total_gpu_seconds, against.total_gpu_seconds)),
            ("GPUs", lambda method: f"{math.ceil(round(method.gpus, 9))}"),
        ],
    )
    _print(
        console,
        "Seconds of a request",
        plan.methods,
        [
            ("idle", lambda method: f"{method.idle_seconds:.3g}"),
            (f"× {against.name}", lambda method: _ratio(method.idle_seconds, against.idle_seconds)),
            ("loaded", lambda method: f"{method.loaded_seconds:.3g}"),
            (f"× {against.name}", lambda method: _ratio(method.loaded_seconds, against.loaded_seconds)),
            ("decoded at once", lambda method: f"{method.load.batch:.3g}"),
        ],
    )
    _line(
        console,
        "Seconds are means. Loaded: by processor sharing at this utilization; bursts and queues come on top. "
        "docs/scaling.md has the model and what it was checked against.",
    )


def _tokens() -> list[Column]:
    """Return the columns of the table of tokens."""

    def total(name: str, *stages: str) -> Callable[[MethodPlan], str]:
        return lambda method: _whole(
            sum(
                getattr(tokens, name)
                for stage, tokens in method.tokens.items()
                if not stages or stage in stages
            )
        )

    return [
        ("prefilled", total("prefilled")),
        ("described", total("generated", "describe")),
        ("reasoned", total("generated", "fork", "sample")),
        ("generated", total("generated")),
        ("scored", total("scored")),
    ]


def _print(console: Console, title: str, methods: Sequence[MethodPlan], columns: Sequence[Column]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("method", overflow="fold", min_width=8)
    for head, _ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for method in methods:
        table.add_row(Text(method.name), *(Text(cell(method)) for _, cell in columns))
    console.print(Text(title, "bold"))
    console.print(table)
    console.print()


def _standard_output() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _line(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False)


def _whole(number: float) -> str:
    return f"{number:.0f}" if number else ""


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3g}"


def _ratio(seconds: float, against: float) -> str:
    return f"{seconds / against:.2f}"
