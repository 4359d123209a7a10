"""A question in the playground, in real Chromium against a real server: live stages, errors, cancelling."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.browser.opened import Opened
from tests.helpers.servers import GuardedServer, RunningServer
from tests.helpers.waiting import wait_until

Open = Callable[..., Opened]
MANY = "#preset=gate&descriptions=32&keep=32&forks=16&seed=1"
"""More chains than the bundled model finishes before Cancel is pressed."""
CANCEL_AT_ONCE = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".row")) return;
  observer.disconnect();
  [...document.querySelectorAll("button")].find((button) => button.textContent === "Cancel").click();
}).observe(document, {subtree: true, childList: true});
"""
"""Presses Cancel in the page when the first description appears, however busy the machine is."""


def test_an_answer_comes_about_before_the_readers_eyes(open_page: Open) -> None:
    opened = open_page("#descriptions=6&keep=3&forks=2&seed=1")
    question = opened.page.get_by_label("Question", exact=True).input_value()
    opened.ask()
    page = opened.page
    assert opened.text(".turn h2") == question
    rows = page.locator(".row").count()
    kept = page.locator(".row:not(.dropped)").count()
    assert (rows, kept) == (6, 3)
    assert opened.text(".cut").startswith("The cut: 3 go on, 3 thrown out")
    seen = page.evaluate("window.seen")
    # Live: each stage is drawn before the next has come.
    assert seen["row"] < seen["cut"] < seen["chip"] <= seen["answer"] < seen["cost"]
    answer = opened.text(".answer .text")
    assert answer in opened.texts(".chip.wins .hidden, .chip.wins")[0]
    assert page.locator(".row:not(.dropped) .token.owes").count() > 0
    assert "tokens sampled than in 16 full answers" in opened.text(".cost .hint")
    assert opened.text(".confidence .badge") == "not calibrated"
    assert "Not calibrated:" in opened.text(".confidence .hint")
    assert page.get_by_role("status").first.inner_text() == f"The answer is: {answer}"


@pytest.mark.full
def test_a_cancelled_question_is_cancelled_on_the_server_too(open_page: Open, server: RunningServer) -> None:
    opened = open_page(MANY)
    before = server.gauge('mirl_requests_total{outcome="cancelled"}')
    opened.page.evaluate(CANCEL_AT_ONCE)
    opened.button("Ask").click()
    opened.page.get_by_text("Cancelled: the server has stopped").wait_for()
    wait_until(lambda: server.gauge('mirl_requests_total{outcome="cancelled"}') == before + 1, 20)
    wait_until(lambda: server.gauge("mirl_requests_in_flight") == 0, 20)
    wait_until(lambda: server.sequences() == 0, 20)
    assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
    # The form is ready for the next question.
    assert opened.button("Ask").is_enabled()


@pytest.mark.full
def test_an_error_is_in_words(open_page: Open) -> None:
    opened = open_page("#keep=lots")
    opened.expected.append("status of 400")
    opened.button("Ask").click()
    problem = opened.page.locator(".turn .problem")
    problem.wait_for()
    assert problem.inner_text().startswith("keep: Input should be a valid integer")
    assert problem.get_attribute("role") == "alert"
    assert opened.text(".turn .now").endswith("failed")
    opened.page.get_by_text("Settings", exact=True).click()
    opened.page.get_by_label("Kept").fill("1")
    opened.ask()


@pytest.mark.full
def test_a_server_that_is_gone_is_named(open_page: Open) -> None:
    opened = open_page()
    opened.expected.append("ERR_")
    opened.page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    opened.button("Ask").click()
    problem = opened.page.locator(".turn .problem")
    problem.wait_for()
    assert problem.inner_text().startswith("The server can't be reached.")
    assert opened.text(".turn .now").endswith("failed")


@pytest.mark.full
def test_a_key_is_requested_and_kept_in_memory_only(open_page: Open, guarded: GuardedServer) -> None:
    opened = open_page(url=guarded.url, ready=False)
    opened.expected.append("status of 401")
    page = opened.page
    page.get_by_text("Enter a key of this server").wait_for()
    assert opened.button("Ask").is_disabled()
    page.get_by_label("API key").fill(guarded.keys["ours"])
    page.locator(".picture img").wait_for()
    opened.ask()
    assert guarded.keys["ours"] not in page.url
    assert all(guarded.keys["ours"] not in url for url in opened.requested)
    page.reload()
    page.get_by_text("Enter a key of this server").wait_for()
    assert page.get_by_label("API key").input_value() == ""


@pytest.mark.full
def test_a_conversation_goes_on(open_page: Open) -> None:
    opened = open_page("#descriptions=4&keep=2&seed=1")
    opened.ask()
    page = opened.page
    sent: list[dict[str, object]] = []
    page.on(
        "request",
        lambda request: sent.append(request.post_data_json) if "completions" in request.url else None,
    )
    follow = page.get_by_label("Ask on in this conversation")
    follow.fill("And which digit is the smallest?")
    page.get_by_role("button", name="Ask on").click()
    page.locator(".turn >> nth=1").locator(".cost").wait_for()
    assert page.locator(".turn").count() == 2
    messages = sent[0]["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    # The picture goes with the newest message, so that the gate looks again, and only there.
    assert [isinstance(message["content"], str) for message in messages] == [True, True, False]
    follow.fill("Thank you")
    page.get_by_text("Look at the picture again.").click()
    page.get_by_role("button", name="Ask on").click()
    page.get_by_text("A plain answer, without the gate").wait_for()
    assert sent[1]["model"] == sent[0]["model"]
    assert "mirl" not in sent[1]
    # A question from the form begins anew.
    opened.button("Ask").click()
    page.locator(".turn").nth(0).locator(".cost").wait_for()
    assert page.locator(".turn").count() == 1


@pytest.mark.full
def test_beside_greedy_and_16_votes(open_page: Open) -> None:
    opened = open_page("#descriptions=4&keep=2&seed=1&compare=1")
    opened.ask()
    assert opened.texts(".compare tbody th") == ["MIRL", "Greedy, one answer", "16 votes"]
    answers = opened.texts(".compare tbody .choice")
    assert answers[0] == opened.text(".answer .text")
    assert all(answers)
    tokens = [int(text.replace(",", "")) for text in opened.texts(".compare tbody td:nth-child(3)")]
    assert tokens[0] > 0
    assert 0 < tokens[1] < tokens[2]
    classes = [row.get_attribute("class") for row in opened.page.locator(".compare tbody tr").all()]
    assert classes == ["method-mirl", "method-greedy", "method-sc"]
