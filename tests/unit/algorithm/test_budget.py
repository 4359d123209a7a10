"""The least `max_total_tokens` with which a request's descriptions and chains are worth sampling."""

from __future__ import annotations

from typing import Any

import pytest

from mirl_core.algorithm.budget import check_budget
from mirl_core.config import MIRLOptions
from mirl_core.errors import RequestError


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"descriptions": 1, "keep": 1, "forks": 1}, 2),
        ({"descriptions": 10, "keep": 2, "forks": 3}, 20),
        ({"descriptions": 4, "keep": 3, "forks": 5}, 30),
        ({"descriptions": 4, "keep": 20, "forks": 2}, 16),
        ({"descriptions": 10, "keep": 2, "forks": 3, "gate": "none"}, 60),
        ({"descriptions": 10, "keep": 2, "forks": 3, "gate": "random"}, 20),
    ],
)
def test_two_tokens_for_every_sequence_of_the_larger_half(options: dict[str, Any], needed: int) -> None:
    check_budget(MIRLOptions(**options, max_total_tokens=needed))
    check_budget(MIRLOptions(**options))
    with pytest.raises(RequestError) as caught:
        check_budget(MIRLOptions(**options, max_total_tokens=needed - 1))
    assert caught.value.param == "mirl.max_total_tokens"
    assert f"leaves {needed - 1} for an answer" in caught.value.message
    assert f"at least {needed};" in caught.value.message
