"""The exact kind and key of an answer: units, bounds, signs and markup, each pinned on both sides."""

from __future__ import annotations

import logging
import math
from fractions import Fraction

import pytest

from mirl_core.algorithm.answers import mathematics, normalize
from mirl_core.algorithm.answers.markup import strip_markup
from mirl_core.algorithm.answers.number_words import NUMBER_WORDS
from mirl_core.algorithm.answers.quantities import read_quantity, write_quantity
from mirl_core.algorithm.answers.structured import read_json

# Every spelling of a unit, and what it is written as.
UNITS = {
    "%": ["%", "percent", "per cent", "Percent"],
    "$": ["$", "dollar", "dollars", "usd", "USD"],
    "€": ["€", "euro", "euros", "eur"],
    "£": ["£", "gbp"],
    "¥": ["¥"],
    "°": ["°", "degree", "degrees", "deg"],
    " °c": ["°C", "° C", "degrees celsius", "degree Celsius"],
    " °f": ["°F", "° F", "degrees fahrenheit", "degree Fahrenheit"],
    " mm": ["mm", "millimeter", "millimetre", "millimeters"],
    " cm": ["cm", "centimeter", "centimetre", "CM", "cm."],
    "m": ["m", "meter", "metre", "meters"],
    " km": ["km", "kilometer", "kilometre"],
    " in": ["in", "inch", "inches"],
    " ft": ["ft", "foot", "feet"],
    "g": ["g", "gram", "grams"],
    " kg": ["kg", "kilogram", "kilo", "kilos"],
    " ml": ["ml", "milliliter", "millilitre"],
    "l": ["l", "L", "liter", "litre", "litres"],
    "s": ["s", "second", "sec", "seconds"],
    " min": ["min", "minute", "minutes"],
    "h": ["h", "hour", "hr", "hrs"],
    " m²": ["m²", "m2", "m^2", "square meter", "square metre", "sq m", "square meters"],
    " cm²": ["cm²", "cm2", "cm^2", "square centimeter", "square centimetre"],
    " m³": ["m³", "m3", "m^3", "cubic meter", "cubic metre"],
    # Unknown units: long ones lose case and plural, short ones keep both.
    " dog": ["dogs", "dog", "DOGS"],
    " glass": ["glass", "Glass"],
    " gas": ["gas"],
    " MW": ["MW"],
    " mW": ["mW"],
    "M": ["M"],
    "G": ["G"],
    " FAX": ["FAX", "FAX."],
}

QUANTITIES: dict[str, str | None] = {
    "$-5": "-5$", "-$5": "-5$", "- $5": "-5$", "−$5": "-5$", "+5": "5", "+$5": "5$", "$+5": "5$", "-0": "0",
    "$ 5": "5$", "€5": "5€", "£5": "5£", "¥5": "5¥", "- 5": "-5", "-5 cm": "-5 cm",
    "1,234": "1234", "12,345.5": "12345.5", "1,234,567,890,123": "1234567890123",
    "123456789012": "123456789012",
    "123,456": "123456", "1,00": None, "1,000,00": None, "1234,567": None, "1.2.3": None, "12,": None,
    "5.": "5", ".25": "0.25", ".": None, "": None, "cm": None, "5": "5", "007": "7", "1,000.": "1000",
    "1e3": "1000", "1E3": "1000", "1.5e-3": "0.0015", "2e−1": "0.2", "2e+1": "20", "1x10^3": "1000",
    "1 × 10^{-3}": "0.001", "1×10^{2} cm": "100 cm", "1 x10^0001": "10", "1x10^00001": None,
    "1e300": "1" + "0" * 300, "1e301": None, "1e-300": "0." + "0" * 299 + "1", "1e-301": None,
    "1" + "0" * 99: "1" + "0" * 99, "1" + "0" * 100: None,
    "1/3": "1/3", "2/6 cm": "1/3 cm", "6/4": "1.5", "1/0": None, "1/8": "0.125", "-1/7": "-1/7",
    "3/10": "0.3",
    "1/100000000000000": "0.00000000000001", "1/1000000000000000": None, "1/1.5": None,
    "twenty": "20", "Twenty dogs": "20 dog", "zero": "0", "sixteen cats": "16 cat", "six cm": "6 cm",
    "sixty": "60", "tencm": None,
    "3 big red dogs": "3 big red dog", "3 very big red dogs": None, "5 " + "a" * 32: "5 " + "a" * 32,
    "5 " + "a" * 33: None, "5 -": None, "5 3": None, "5 km/h": "5 km/h", "5 x": None, "5a": None, "5 b": None,
    "5c": None, "5n": None, "5 y": None, "5z": None, "5 k": "5k", "5 kg·m": "5 kg·m", "5 m_a": "5 m_a",
    "5 (a)": None,
}  # fmt: skip


