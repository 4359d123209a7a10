"""The mode that scores descriptions, in real Chromium against a real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.opened import Opened

pytestmark = pytest.mark.full
Open = Callable[..., Opened]


def test_descriptions_are_ranked_and_their_tokens_coloured(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    opened.button("Score descriptions").click()
    assert opened.button("Score").is_disabled()
    page.get_by_label("Descriptions, one a line").fill("red 9 top left, blue 3 top right\n\nred 1 top left\n")
    with page.expect_response("**/v1/mirl/score") as scored:
        opened.button("Score").click()
    page.locator(".scores .row").first.wait_for()
    data = sorted(scored.value.json()["data"], key=lambda score: -score["mi_per_token"])
    assert len(data) == 2
    assert opened.texts(".scores .row .text") == [score["text"] for score in data]
    values = [float(text.replace("−", "-").replace("+", "")) for text in opened.texts(".scores .row .value")]
    assert values == [pytest.approx(score["mi_per_token"], abs=0.0051) for score in data]
    # A token's tooltip has its MI; white space between tokens is not a token's.
    first = page.locator(".scores .row").first.locator(".token")
    assert first.count() == data[0]["tokens"] == len(data[0]["token_texts"])
    title = first.first.get_attribute("title") or ""
    shown = float(title.removesuffix(" nats").replace("−", "-").replace("+", ""))
    assert shown == pytest.approx(data[0]["token_pmi"][0], abs=0.0051)
    assert "λ 1" in opened.text(".scores .now")


def test_a_refusal_is_in_words(open_page: Open) -> None:
    opened = open_page("#mode=score&mi_weight=-1&d=a+red+one")
    opened.expected.append("status of 400")
    opened.button("Score").click()
    problem = opened.page.locator(".stories .problem")
    problem.wait_for()
    assert "mi_weight" in problem.inner_text()
