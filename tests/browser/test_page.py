"""The page itself: accessible, within every width, usable by keyboard, with links that hold no picture."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.opened import Opened, axe
from tests.helpers.image_requests import image_part

pytestmark = pytest.mark.full
Open = Callable[..., Opened]
FEW = "#descriptions=4&keep=2&seed=1"
PNG = base64.b64decode(image_part(3)["image_url"]["url"].partition(",")[2])


def faults(opened: Opened) -> list[Any]:
    """Return what axe-core finds: the rule and the elements."""
    opened.page.evaluate(axe())
    report = opened.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in report["violations"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(open_page: Open, width: int, theme: str) -> None:
    opened = open_page(f"{FEW}&compare=1", width, theme)
    assert faults(opened) == []
    opened.page.get_by_text("Settings", exact=True).click()
    opened.ask()
    opened.page.locator(".toggle").first.click()
    opened.page.get_by_text("Its reasoning").click()
    opened.page.wait_for_timeout(700)  # colours are those at the end of an animation
    assert faults(opened) == []
    opened.button("Score descriptions").click()
    opened.page.get_by_label("Descriptions, one a line").fill("red 9 top left")
    opened.button("Score").click()
    opened.page.locator(".scores .row").wait_for()
    opened.page.wait_for_timeout(700)
    assert faults(opened) == []


@pytest.mark.parametrize("width", [360, 768, 1280, 3840])
def test_nothing_is_wider_than_the_window(open_page: Open, width: int) -> None:
    opened = open_page(f"{FEW}&compare=1", width)
    opened.ask()
    widths = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths == [width, width]
    table = opened.page.evaluate("(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)"
                                 "(document.querySelector('.compare'))")  # fmt: skip
    assert table <= 0


def test_a_link_holds_question_and_settings_and_nothing_else(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    page.get_by_label("Question", exact=True).fill("How many & which?")
    page.get_by_label("How it answers").select_option("steered")
    page.get_by_text("Compare with greedy").click()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Seed").fill("7")
    page.get_by_label("API key").fill("secret-0123456789")
    fields = parse_qs(urlsplit(page.url).fragment)
    expected = {"q": ["How many & which?"], "preset": ["steered"], "compare": ["1"], "seed": ["7"]}
    assert fields == expected
    other = open_page(f"#{urlsplit(page.url).fragment}", ready=False).page
    assert other.get_by_label("Question", exact=True).input_value() == "How many & which?"
    assert other.get_by_label("How it answers").input_value() == "steered"
    assert other.get_by_label("Compare with greedy").is_checked()
    assert other.locator(".picture").count() == 0


def test_a_question_by_keyboard_alone(open_page: Open) -> None:
    page = open_page(FEW).page
    page.get_by_label("Question", exact=True).focus()
    page.keyboard.press("Control+Enter")
    page.get_by_label("Ask on in this conversation").wait_for()
    page.get_by_label("Question", exact=True).focus()
    for _ in range(3):  # the preset, the comparison, the button
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Ask"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_pictures_are_picked_dropped_and_pasted(open_page: Open, tmp_path: Path) -> None:
    page = open_page().page
    page.get_by_role("button", name="Remove picture 1").click()
    file = tmp_path / "own.png"
    file.write_bytes(PNG)
    page.locator(".source:not(.camera) input").set_input_files(file)
    page.locator(".picture").nth(0).wait_for()
    for kind, count in (("drop", 2), ("paste", 3)):
        page.evaluate(
            """([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "own.png", {type: "image/png"}));
              const event = kind === "drop"
                ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
              document.body.dispatchEvent(event);
            }""",
            [kind, list(PNG)],
        )
        page.locator(".picture").nth(count - 1).wait_for()
    sources = {page.locator(".picture img").nth(index).get_attribute("src") for index in range(3)}
    assert sources == {"data:image/png;base64," + base64.b64encode(PNG).decode()}
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    page.locator(".source:not(.camera) input").set_input_files(text)
    page.get_by_text("text.txt can't be read as a picture.").wait_for()


def test_a_large_photo_is_sent_smaller(open_page: Open, tmp_path: Path) -> None:
    from PIL import Image

    page = open_page().page
    file = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 1000), "teal").save(file)
    page.locator(".source:not(.camera) input").set_input_files(file)
    shown = page.locator(".picture img").nth(1)
    shown.wait_for()
    assert (shown.get_attribute("src") or "").startswith("data:image/jpeg;base64,")
    assert shown.evaluate(
        "(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    ) == [
        1536,
        384,
    ]
