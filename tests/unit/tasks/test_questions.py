"""Questions: what the model is shown, and which answers are right."""

from __future__ import annotations

import pytest
from PIL import Image

from mirl_core.tasks.questions import Question, chosen, is_right, render_choices


def question(answer: str, *choices: str, **more: object) -> Question:
    return Question("q", "Which?", answer, lambda: Image.new("RGB", (4, 4)), choices=choices, **more)  # type: ignore[arg-type]


ANIMALS = ("dog", "a red cat", "12 cm", "none of the above, since there is no animal in this picture at all")


@pytest.mark.parametrize(
    "answer", ["B", "b", "(B)", "B.", "b)", "(b).", "B. a red cat", "Red cat.", "option B"]
)
@pytest.mark.parametrize("truth", ["B", "a red cat"])
def test_letter_and_text_of_the_right_option_are_right(truth: str, answer: str) -> None:
    assert is_right(question(truth, *ANIMALS), answer)


@pytest.mark.parametrize("answer", ["A", "dog", "(C)", "E", "a cat", "A. a red cat", "", None, "AB"])
def test_other_options_and_no_option_are_wrong(answer: str | None) -> None:
    assert not is_right(question("B", *ANIMALS), answer)


def test_an_options_text_is_compared_normalised_and_may_be_prose() -> None:
    assert is_right(question("C", *ANIMALS), "12.0 centimeters")
    assert is_right(question("D", *ANIMALS), f"(D)  {ANIMALS[3]}")
    assert is_right(question("D", *ANIMALS), ANIMALS[3].upper() + ".")


def test_texts_that_look_like_letters() -> None:
    germs = ("E. coli", "A. niger", "none", "other", "both")
    assert chosen(germs, "E. coli") == 0
    assert chosen(germs, "A. niger") == 1
    assert chosen(germs, "E") == 4
    assert chosen(("B", "A"), "A") == 0
    assert chosen(("1/2", "0.5"), "50/100") is None
    assert chosen(("1/2", "0.5"), "1/2") == 0


def test_a_truth_that_is_no_option_makes_no_answer_right() -> None:
    assert not is_right(question("zebra", *ANIMALS), "zebra")


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ("12", "twelve", True),
        ("0.5", r"\frac{1}{2}", True),
        ("yes", "Yes, there is", True),
        ("top left", "Top left.", True),
        ("12", "12 cm", False),
        ("The dog sleeps on an old sofa.", "the dog  sleeps on an old sofa.", True),
        ("The dog sleeps on an old sofa.", "The dog sleeps on a new sofa.", False),
        ("12", None, False),
    ],
)
def test_without_choices_the_same_answer_is_right(truth: str, answer: str | None, right: bool) -> None:
    assert is_right(question(truth), answer) is right


def test_a_rule_of_the_data_set_comes_first() -> None:
    near = question("100", accept=lambda answer: abs(float(answer) - 100) <= 5)
    assert is_right(near, "104")
    assert not is_right(near, "106")
    assert not is_right(near, None)


def test_a_conversation_has_all_pictures_and_then_the_text() -> None:
    sizes = [(4, 4), (5, 5), (6, 6)]
    first, *more = [lambda size=size: Image.new("RGB", size) for size in sizes]
    several_images = Question("q", "Which?", "A", first, more_images=tuple(more))
    conversation = several_images.conversation()
    assert conversation.brings_image
    assert [image.size for image in conversation.images] == sizes
    assert conversation.messages[0]["content"][-1] == {"type": "text", "text": "Which?"}


def test_choices_are_lines_with_letters() -> None:
    assert render_choices(("dog", "cat")) == "A. dog\nB. cat"
