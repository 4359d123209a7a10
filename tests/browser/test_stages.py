"""Every kind of stage event on the page, from a recorded stream in place of the server's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.opened import Opened
from tests.unit.clients.cli.evidence_cases import GATED, STEERED
from tests.unit.clients.stub import stream

pytestmark = pytest.mark.full
Open = Callable[..., Opened]


def shown(open_page: Open, preset: str, broken: bool = False, **fields: Any) -> Opened:
    """Return the page after a stream of the client's tests; `fields` replace some of its last evidence."""
    opened = open_page(f"#preset={preset}" if preset else "")

    def answer(route: Any) -> None:
        lines = list(stream({"mirl": {"preset": preset}}, broken))
        for line in lines:
            if line.get("mirl", {}).get("event") == "finished":
                line["mirl"] |= fields
        text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        route.fulfill(content_type="text/event-stream", body=": a comment\n\n" + text)

    opened.page.route("**/v1/chat/completions", answer)
    opened.button("Ask").click()
    opened.page.locator(".turn[aria-busy=false]").wait_for()
    return opened


def test_a_gated_answer_with_its_cut_and_an_early_vote(open_page: Open) -> None:
    opened = shown(open_page, "")
    kept = [
        each.text for each in sorted(GATED.descriptions, key=lambda each: -(each.score or -99)) if each.kept
    ]
    assert opened.texts(".row:not(.dropped) .tokens") == kept
    dropped = [each for each in GATED.descriptions if not each.kept]
    assert len(opened.texts(".row.dropped")) == len(dropped)
    stopped = sum(chain.finish_reason == "abort" for chain in GATED.chains)
    assert stopped > 0
    assert f"Closed early: {stopped} chain" in opened.text(".vote .hint")
    assert opened.text(".votes .wins .choice") == "24"


def test_switched_tokens_stand_beside_what_the_model_alone_would_write(open_page: Open) -> None:
    opened = shown(open_page, "steered")
    switches = [
        (each, switch) for each in STEERED.descriptions if each.decoding for switch in each.decoding.switches
    ]
    assert switches
    opened.page.get_by_label(f"Details of description {switches[0][0].index + 1}").click()
    said = opened.text(".switches")
    assert f"“{switches[0][1].chosen.strip()}”" in said
    assert f"the model alone would have written “{switches[0][1].drafted.strip()}”" in said
    assert "MIRL, steered" in opened.text(".turn .now")
    assert opened.page.locator(".turn.method-steered").count() == 1


def test_warnings_and_confidence_are_in_words(open_page: Open) -> None:
    warning = "The question is unlike those of the calibration."
    opened = shown(
        open_page,
        "",
        warnings=[warning],
        calibrated=False,
        confidence=0.5,
        uncalibrated="the vote was cut",
        partial=True,
    )
    warnings = opened.texts(".warning")
    assert [text.removeprefix("!").strip() for text in warnings] == [
        warning,
        "The time ran out: this is the best answer so far.",
    ]
    assert opened.text(".confidence .hint").endswith("Not calibrated: the vote was cut.")
    calibrated = shown(open_page, "", calibrated=True, confidence=0.91, uncalibrated=None)
    assert calibrated.text(".confidence .badge") == "calibrated"
    assert "91\u00a0%" in calibrated.text(".confidence")


def test_an_error_in_a_stream_is_in_words(open_page: Open) -> None:
    opened = shown(open_page, "", broken=True)
    assert opened.text(".turn .problem") == (
        "The engine has died. The engine has stopped. The server must be started again."
    )


def test_a_stream_that_ends_too_soon_is_no_answer(open_page: Open) -> None:
    opened = open_page()
    opened.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=": nothing\n\n"),
    )
    opened.button("Ask").click()
    problem = opened.page.locator(".turn .problem")
    problem.wait_for()
    assert "The connection ended before the answer was complete." in problem.inner_text()
    assert opened.text(".turn .now").endswith("failed")


def test_votes_are_counted_as_in_the_client(open_page: Open) -> None:
    page = open_page().page
    counted = page.evaluate(
        """async (answers) => (await import("/playground/wire/plain.js")).votesOf(
          answers.map(([content, finish_reason]) => ({message: {content}, finish_reason})))""",
        [
            ["7.0", "stop"],
            ["A dog.", "stop"],
            ["a  DOG", "stop"],
            ["7", "stop"],
            ["8", "length"],
            ["", "stop"],
            [" 7 ", "stop"],
        ],
    )
    assert counted == [["7.0", 3], ["A dog.", 2]]
