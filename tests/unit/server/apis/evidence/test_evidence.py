"""Parts of the evidence as JSON."""

from __future__ import annotations

from mirl_core.config import MIRLOptions
from mirl_core.types import StageUsage
from mirl_server.apis.evidence import budget_of, stage_json


def test_the_budget_is_in_descriptions_kept_and_forks() -> None:
    assert budget_of(MIRLOptions(descriptions=5, keep=4, forks=3)) == {
        "descriptions": 5,
        "keep": 4,
        "forks": 3,
    }


def test_seconds_of_a_stage_are_rounded_to_microseconds() -> None:
    assert stage_json(StageUsage("plain", 1, 2, 3, 0.12345678))["seconds"] == 0.123457
