"""`make demo`: serve the bundled model, ask it bundled questions in three ways, show MIRL's evidence.

    __main__.py   the demo, from its opening to its end
    serving.py    `mirl-serve` on a free port, always stopped
    attempts.py   a question's answers: greedy, 16 votes, MIRL
    pictures.py   a picture in half-blocks, for terminals with colours
    tables.py     tables of answers and descriptions
    switches.py   the tokens that a decoded description owes to the picture, in words
    summary.py    the vote, its confidence and its cost, in lines

No line is longer than `WIDTH` columns.
"""

from __future__ import annotations

WIDTH = 80
"""Columns of the longest line."""
