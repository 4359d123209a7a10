"""Generated answers: spellings of a value merge, distinct values don't, the last statement wins."""

from __future__ import annotations

import time
import unicodedata
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.answers import equivalent, extract, group, normalize
from mirl_core.algorithm.answers.number_words import NUMBER_WORDS
from mirl_core.algorithm.answers.spelling import fold
from mirl_core.config import Tags

few = settings(max_examples=25, deadline=None)

SMALL = [*NUMBER_WORDS[:20]]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# Spellings of units that are all different.
UNITS = {
    "m": ["m", "meters", "metres"], "cm": ["cm", "centimeters", "CM"], "kg": ["kg", "kilograms", "Kg"],
    "s": ["s", "seconds", "sec"], "min": ["min", "minutes"], "l": ["L", "l", "litres"],
    "%": ["%", "percent", "pct"], "$": ["dollars", "USD"], "°c": ["°C", "degrees Celsius", "℃"],
    "m/s": ["m/s", "meters per second", "m s^{-1}"], "m²": ["m²", "m^2", "square meters"],
    "dog": ["dogs", "dog"], "mW": ["mW"], "MW": ["MW"], "": [""],
}  # fmt: skip


def in_words(value: int, conjunction: bool, hyphen: str) -> str:
    """Spell a whole number below a million in English."""
    if value < 20:
        return SMALL[value]
    if value < 100:
        tens, digit = divmod(value, 10)
        return TENS[tens] + (f"{hyphen}{SMALL[digit]}" if digit else "")
    size, name = (100, "hundred") if value < 1000 else (1000, "thousand")
    count, rest = divmod(value, size)
    head = f"{in_words(count, conjunction, hyphen)} {name}"
    if not rest:
        return head
    joint = " and " if conjunction and size == 100 else " "
    return f"{head}{joint}{in_words(rest, conjunction, hyphen)}"


@given(
    st.integers(0, 999_999),
    st.booleans(),
    st.sampled_from([" ", "-", "‑"]),
    st.sampled_from([str, str.title, str.upper]),
)
@few
def test_numbers_in_words_are_their_digits(value: int, conjunction: bool, hyphen: str, case: object) -> None:
    assert callable(case)
    spelled = case(in_words(value, conjunction, hyphen))
    assert normalize(spelled) == normalize(str(value))
    assert normalize(f"{spelled} dogs") == normalize(f"{value:,} dogs")
    assert normalize(f"minus {spelled}") == normalize(str(-value))
    assert normalize(spelled) != normalize(str(value + 1))


@given(
    st.integers(1, 10**12),
    st.integers(0, 999),
    st.sampled_from("-‐‑–—−－"),
    st.sampled_from([",", " ", "\u00a0", "\u202f"]),
)
@few
def test_spellings_of_a_decimal_merge(whole: int, rest: int, minus: str, gap: str) -> None:
    plain = f"-{whole}.{rest:03d}"
    spaced = f"{minus}{whole:,}.{rest:03d}0".replace(",", gap)
    wide = "".join(chr(ord(character) + 0xFEE0) for character in plain)
    spellings = [plain, spaced, wide, f"${plain}$", f" {plain} ", f"**{plain}**", f"The answer is {plain}."]
    assert group([*spellings, plain[1:]]) == [list(range(len(spellings))), [len(spellings)]]


@given(st.integers(0, 500), st.sampled_from("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"), st.sampled_from(["", " cm", " cups"]))
@few
def test_spellings_of_a_fraction_merge(whole: int, vulgar: str, unit: str) -> None:
    part = Fraction(unicodedata.numeric(vulgar)).limit_denominator(10)
    value = whole + part
    ratio = f"{value.numerator}/{value.denominator}"
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    mixed = f"{whole} {part.numerator}/{part.denominator}" if whole else ratio
    spelled = f"{whole or ''}{vulgar}{unit}"
    spellings = [
        spelled,
        f"{ratio}{unit}",
        f"{latex}{unit}",
        f"{mixed}{unit}",
        f"{mixed.replace('/', '⁄')}{unit}",
    ]
    others = [f"{whole}{unit}", f"{whole + 1}{unit}", f"{value.denominator}/{value.numerator}{unit}"]
    assert group([*spellings, *others])[0] == list(range(len(spellings)))


quantities = st.tuples(st.fractions(-999, 999, max_denominator=50), st.sampled_from(sorted(UNITS)))


@given(quantities, quantities, st.data())
@few
def test_a_value_is_its_number_and_its_unit(
    first: tuple[Fraction, str], second: tuple[Fraction, str], data: st.DataObject
) -> None:
    def spell(quantity: tuple[Fraction, str]) -> str:
        value, unit = quantity
        return f"{value} {data.draw(st.sampled_from(UNITS[unit]))}".strip()

    a, b = spell(first), spell(second)
    assert equivalent(normalize(a), normalize(b)) is (first == second)
    assert equivalent(normalize(a), normalize(spell(first)))
    assert normalize(a).kind == "number"


