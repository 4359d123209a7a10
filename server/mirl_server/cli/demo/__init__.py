"""`make demo`: serve the bundled model, ask it bundled questions in three ways, show MIRL's evidence.

    __main__.py   the demo, from its opening to its end
    attempts.py   a question's answers: greedy, 16 votes, MIRL
    tokens.py     tokens of a bundled model

Tables, pictures, switches, summary and the server are those of the command `mirl` (`mirl_client.cli`).
"""

from __future__ import annotations