def test_every_spelling_of_a_unit_has_that_units_key() -> None:
    read = {f"12 {spelling}": f"12{key}" for key, spellings in UNITS.items() for spelling in spellings}
    assert {text: read_quantity(text) for text in read} == read


def test_quantities() -> None:
    assert {text: read_quantity(text) for text in QUANTITIES} == QUANTITIES


def test_number_words_count_from_zero() -> None:
    assert len(NUMBER_WORDS) == 21
    words = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    for value, word in enumerate([*words.split(), "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]):
        assert read_quantity(word) == read_quantity(word.upper()) == str(value)


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (Fraction(0), "", "0"), (Fraction(-3), "", "-3"), (Fraction(1, 2), "", "0.5"),
        (Fraction(-1, 20), "", "-0.05"), (Fraction(12345, 1000), "", "12.345"), (Fraction(1, 6), "", "1/6"),
        (Fraction(1, 15), "", "1/15"), (Fraction(7, 80), "", "0.0875"), (Fraction(101, 25), "", "4.04"),
        (Fraction(12), "%", "12%"), (Fraction(12), "cm", "12 cm"), (Fraction(1, 3), "m²", "1/3 m²"),
    ],
)  # fmt: skip
def test_a_value_is_written_exactly(value: Fraction, unit: str, written: str) -> None:
    assert write_quantity(value, unit) == written


