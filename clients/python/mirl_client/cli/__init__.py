"""The command `mirl`: ask a server about pictures, and see it work.

    command.py      the command line, its errors and exit codes
    sources.py      pictures from files, URLs, stdin and the clipboard
    live.py         an answer while it comes about
    tables.py       descriptions by rank, with MI, votes and answers
    attempts.py     the plain model's answers beside it: greedy, and 16 votes
    scores.py       the MI of descriptions, by token
    summary.py      the vote, its confidence and its cost, in lines
    switches.py     the tokens that a decoded description owes to the picture, in words
    pictures.py     a picture in half-blocks, for terminals with colours
    serving.py      `mirl-serve` on a free port, always stopped

It needs rich; pictures in the terminal, from the clipboard, or scaled down need Pillow too. The main
distribution's demo shows its answers with the same tables.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

WIDTH = 80
"""Columns of the longest line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 for an error of the server, 2 for a wrong command line.

    Args:
        arguments: None: those of the process.
    """
    try:
        is_missing = importlib.util.find_spec("rich") is None
    except ImportError:
        is_missing = True
    if is_missing:
        sys.stderr.write("mirl: the command needs rich: pip install 'mirl-client[cli]'\n")
        return 2
    from mirl_client.cli.command import run

    return run(arguments)
