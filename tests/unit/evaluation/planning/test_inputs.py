"""Inputs of a plan: every field refuses what it can't be, and says which it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.errors import ConfigError
from mirl_core.evaluation.planning.inputs import Expected, Workload, read_expected, read_rates, validated

GOOD: dict[str, Any] = {
    "text_tokens": 80, "image_tokens": 1200, "description_tokens": 60, "chain_tokens": 200,
}  # fmt: skip
NUMBERS = [name for name in Workload.model_fields if name not in ("images", "image_tokens")]


@pytest.mark.parametrize("field", Workload.model_fields)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, "many", 1e300])
def test_a_workload_names_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Workload, GOOD | {field: value})
    assert caught.value.param == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize("field", NUMBERS)
def test_nothing_that_is_needed_may_be_zero(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        validated(Workload, GOOD | {field: 0})


def test_expected_values_are_changed_by_name() -> None:
    assert read_expected("") == Expected()
    changed = read_expected("distinct=0.5, second_wave=1")
    assert (changed.distinct, changed.second_wave) == (0.5, 1.0)
    assert changed.chain_share == Expected().chain_share


@pytest.mark.parametrize(
    "text", ["distinct", "distinct=", "distinct=2", "distinct=nan", "rounds=3", "=1", "switches=-1"]
)
def test_expected_values_that_are_wrong_name_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^expect: ") as caught:
        read_expected(text)
    assert caught.value.param == "expect"


def test_rates_come_from_options_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    # As the latency benchmark writes it, beside much else.
    file.write_text(json.dumps({"rates": {"prefill": 100, "steps": [[4, 0.2], [1, 0.1]], "call": 0.5}}))
    rates = read_rates(file, prefill=200, score=50)
    assert (rates.prefill, rates.score, rates.call) == (200, 50, 0.5)
    assert rates.steps == ((1, 0.1), (4, 0.2))
    assert read_rates(file).score == 100
    assert read_rates(prefill=1, decode="1:10,16:100").steps == ((1, 0.1), (16, 0.16))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"decode": "1:10"}, "prefill_rate"),
        ({"prefill": 10}, "decode_rate"),
        ({"prefill": 0, "decode": "1:10"}, "prefill_rate"),
        ({"prefill": math.nan, "decode": "1:10"}, "prefill_rate"),
        ({"prefill": 10, "decode": ""}, "decode_rate"),
        ({"prefill": 10, "decode": "fast"}, "decode_rate"),
        ({"prefill": 10, "decode": "1:nan"}, "decode_rate"),
        ({"prefill": 10, "decode": "1:inf"}, "decode_rate"),
        ({"prefill": 10, "decode": "0:10"}, "decode_rate"),
        ({"prefill": 10, "decode": "1:10,1:20"}, "decode_rate"),
        # A step of more sequences can't be faster.
        ({"prefill": 10, "decode": "1:10,16:1000"}, "decode_rate"),
        ({"prefill": 10, "decode": "1:10", "score": -1}, "score_rate"),
        ({"prefill": 10, "decode": "1:10", "image": -1}, "image_seconds"),
        ({"prefill": 10, "decode": "1:10", "call": math.inf}, "call_seconds"),
        ({"prefill": 10, "decode": "1:10", "render": math.nan}, "render_seconds"),
    ],
)
def test_rates_that_are_wrong_name_the_option(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rates(**arguments)
    assert caught.value.param == field
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"rates": 3}', '{"prefill": 1}', '{"prefill": 1, "steps": []}', '{"steps": [[1, 2, 3]]}',
     '{"prefill": 1, "steps": [[1, 1]], "speed": 3}', "\xff"],
)  # fmt: skip
def test_a_file_of_rates_that_is_none_names_the_option(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rates.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match="rates") as caught:
        read_rates(file)
    assert caught.value.param == "rates"
    with pytest.raises(ConfigError, match="rates"):
        read_rates(tmp_path / "nowhere.json")


@given(st.text(max_size=20))
def test_any_text_as_decode_rates_is_read_or_refused(text: str) -> None:
    refused = None
    try:
        assert read_rates(prefill=1.0, decode=text).steps
    except ConfigError as error:
        refused = error.param
    assert refused in (None, "decode_rate")
