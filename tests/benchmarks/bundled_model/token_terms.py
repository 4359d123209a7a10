"""At which words a right description differs from a wrong one, and whether picture or prior says so.

    python -m tests.benchmarks.bundled_model.token_terms OUT/bank    # of a digits run of the bundled model

For each kind of word: the mean over questions of (right descriptions − wrong ones), in nats per content token
of the description, of log p(d_t | d_<t, I, q) and of log p(d_t | d_<t, q). MI ranks by their difference.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from mirl_core.bundled import DIGITS
from mirl_core.evaluation.bank.records import BankedDescription
from mirl_core.evaluation.bank.store import Bank
from mirl_core.tasks.worlds.digits import CELLS, COLOURS

KINDS = ("colour", "digit", "cell", "other")
PLACES = {word for cell in CELLS for word in cell.split()}


def kind(word: str) -> str:
    """What a token's text speaks of."""
    word = word.strip()
    if word in COLOURS:
        return "colour"
    if word.isdigit():
        return "digit"
    return "cell" if word in PLACES else "other"


def terms(description: BankedDescription, tokenizer: Tokenizer) -> dict[str, np.ndarray] | None:
    """Kind → (log p given the picture, log p without it), nats per content token.

    None where the text is not split into the tokens that were sampled.
    """
    ids = tokenizer.encode(description.text, add_special_tokens=False).ids
    if description.reason or len(ids) != description.content_tokens:
        return None
    sums = {name: np.zeros(2) for name in KINDS}
    for token, seen, unseen in zip(ids, description.logprobs, description.marginals["text"], strict=True):
        sums[kind(tokenizer.decode([token]))] += (seen, unseen)
    return {name: value / len(ids) for name, value in sums.items()}


def main(bank: Annotated[Path, typer.Argument(help="folder of a run's bank")]) -> None:
    tokenizer = Tokenizer.from_file(str(DIGITS.path / "tokenizer.json"))
    table = Table("data", "words", "questions", "with the picture", "without it")
    opened = Bank.existing(bank)
    for data in ("digits/iid", "digits/shifted", "digits/ambiguous"):
        gaps: dict[str, list[np.ndarray]] = defaultdict(list)
        for question in opened.load(data):
            sides: dict[bool, list[dict[str, np.ndarray]]] = {True: [], False: []}
            for description in question.descriptions:
                if (by_kind := terms(description, tokenizer)) is not None and description.right is not None:
                    sides[description.right].append(by_kind)
            for name in KINDS if sides[True] and sides[False] else ():
                right, wrong = (
                    np.mean([side_terms[name] for side_terms in sides[side]], axis=0)
                    for side in (True, False)
                )
                gaps[name].append(right - wrong)
        for name, values in gaps.items():
            seen, unseen = np.mean(values, axis=0)
            table.add_row(data, name, str(len(values)), f"{seen:+.3f}", f"{unseen:+.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