# text → (kind, key), where a bound or a piece of markup decides.
KEYS = {
    "four blue small round cups": ("short", "4 blue small round cups"),
    "one two six two four": ("short", "1, 2, 6, 2, 4"),
    "on two six two four five": ("prose", "on two six two four five"),
    "a b c d e f": ("prose", "a b c d e f"),
    "a b c d e": ("short", "a b c d e"),
    "On the a an": ("short", "on"),
    "the a an": ("short", "the a an"),
    "red‐car": ("short", "red car"),
    "Red-Car, (new)!": ("short", "red car new"),
    "x" * 64: ("short", "x" * 64),
    "x" * 65: ("prose", "x" * 65),
    "犬" * 10: ("short", "犬" * 10),
    "犬" * 11: ("prose", "犬" * 11),
    "猫と犬 ネコとイヌ 고양이": ("prose", "猫と犬 ネコとイヌ 고양이"),
    "猫と犬 ネコと": ("short", "猫と犬 ネコと"),
    "yes, it is": ("yes_no", "yes"),
    "No! Never": ("yes_no", "no"),
    "YES": ("yes_no", "yes"),
    "no.": ("yes_no", "no"),
    "no!": ("yes_no", "no"),
    "yes?": ("short", "yes"),
    "yes, 5": ("short", "yes 5"),
    "yes it is": ("yes_no", "yes"),
    "yes trees": ("yes_no", "yes"),
    "no trees": ("short", "no trees"),
    "no and it is red": ("yes_no", "no"),
    "yes and no": ("short", "yes and no"),
    "no or yes": ("short", "no or yes"),
    "no. " + "a" * 252: ("yes_no", "no"),
    "no. " + "a" * 253: ("prose", "no. " + "a" * 253),
    "option b: " + "x" * 246: ("option", "B"),
    "option b: " + "x" * 247: ("prose", "option b: " + "x" * 247),
    "(b) " + "x" * 252: ("option", "B"),
    "(b) " + "x" * 253: ("prose", "(b) " + "x" * 253),
    "b) " + "x" * 253: ("option", "B"),
    "b) " + "x" * 254: ("prose", "b) " + "x" * 254),
    "Choice (c)) cat": ("option", "C"),
    "option k": ("option", "K"),
    "choice z.": ("option", "Z"),
    "(j): cat": ("option", "J"),
    "(j). cat": ("option", "J"),
    "(j)) cat": ("short", "j cat"),
    "(k) cat": ("short", "k cat"),
    "a: cat": ("option", "A"),
    "j": ("option", "J"),
    "k": ("short", "k"),
    "option b:": ("option", "B"),
    "Thus, the final answer is: 12": ("number", "12"),
    "so the answer is B": ("option", "B"),
    "Thus right choice: (D)": ("option", "D"),
    "correct answer : 7": ("number", "7"),
    "the answer is:12": ("number", "12"),
    "answer 5": ("short", "answer 5"),
    "the answer is the answer is 5": ("short", "answer is 5"),
    "$$5$$": ("number", "5"),
    "$5$": ("number", "5"),
    "\\(5\\)": ("number", "5"),
    "\\[5\\]": ("number", "5"),
    "**5**": ("number", "5"),
    "`5`": ("number", "5"),
    '"5"': ("number", "5"),
    "“5”": ("number", "5"),
    "'5'": ("number", "5"),
    "‘5’": ("number", "5"),
    '**"5."**': ("number", "5"),
    '`"**5**"`': ("number", "5"),
    "5..": ("short", "5"),
    "****": ("prose", "****"),
    "$a$ and $b$": ("short", "$a$ and $b$"),
    "\\text{cat} \\mathrm{dog}": ("short", "cat dog"),
    "\\mathbf{5}": ("number", "5"),
    "\\textbf{5}": ("number", "5"),
    "\\boxed{5}": ("number", "5"),
    "1{,}000": ("number", "1000"),
    "5\\,cm": ("number", "5 cm"),
    "5\\!cm": ("number", "5 cm"),
    "5\\;cm": ("number", "5 cm"),
    "5\\:cm": ("number", "5 cm"),
    "5\\ cm": ("number", "5 cm"),
    "5~cm": ("number", "5 cm"),
    "45^\\circ": ("number", "45°"),
    "45^{\\circ}": ("number", "45°"),
    "5\\%": ("number", "5%"),
    "\\$5": ("number", "5$"),
    "１２％": ("number", "12%"),
    "１．５": ("number", "1.5"),
    "a\u3000b\u00a0c\u202fd": ("short", "a b c d"),
    "x = 5 cm": ("number", "5 cm"),
    "x=5": ("number", "5"),
    "x = \\frac{1}{2}": ("number", "0.5"),
    "X = 5": ("number", "5"),
    "Red: the answer is 5": ("short", "red answer is 5"),
    '"5" .': ("number", "5"),
    # Three layers are taken off, not four.
    "'“\"5\"”'": ("number", "5"),
    "‘'“\"5\"”'’": ("short", "5"),
    "[yes]": ("short", "yes"),
    "no 5?": ("short", "no 5"),
    "5-10": ("short", "5-10"),
    "3/4/2020": ("short", "3/4/2020"),
    "10:30": ("short", "10:30"),
    "  A  b\n\t" + "c " * 200: ("prose", "a b " + " ".join("c" * 200)),
    "x" * 257: ("prose", "x" * 257),
    " " * 100 + "12" + " " * 100: ("number", "12"),
    # Longer than 256 characters is prose.
    "1" + " " * 254 + "2": ("short", "1 2"),
    "1" + " " * 255 + "2": ("prose", "1 2"),
}


@pytest.mark.parametrize("text", KEYS, ids=lambda text: text[:24])
def test_kind_and_key(text: str) -> None:
    answer = normalize(text)
    assert (answer.kind, answer.key) == KEYS[text]
    assert answer.text == answer.key


