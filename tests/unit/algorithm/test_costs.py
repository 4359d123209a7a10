"""The cost model: the seconds of a call, the calls that a request waits for, and rates read and fitted."""

from __future__ import annotations

import pytest

from mirl_core.algorithm.costs import Load, Rates, Work, decode_rates, engine_seconds, fitted, predict

RATES = Rates(prefill=1000.0, steps=((1, 0.01), (11, 0.03)), score=500.0, call=0.002, image=0.1, render=0.05)
GATED = (
    Work("render", 0.0, 0.1, images=1),
    Work("describe", 0.1, 1.0, 11, prefill=200, steps=60, generated=660, images=1),
    Work("score", 1.0, 1.5, 10, scored=1000),
    Work("fork", 1.5, 3.0, 6, prefill=100, steps=120, generated=720),
    Work("fork", 1.5, 2.5, 5, prefill=50, steps=90, generated=450),
)


def test_a_step_is_linear_between_the_measured_batches_and_beyond_them() -> None:
    assert [RATES.step(batch) for batch in (0.5, 1, 6, 11, 21)] == pytest.approx(
        [0.01, 0.01, 0.02, 0.03, 0.05]
    )
    assert Rates(1.0, ((4, 0.02),), 1.0).step(400) == 0.02


def test_a_gated_request_is_the_sum_of_its_stages() -> None:
    predicted = predict(GATED, RATES)
    assert predicted.stages == pytest.approx(
        {
            "render": 0.05,
            "describe": 0.002 + 0.1 + 0.2 + 60 * 0.03,
            "score": 0.002 + 1000 / 500,
            # The second call runs beside the first for 2/3 of its time, with all of its prefill.
            "fork": 0.002 + 0.1 + 0.05 + 120 * RATES.step(6 + 5 * 2 / 3),
        }
    )
    assert predicted.seconds == pytest.approx(sum(predicted.stages.values()))


def test_requests_in_flight_share_the_engine() -> None:
    describe = predict(GATED[1:2], RATES, together=2).stages["describe"]
    assert describe == pytest.approx(0.002 + 2 * (0.1 + 0.2) + 60 * RATES.step(22))


def test_calls_side_by_side_count_once() -> None:
    draft = Work("describe", 0.0, 1.0, 1, prefill=0, steps=8, generated=8)
    verified = Work("score", 1.0, 1.2, 1, scored=50)
    ahead = Work("describe", 1.0, 2.0, 1, prefill=0, steps=8, generated=8)
    predicted = predict((draft, verified, ahead), RATES)
    # The scoring pass is not waited for: it slows the draft beside it.
    assert predicted.stages == pytest.approx({"describe": 2 * (0.002 + 8 * 0.01) + 50 / 500})


def test_no_calls_cost_nothing() -> None:
    assert predict((), RATES).seconds == 0.0


def test_decode_rates_become_steps() -> None:
    assert decode_rates("16:400,1:40") == ((1, 1 / 40), (16, 16 / 400))
    assert decode_rates("50") == ((1, 1 / 50),)
    with pytest.raises(ValueError, match="positive"):
        decode_rates("4:0")
    with pytest.raises(ValueError, match="twice"):
        decode_rates("4:10,4:20")


def test_a_load_in_all_phases_slows_every_call() -> None:
    loaded = predict(GATED[1:2], RATES, load=Load(batch=10, busy=0.5)).stages["describe"]
    assert loaded == pytest.approx(0.002 + 2 * (0.1 + 0.2 + 60 * RATES.step(21)))


def test_a_token_takes_its_share_of_a_full_step() -> None:
    describe = GATED[1]
    assert engine_seconds(describe, RATES, 11) == pytest.approx(0.1 + 0.2 + 660 * 0.03 / 11)
    assert engine_seconds(GATED[2], RATES, 11) == pytest.approx(1000 / 500)
    assert engine_seconds(GATED[0], RATES, 11) == 0.0


def test_a_line_through_measured_prefills() -> None:
    assert fitted([(100, 0.3), (200, 0.4), (400, 0.6)]) == (pytest.approx(0.2), pytest.approx(1000.0))
    assert fitted([(100, 0.05), (200, 0.15)])[0] == 0.0
    with pytest.raises(ValueError, match="don't grow"):
        fitted([(100, 0.3), (200, 0.2)])
    with pytest.raises(ValueError, match="two different"):
        fitted([(100, 0.3), (100, 0.2)])
