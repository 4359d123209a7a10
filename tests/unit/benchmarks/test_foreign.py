"""Requests that are foreign to a world, and the table of what is made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirl_core.types import Chain, Description, Result
from tests.benchmarks.foreign.__main__ import table
from tests.benchmarks.foreign.requests import PICTURES, QUESTIONS, foreign_requests

CHAIN = Chain(0, 0, "2", "", "2", 1, "stop")
RESULT = Result(
    content="2",
    reasoning="",
    finish_reason="stop",
    representative=CHAIN,
    description=None,
    descriptions=(Description(0, "two", (1, 2, 3), 2, logprob=-1.0),),
    chains=(CHAIN,),
    vote=None,
    confidence=0.9,
    margin=None,
    prompt_tokens=1,
    stages=(),
    aggregation="majority",
    calibrated=True,
)


@pytest.mark.parametrize("world", ["charts", "digits"])
def test_every_foreign_request_is_of_its_own(world: str) -> None:
    requests = list(foreign_requests(world, native=20))
    assert len({question.key for _, question in requests}) == len(requests)
    kinds = [kind for kind, _ in requests]
    assert kinds.count("picture") == kinds.count("both") == len(PICTURES)
    assert kinds.count("question") == len(QUESTIONS)
    assert kinds.count("world") == 32
    for kind, question in requests:
        assert (question.text in QUESTIONS) is (kind in ("question", "both"))
        assert question.image().mode == "RGB"


def test_the_table_counts_what_is_called_calibrated() -> None:
    other = replace(RESULT, calibrated=False, confidence=0.1)
    lines = table({"both": [RESULT, other, other, other], "charts/iid": [RESULT]}).splitlines()
    assert lines[2] == "| a foreign picture and question | 4 | 25 [5, 70] | 90 | -0.50 |"
    assert lines[3] == "| `charts/iid` | 1 | 100 [21, 100] | 90 | -0.50 |"
