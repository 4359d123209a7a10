"""Numbers in words as digits: `twenty-one dogs` is `21 dogs`, `two and a half` is `2 1/2`, `1.5 million` is
1500000.

English cardinals, ordinals, fractions, decimals after "point", dozens, and scales after digits. A word that
is no number in its context stays: "one" after a determiner (no one, this one), "second" as a unit of time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["NUMBER_WORDS", "fold_number_words"]

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

_SMALL = {word: value for value, word in enumerate(NUMBER_WORDS[:20])}
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MULTIPLES = _SCALES | {"hundred": 100, "dozen": 12}
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14,
    "fifteenth": 15, "sixteenth": 16, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20,
    "thirtieth": 30, "fortieth": 40, "fiftieth": 50, "sixtieth": 60, "seventieth": 70, "eightieth": 80,
    "ninetieth": 90, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
# A second is a unit of time, never a part of a whole.
_PART = {word: value for word, value in _ORDINALS.items() if value > 2} | {"half": 2, "quarter": 4}
_PARTS = {f"{word}s": value for word, value in _PART.items()} | {"halves": 2}

_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")
_WORDS = "|".join(
    [*_SMALL, *_TENS, *_MULTIPLES, *_ORDINALS, "half", "quarters?", "none", "minus", "negative"]
)
_ANY = re.compile(rf"\b(?:{_WORDS})|\d and \d+/", re.I)
_AND_A_HALF = re.compile(r"\b(?:an?|one) (\w+) and a half\b", re.I)
_JOINT = re.compile(r"\s|\s?-\s?")
_END = ""
_BEFORE_A_PRONOUN = frozenset({
    "no", "any", "every", "some", "this", "that", "which", "each", "another", "other", "the", "only",
})  # fmt: skip

_Read = tuple[Fraction, int]


def fold_number_words(text: str) -> str:
    """Return `text` with numbers in words as digits; a text of "none" alone is 0.

    Args:
        text: folded by `spelling.fold`, and short: the time is linear in it.
    """
    if not _ANY.search(text):
        return text
    if text.casefold() == "none":
        return "0"
    text = _AND_A_HALF.sub(r"1 1/2 \1", text)
    words, spans = _split(text)
    pieces: list[str] = []
    index = done = 0
    while index < len(words):
        number = _number(words, index)
        if number is None:
            index += 1
            continue
        gap = text[done : spans[index][0]]
        before = pieces[-1] if pieces and gap.isspace() else gap.rstrip()
        # Two numbers in a row must not read as the groups of a longer one: "one two hundred" is not 1 200.
        pieces += [f"{gap.rstrip()}, " if gap.endswith(" ") and before[-1:].isdigit() else gap, number[0]]
        index = number[1]
        done = spans[index - 1][1]
    return "".join(pieces) + text[done:]


def _split(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the words and numbers, folded, and their spans; an empty word where more than a blank is
    between."""
    words: list[str] = []
    spans: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        if spans and not _JOINT.fullmatch(text, spans[-1][1], match.start()):
            words.append(_END)
            spans.append((match.start(), match.start()))
        words.append(match[0].casefold())
        spans.append(match.span())
    return words, spans


def _number(words: Sequence[str], index: int) -> tuple[str, int] | None:
    """Return the digits of the number that begins at a word, and the index behind it; None for others."""
    word, after = words[index], _word(words, index + 1)
    if index == 0 and word in ("minus", "negative") and after:
        number = _number(words, 1) or ((after, 2) if after[0].isdigit() else None)
        return (f"-{number[0]}", number[1]) if number else None
    if word == "half":
        return _half(words, index)
    if word in _ORDINALS:
        is_time = word == "second" and index > 0 and words[index - 1] != "the"
        return None if is_time else (_ordinal(_ORDINALS[word]), index + 1)
    if word in ("a", "an"):
        if after in _PART and _word(words, index + 2) in (_END, "of"):
            return f"1/{_PART[after]}", index + 2
        return _written(words, *_multiply(words, Fraction(1), index + 1)) if after in _MULTIPLES else None
    if word[:1].isdigit():
        return _after_digits(words, index)
    if (
        word == "one"
        and index
        and words[index - 1] in _BEFORE_A_PRONOUN
        and after not in (*_MULTIPLES, *_PART)
    ):
        return None
    cardinal = _cardinal(words, index)
    return _written(words, *cardinal) if cardinal else None


def _half(words: Sequence[str], index: int) -> tuple[str, int] | None:
    after = _word(words, index + 1)
    if after in ("a", "an"):
        return ("6", index + 3) if _word(words, index + 2) == "dozen" else ("1/2", index + 2)
    return ("1/2", index + 1) if after == "of" or len(words) == 1 else None