@given(
    st.integers(-999, 999),
    st.sampled_from(["or 6", "of 6", "and more", "x 4 y", "?!", "(a)", "or so", "abc 7", "-ish"]),
)
@few
def test_a_number_followed_by_anything_is_not_that_number(value: int, rest: str) -> None:
    assert normalize(f"{value} {rest}") != normalize(str(value))
    assert normalize(f"{value}{rest}") != normalize(str(value))


letters = st.text("abcdefghijklmnopqrstuvwxyzéüñçå", min_size=2, max_size=8)


@given(st.lists(letters, min_size=1, max_size=4))
@few
def test_text_does_not_depend_on_its_encoding(words: list[str]) -> None:
    text = " ".join(words)
    variants = [
        text, unicodedata.normalize("NFD", text), text.upper().replace("ẞ", "ß"), text.replace(" ", "\u00a0"),
        f" {text}\u200b ", f"“{text}”", f"{text}.",
    ]  # fmt: skip
    assert len(group(variants)) == 1
    assert normalize(text) != normalize(f"{text} A")


@given(st.text(max_size=60))
@few
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


answers = st.text("0123456789½–- abxyzAB().,/%$^{}\\cm²yesno", max_size=14)


@given(st.lists(answers, min_size=2, max_size=6), st.randoms(use_true_random=False))
@few
def test_equivalence_is_reflexive_symmetric_and_groups_alike_in_any_order(
    texts: list[str], random: object
) -> None:
    keys = [normalize(text) for text in texts]
    for a in keys:
        assert equivalent(a, a)
        for b in keys:
            assert equivalent(a, b) is equivalent(b, a)
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = {frozenset(order[index] for index in members) for members in group([texts[i] for i in order])}
    assert shuffled == {frozenset(members) for members in group(texts)}


GAPS = [" — ", "—", "; ", ", ", ". ", " - ", ": ", "! ", " "]
COMMENTS = ["there is a dog", "it is", "the dog isn't there", "that is a cat on the mat", "I see 3 dogs"]


@given(st.sampled_from(["yes", "Yes", "YES", "no", "No"]), st.sampled_from(GAPS), st.sampled_from(COMMENTS))
@few
def test_a_first_word_decides_yes_and_no(word: str, gap: str, rest: str) -> None:
    assert normalize(f"{word}{gap}{rest}") == normalize(word.lower())
    assert normalize(word).kind == "yes_no"


FORMS = (
    "The answer is {}", "Therefore, the answer is {}", "**Answer: {}**", "Final answer: {}", r"\boxed{{{}}}",
    "The correct answer is {}", "### Final Answer\n{}", "So the answer is: {}", "Answer：{}",
    "**Final Answer:** {}",
    r"So it is $\boxed{{{}}}$", "The final answer would be {}", "答案：{}",
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from(FORMS), st.sampled_from(["12", "(B)", "C", "5 cm", "yes", r"\frac{1}{2}"])),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.sampled_from(["I count again.", "The mark is on the leg.", "That is all."]), max_size=2),
)
@few
def test_the_last_statement_wins_whatever_its_form(
    statements: list[tuple[str, str]], after: list[str]
) -> None:
    text = "\n".join(["I look at it.", *(form.format(answer) for form, answer in statements), *after])
    _, answer = extract(f"<think>a</think>{text}", Tags(), finished=True)
    assert answer == statements[-1][1]


PIECES = (
    "answer: ", "the answer is ", r"\boxed{", "}", "**", "\n", "- ", "$", "½", "²", "one ", "hundred ",
    "and ", "5", "'", "\u0301", "e", "(", "^{", r"\frac", r"\sqrt{", "x", "=", "/", ",", ".", " ", "A ",
    "Yes", "%", "~", "√",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), st.integers(1, 400))
@few
def test_time_is_bounded(pieces: list[str], count: int) -> None:
    normalize("x^2+1")  # the first expression also pays for importing sympy
    text = "".join(pieces) * count
    started = time.process_time()
    normalize(text)
    extract(text, Tags(), finished=True)
    assert time.process_time() - started < 1


EDGES = (
    "1e101", "1e102", "101e", "102e", "1e-41", "2e-41", "10^{-45}", "10^{-46}", r"10^{-45}\pi",
    r"10^{-46}\pi",
    "10^{-200}", "0", "--5", "5", "-5", "+-6", "6", "-6", r"\tan(\pi/2)", r"\frac{1}{0}", "1e301", "1e302",
)  # fmt: skip


def test_values_at_the_edges_are_all_different() -> None:
    assert group(EDGES) == [[index] for index in range(len(EDGES))]


@pytest.mark.parametrize(
    "spellings",
    [["1e101", "10^{101}", r"10 \cdot 10^{100}"], ["1e-50", "10^{-50}"], [r"\tan(\pi/2)", "tan(pi/2)"]],
)
def test_values_at_the_edges_have_spellings_too(spellings: list[str]) -> None:
    assert len(group(spellings)) == 1