# Whether a text is read as mathematics, at each of the bounds.
MATHEMATICAL = {
    "x+1": True, "x-1": True, "1-x": True, "x - 1": True, "x" * 119 + "=": False, "xy+" * 39 + "xyz": False,
    "xy+" * 39 + "xy": True, "xy+" * 39 + "xy1": True, "xy+" * 39 + "xy12": False, "xyz+1": False,
    "sin+1": True,
    "x+": False, "x-": False, "x*": False, "x/": False, "x^": False, "x=": False, "1<": False, "1>": False,
    "|x|": True, "x<2": True, "x>2": True, "x/2": True, "x*2": True, "x=2": True, "2x": True, "2(x)": True,
    "2X": False, "(1, 2)": True, "[1, 2)": True, "\\{1, 2\\}": True, "(1; 2)": False, "(1)": False,
    "x+1!": False,
    "x+1?": False, "\\foo{x}+1": False, "\\frac{1}{2}": True, "\\theta+1": True, "\\sum x": False,
    "1" * 15 + "+1": True, "1" * 16 + "+1": False, "x^2": True, "x^200": True, "x^201": False,
    "x^{200}": True,
    "x^{-200}": True, "x^{1/2}": True, "x^{x}": True, "x^{1234567}": False, "x^2+x^100": True,
    "x^2+x^101": False,
    "x^y": True, "x^\\pi": True, "x^{2}^{3}": False, "x^2^3": False, "x^{2x}": True, "x^{xyz}": False,
    "9^{199+1}": True, "9^{200+1}": False, "x^{66x}": True, "x^{194xy}": True, "x^{195xy}": False,
    "x^a+x^66": True, "x^a+x^67": False,
    "x^1+x^0+x^200": True, "x^{0}+x^{200}": True, "x^{}": False, "x^-1": False, "x^{ 2 }": True, "": False,
    "1+X": True, "x\\cdot y": True, "\\Delta+1": False,
    "cat": False, "1 - 2": True, "1- 2": True, "x^{a}": True,
}  # fmt: skip


def test_what_is_read_as_mathematics() -> None:
    assert {text: mathematics.looks_mathematical(text) for text in MATHEMATICAL} == MATHEMATICAL


@pytest.mark.parametrize(
    ("text", "value", "key"),
    [
        (r"\frac{2}{6}", Fraction(1, 3), r"\frac{2}{6}"),
        ("0.1 + 0.2", Fraction(3, 10), "0.1+0.2"),
        (r"\frac{1}{1000}+0", Fraction(1, 1000), r"\frac{1}{1000}+0"),
        (r"\frac{1}{1001}+0", Fraction(1, 1001), r"\frac{1}{1001}+0"),
        ("2^{-1}", Fraction(1, 2), "2^{-1}"),
        (r"\sqrt{2}^{2}-2", Fraction(0), r"\sqrt{2}^{2}-2"),
        (r"\sqrt{2}", None, "≈1.41421356237"),
        (r"\sqrt{-4}+0", None, "≈0+i2.00000000000"),
        (r"\sqrt{-4}+\sqrt{2}", None, "≈1.41421356237+i2.00000000000"),
        ("x < 3", None, "StrictLessThan(≈0.753959971014 0.521532463608; 3)"),
        ("3 > x", None, "StrictLessThan(≈0.753959971014 0.521532463608; 3)"),
        (r"3 \ge x", None, "LessThan(≈0.753959971014 0.521532463608; 3)"),
        ("3 = x", None, "Equality(3; ≈0.753959971014 0.521532463608)"),
        ("x = 3", None, "Equality(3; ≈0.753959971014 0.521532463608)"),
        (r"x \ne 3", None, "Unequality(3; ≈0.753959971014 0.521532463608)"),
        ("(3, 1)", None, "Tuple(3; 1)"),
        (r"\{3, 1\}", None, "FiniteSet(1; 3)"),
        (r"\infty", None, "oo"),
        ("x y", None, "≈0.913934083504 0.560999485477"),
        ("y x", None, "≈0.913934083504 0.560999485477"),
        (r"x \pm 1", None, "FiniteSet(≈-0.246040028986 -0.478467536392; ≈1.75395997101 1.52153246361)"),
        ("[1, 2]", None, "Interval(1; 2; False; False)"),
        # No number comes of an unknown function, and nothing of half an expression.
        ("f(x)+1", None, "f(x) + 1"),
        ("2x)", None, "2x)"),
        ("|x", None, "|x"),
    ],
)
def test_the_key_of_an_expression(text: str, value: Fraction | None, key: str) -> None:
    assert mathematics.canonical(text) == (value, key)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Rationals are exact.
        ("1+10^{-27}", 1 + Fraction(1, 10**27)),
        ("10^{-99}", Fraction(1, 10**99)),
        ("10^{-200}", Fraction(1, 10**200)),
        (r"2 \cdot 10^{-100}", Fraction(2, 10**100)),
        # Roots that are rational: to 27 digits.
        (r"\sqrt{4}+10^{-28}", Fraction(2)),
        (r"\sqrt{4}+10^{-26}", None),
        (r"\sqrt{0.25}", Fraction(1, 2)),
        (r"10^{-45}\sqrt{2}", None),
        (r"\sqrt{2}-\sqrt{2}", Fraction(0)),
    ],
)
def test_how_close_to_a_fraction_a_value_is_that_fraction(text: str, value: Fraction | None) -> None:
    assert mathematics.canonical(text)[0] == value


