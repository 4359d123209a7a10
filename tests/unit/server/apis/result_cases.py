"""A result of the pipeline, and the chat response that is made of it."""

from __future__ import annotations

import math

from mirl_core.types import Chain, Decoding, Description, Result, StageUsage, Switch, Vote
from mirl_server.apis.chat.response import ChatResponse

CHAIN = Chain(0, 1, "<think>so</think><answer>7</answer>", "so", "7", 5, "stop", score=0.5)
KEPT = Description(
    0, "a seven", (4, 5, 6), 2, -1.0, -3.0, 2.0, 1.0, kept=True, token_mi=(0.5, 1.5), token_pmi=(0.25, 1.25),
    token_texts=("a", " seven"),
)  # fmt: skip
DECODED = Description(
    0,
    "a seven",
    (4, 5, 6),
    2,
    -1.0,
    mi=2.0,
    kept=True,
    votes=2,
    decoding=Decoding(0.5, (Switch(1, " one", " seven", 1.5), Switch(2, "x", "y", math.inf)), 3),
)
REPEATED = Description(1, "a seven", (4, 5, 6), 2, -1.0, kept=True, votes=1, repeats=0)
DROPPED = Description(1, "an eight", (4, 7), 2, -1.0, reason="gate")
RESULT = Result(
    content="7",
    reasoning="so",
    finish_reason="stop",
    representative=CHAIN,
    description=KEPT,
    descriptions=(KEPT, DROPPED),
    chains=(CHAIN,),
    vote=Vote("7", {"7": 1.0}, 1.0),
    confidence=1.0,
    margin=None,
    prompt_tokens=11,
    stages=(
        StageUsage("describe", 2, 5, 0, 0.1),
        StageUsage("score", 2, 0, 4, 0.1),
        StageUsage("fork", 1, 5),
    ),
    aggregation="majority",
    mi_weight=0.5,
)
ANSWER = ChatResponse(
    "chatcmpl-1", "m", 1, include_usage=True, budget={"descriptions": 2, "keep": 1, "forks": 1}
)