def _after_digits(words: Sequence[str], index: int) -> tuple[str, int] | None:
    """Read digits with the words that belong to them: `1.5 million`, `3 and a half`."""
    digits = words[index]
    if "/" in digits or len(digits) > 30:
        return None
    value, end = Fraction(digits.replace(",", "")), index + 1
    if _word(words, end) in _MULTIPLES:
        return _written(words, *_multiply(words, value, end))
    mixed = _mixed(words, value, end)
    return mixed if mixed and value.denominator == 1 else None


def _written(words: Sequence[str], value: Fraction, end: int) -> tuple[str, int]:
    """Return a cardinal's digits, with what continues it: decimals, a fraction, the ending of an ordinal."""
    after = _word(words, end)
    if after == "point" and _SMALL.get(_word(words, end + 1), 10) < 10:
        decimals = ""
        while (digit := _SMALL.get(_word(words, end + 1 + len(decimals)), 10)) < 10:
            decimals += str(digit)
        return f"{value}.{decimals}", end + 1 + len(decimals)
    if (after in _PARTS and 1 < value < _PARTS[after]) or (after in _PART and value == 1):
        return f"{value}/{(_PARTS | _PART)[after]}", end + 1
    if words[end - 1] in _TENS and _ORDINALS.get(after, 10) < 10:
        return _ordinal(int(value) + _ORDINALS[after]), end + 1
    return _mixed(words, value, end) or (_decimal(value), end)


def _mixed(words: Sequence[str], value: Fraction, end: int) -> tuple[str, int] | None:
    """Read "and a half", "and two thirds", "and 1/2" after a whole number."""
    if _word(words, end) != "and":
        return None
    count, part = _word(words, end + 1), _word(words, end + 2)
    numerator = 1 if count in ("a", "an") else _SMALL.get(count, 0)
    if (part in _PART and numerator == 1) or (part in _PARTS and 1 < numerator < _PARTS[part]):
        return f"{value} {numerator}/{(_PARTS | _PART)[part]}", end + 3
    proper = re.fullmatch(r"(\d{1,4})/(\d{1,4})", count)
    return (f"{value} {count}", end + 2) if proper and 0 < int(proper[1]) < int(proper[2]) else None


def _cardinal(words: Sequence[str], index: int) -> _Read | None:
    """Return the value of the cardinal that begins at a word, and the index behind it."""
    group = _below_thousand(words, index)
    return group and _multiply(words, *group)


def _multiply(words: Sequence[str], value: Fraction, end: int) -> _Read:
    """Read the scales that follow a value, and the smaller numbers that follow each of them."""
    if _word(words, end) == "dozen":
        return value * 12, end + 1
    if _word(words, end) == "hundred":
        value, end = _hundreds(words, value, end)
    total, limit = Fraction(0), 10**15
    while (scale := _SCALES.get(_word(words, end), limit)) < limit:
        total, limit, value, end = total + value * scale, scale, Fraction(0), end + 1
        following = _below_thousand(words, end + (_word(words, end) == "and"))
        if (
            following is None
            or _SCALES.get(_word(words, following[1]), 0) >= limit
            or _is_part(words, following[1])
        ):
            break
        value, end = following
    return total + value, end


def _below_thousand(words: Sequence[str], index: int) -> _Read | None:
    small = _below_hundred(words, index)
    return _hundreds(words, *small) if small and _word(words, small[1]) == "hundred" else small


def _hundreds(words: Sequence[str], value: Fraction, end: int) -> _Read:
    value, end = value * 100, end + 1
    rest = _below_hundred(words, end + (_word(words, end) == "and"))
    if rest is None or _is_part(words, rest[1]):
        return value, end
    return value + rest[0], rest[1]


def _below_hundred(words: Sequence[str], index: int) -> _Read | None:
    word = _word(words, index)
    if word in _TENS:
        digit = _SMALL.get(_word(words, index + 1), 0)
        return (
            (Fraction(_TENS[word] + digit), index + 2)
            if 1 <= digit <= 9
            else (Fraction(_TENS[word]), index + 1)
        )
    return (Fraction(_SMALL[word]), index + 1) if word in _SMALL else None


def _is_part(words: Sequence[str], index: int) -> bool:
    return _word(words, index) in _PARTS or _word(words, index) in _PART


def _word(words: Sequence[str], index: int) -> str:
    return words[index] if index < len(words) else _END


def _ordinal(value: int) -> str:
    ending = "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"


def _decimal(value: Fraction) -> str:
    """Return a value whose decimals end, as `1.5 million` has."""
    whole, rest = divmod(value, 1)
    if not rest:
        return str(whole)
    digits = 1
    while (rest * 10**digits).denominator > 1:
        digits += 1
    return f"{whole}.{int(rest * 10**digits):0{digits}d}"