def test_the_form_for_people_is_the_spelling_of_mathematics_and_the_key_of_json() -> None:
    answer = normalize("  \\pi  \\cdot 2.")
    assert (answer.kind, answer.key, answer.text) == ("math", "≈6.28318530718", r"\pi \cdot 2")
    assert normalize('{"b": 1.0, "a": 2}').text == '{"a":2,"b":1}'


def test_parsing_is_silent_and_silences_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("math_verify.parser").setLevel(logging.NOTSET)
    mathematics.canonical.cache_clear()
    with caplog.at_level(logging.INFO):
        assert mathematics.canonical("x+1")[1] == "≈1.75395997101 1.52153246361"
        assert logging.getLogger().level == logging.INFO
    assert caplog.messages == []


@pytest.mark.parametrize(("text", "same"), [("a red car", True), ("x" * 64, True), ("x" * 65, False)])
def test_only_a_short_answer_is_normalised_once(text: str, same: bool) -> None:
    assert (normalize(text) is normalize(text)) is same


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("y = AB", "y = AB"),
        ("y = 2x", "y = 2x"),
        (r"x = \Pi", r"\Pi"),
        ("x = y = 5", "x = y = 5"),
        ("√16", r"\sqrt{16}"),
        ("√(x+1)", r"\sqrt{(x+1)}"),
        ("π", r"\pi"),
        ("...", "..."),
    ],
)
def test_what_is_left_without_markup(text: str, bare: str) -> None:
    assert strip_markup(text) == bare


def test_a_value_without_bound_is_written_by_its_text() -> None:
    assert mathematics.canonical("10^{180} \\cdot 10^{120}")[0] == 10**300
    assert mathematics.canonical("10^{180} \\cdot 10^{121}") == (None, "10^{180}\\cdot10^{121}")
    assert mathematics.canonical("10^{-180} \\cdot 10^{-20}")[0] == Fraction(1, 10**200)
    assert mathematics.canonical("123456789^{-35}")[0] == Fraction(1, 123456789**35)
    assert mathematics.canonical("123456789^{-38}") == (None, "123456789^{-38}")
    assert math.log10(mathematics.MAX_VALUE) == 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"b": 1.0, "a": [2.50, true, null]}', ("json", '{"a":[2.5,true,null],"b":1}')),
        ('```json\n{"a": 1}\n```', ("json", '{"a":1}')),
        ("```\n[1]```", ("json", "[1]")),
        ("```python\n[1]```", None),
        ("```json\n1\n```", None),
        ('["ä"]', ("json", '["ä"]')),
        ('{"name": "f"}', ("json", '{"name":"f"}')),
        ('{"arguments": {}}', ("json", '{"arguments":{}}')),
        ('{"name": "f", "arguments": {"x": 1.0}}', ("tool_call", '[{"arguments":{"x":1},"name":"f"}]')),
        ('{"name": "f", "arguments": "{\\"x\\": 2.0}"}', ("tool_call", '[{"arguments":{"x":2},"name":"f"}]')),
        ('{"arguments": "text"}', ("json", '{"arguments":"text"}')),
        ('{"name": "f", "arguments": "no json"}', None),
        ('<tool_call>{"a": 1}</tool_call>\n<tool_call>{"b": 2}', ("tool_call", '[{"a":1},{"b":2}]')),
        ('<tool_call>{"a": 1} </tool_call> ', ("tool_call", '[{"a":1}]')),
        ('<tool_call>{"a": 1', None),
        ("<b>", None),
        ("12", None),
        ('"a"', None),
        ("[NaN]", None),
        ("[Infinity]", None),
        ("[-Infinity]", None),
        ("[1" + " " * (100_000 - 3) + "]", ("json", "[1]")),
        ("[1" + " " * (100_000 - 2) + "]", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_structured_answers(text: str, expected: tuple[str, str] | None) -> None:
    assert read_json(text) == expected
