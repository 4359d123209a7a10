"""The exact text that characters and numbers in words become."""

from __future__ import annotations

import pytest

from mirl_core.algorithm.answers.number_words import fold_number_words
from mirl_core.algorithm.answers.spelling import MAX_LENGTH, fold, fold_in_place

FOLDED = {
    "½": "1/2", "2½": "2 1/2", "½cup": "1/2 cup", "2½cups": "2 1/2 cups", "↉": "0/3", "1⁄2": "1/2",
    "1∕2": "1/2", "10²": "10^2", "10⁻³": "10^{-3}", "x²³": "x^{23}", "xⁿ": "x^n", "x⁺": "x^+", "H₂O": "H_2O",
    "x₁₂": "x_{12}", "–5": "-5", "5—10": "5-10", "‑": "-", "－5": "-5", "﹣5": "-5", "−5": "-5",
    "cafe\u0301": "café", "ﬁsh": "fish", "５ｃｍ": "5cm", "㎏": "kg", "℃": "°C", "45º": "45°", "45˚": "45°",
    "\u0665\u0666": "56", "don’t": "don't", "’quoted’": "’quoted’", "3∶4": "3:4", "X™": "X",
    "a\u200bb": "ab", "\ufeffa": "a", "soft\u00adhyphen": "softhyphen", "a\u00a0b\u3000c\u2009d": "a b c d",
    "  a \n\t b  ": "a b", "1st": "1st", "1ˢᵗ": "1st", "①": "1", "": "",
}  # fmt: skip


@pytest.mark.parametrize("text", FOLDED)
def test_characters_have_one_spelling(text: str) -> None:
    assert fold(text) == FOLDED[text]


def test_a_text_beyond_the_bound_keeps_its_characters() -> None:
    assert fold("½" + "a" * (MAX_LENGTH - 1)) == "1/2 " + "a" * (MAX_LENGTH - 1)
    assert fold("½" + "a" * MAX_LENGTH) == "½" + "a" * MAX_LENGTH


def test_folding_in_place_keeps_every_index() -> None:
    assert fold_in_place("答案：（Ｂ）–５\u00a0cm½é") == "答案:(B)-5 cm½é"
    assert fold_in_place("plain") == "plain"


WORDS = {
    # Cardinals.
    "zero": "0", "Thirty": "30", "twenty one": "21", "Twenty-One dogs": "21 dogs", "one hundred": "100",
    "a hundred": "100", "a hundred and one": "101", "two hundred and six": "206", "twelve hundred": "1200",
    "two thousand three hundred": "2300", "one million two hundred thousand and six": "1200006",
    "three hundred sixty-five": "365", "two thousand five": "2005", "fourty two": "42", "a dozen": "12",
    "half a dozen": "6", "two dozen": "24", "one thousand, two thousand": "1000, 2000", "ten ten": "10, 10",
    "one thousand two million": "1000, 2000000", "two thousand three thousand": "2000, 3000",
    # With digits.
    "1.5 million": "1500000", "0.5 million": "500000", "2.5 hundred": "250", "1,200 thousand": "1200000",
    "3 and a half": "3 1/2", "2 and 1/2 cups": "2 1/2 cups", "2 and 3/2": "2 and 3/2",
    "1/2 million": "1/2 million", "5 one hundred": "5, 100", "0.0001 thousand": "0.1",
    "1.2345 hundred": "123.45",
    # Signs and decimals.
    "minus five": "-5", "negative 5": "-5", "minus": "minus", "seven minus two": "7 minus 2",
    "minus minus one": "minus minus 1", "three point one four": "3.14", "zero point five": "0.5",
    "point five": "point 5", "two point": "2 point",
    # Fractions.
    "one half": "1/2", "one-half": "1/2", "two thirds": "2/3", "three quarters": "3/4",
    "one third cup": "1/3 cup", "a third": "1/3", "a third of it": "1/3 of it", "a third dog": "a 3rd dog",
    "a quarter": "1/4", "half": "1/2", "half a cup": "1/2 cup", "half of it": "1/2 of it",
    "first half": "1st half", "two and a half": "2 1/2", "two and two thirds": "2 2/3",
    "two and three thirds": "2 and 3 thirds", "four quarters": "4 quarters",
    "two hundred and three quarters": "200 3/4", "an hour and a half": "1 1/2 hour",
    "one one-hundredth": "1, 1/100",
    # Ordinals.
    "first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th", "eleventh": "11th", "twelfth": "12th",
    "thirteenth": "13th", "twenty-first": "21st", "twenty-second": "22nd", "ninety-third": "93rd",
    "the second floor": "the 2nd floor", "one second": "1 second", "a second": "a second",
    "meters per second": "meters per second",
    # A pronoun, and words that only begin like a number.
    "no one": "no one", "this one": "this one", "the one": "the one", "every one hundred": "every 100",
    "red one": "red 1", "someone": "someone", "stone": "stone", "tender": "tender", "ones": "ones",
    "none": "0", "None": "0", "none of it": "none of it", "hundred": "hundred",
    "million dollars": "million dollars", "cat": "cat", "": "",
}  # fmt: skip


@pytest.mark.parametrize("text", WORDS)
def test_numbers_in_words_become_digits(text: str) -> None:
    assert fold_number_words(text) == WORDS[text]


def test_runs_of_words_keep_their_other_words() -> None:
    assert fold_number_words("cat two and dog three") == "cat 2 and dog 3"
