"""Answers: where they are found in a chain, and which of them are the same."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirl_core.algorithm.answers import (
    NormalizedAnswer,
    clusters,
    equivalent,
    extract,
    group,
    locate,
    mathematics,
    normalize,
)
from mirl_core.config import Tags

TAGS = Tags()

# text → (reasoning, answer if the chain finished, answer if it was cut off)
CHAINS = {
    "the format": ("<think>2 + 2</think><answer>4</answer>", "2 + 2", "4", "4"),
    "opening tag prefilled": ("2 + 2</think>\n<answer>4</answer>", "2 + 2", "4", "4"),
    "whitespace around": ("<think>\na\n</think>\n\n<answer>\n4 cm\n</answer>\n", "a", "4 cm", "4 cm"),
    "inner text verbatim": (
        "<answer>The  *Red*\n Car.</answer>",
        "",
        "The  *Red*\n Car.",
        "The  *Red*\n Car.",
    ),
    "answer left open": ("<think>a</think><answer>4", "a", "4", None),
    "closing tag begun": ("<think>a</think><answer>4</ans", "a", "4", None),
    "the last answer counts": ("<answer>3</answer> no, <answer>4</answer>", None, "4", "4"),
    "complete, then cut": ("<think>a</think><answer>4</answer> And <answer>5", None, "4", "4"),
    "mentioned in the reasoning": (
        "<think>I must write <answer>x</answer></think><answer>4</answer>",
        "I must write x",
        "4",
        "4",
    ),
    "answer inside the reasoning": ("<think>so <answer>4</answer></think>", "so", "4", "4"),
    "reasoning never closed": ("<think>so <answer>4</answer>", "so", "4", "4"),
    "nested": ("<answer><answer>4</answer></answer>", "", "4", "4"),
    "empty": ("<think>a</think><answer> </answer>", "a", None, None),
    "nothing": ("", "", None, None),
    "reasoning alone": ("<think>I wonder", "I wonder", None, None),
    "closed reasoning alone": ("<think>I wonder</think>", "I wonder", None, None),
    "boxed": (r"<think>a</think>So it is \boxed{\frac{1}{2}}.", "a\nSo it is", r"\frac{1}{2}", None),
    "boxed in the reasoning": (r"<think>a \boxed{4}</think>", "a", "4", None),
    "boxed without end": (r"<think>a</think>It is \boxed{4", "a", r"It is \boxed{4", None),
    "final answer is": ("I count. The final answer is 4.", "I count. The", "4.", None),
    "final answer:": ("I count.\n**Final Answer:** 4\n\nGood bye.", "I count.\n**", "4", None),
    "answer on the next line": ("I count.\nFinal answer:\n4", "I count.", "4", None),
    "last line": ("I count.\nAnswer: (B)", "I count.", "(B)", None),
    "last line, bold": ("I count.\n**Answer: 4**", "I count.", "4", None),
    "last line, bold inside": ("I count.\nThe answer is **4**", "I count.", "4", None),
    "not the last line": ("Answer: soon.\nI count.", "", "soon.", None),
    "isn't": ("The final answer isn't clear", "", "The final answer isn't clear", None),
    "free-form": ("A dog sleeps.", "", "A dog sleeps.", None),
    "free-form after reasoning": ("<think>a</think>A dog sleeps.", "a", "A dog sleeps.", None),
    "free-form beats a marker in the reasoning": (
        "<think>final answer: 4</think>A dog sleeps.",
        "final answer: 4",
        "A dog sleeps.",
        None,
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_extract(name: str) -> None:
    text, reasoning, finished, cut = CHAINS[name]
    extracted, answer = extract(text, TAGS, finished=True)
    assert answer == finished
    assert reasoning is None or extracted == reasoning
    assert extract(text, TAGS, finished=False)[1] == cut


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("<think>7 7</think><answer>7</answer>", 26),
        ("<answer> a</answer>", 9),
        ("7, so \\boxed{7}", 13),
        ("Final answer is 7\nSo it is 7.", 16),
        ("I see 7.\nAnswer: **7**", 19),
        ("<think>7</think>\n 7", 18),
        ("7", 0),
        ("<think>7", 0),
    ],
)
def test_where_the_answer_begins(text: str, start: int) -> None:
    assert locate(text, TAGS, finished=True).start == start


def test_extract_uses_the_models_own_tags() -> None:
    tags = Tags(reasoning=("[R]", "[/R]"), answer=("[A]", "[/A]"))
    assert extract("[R]a[/R][A]<answer>[/A]", tags, finished=True) == ("a", "<answer>")


pieces = st.lists(
    st.sampled_from(
        [
            *TAGS.description,
            *TAGS.reasoning,
            *TAGS.answer,
            "4",
            " the answer is ",
            "\n",
            r"\boxed{",
            "}",
            "</",
            "answer: ",
        ]
    ),
    max_size=12,
).map("".join)


@given(text=pieces, finished=st.booleans())
@settings(max_examples=300, deadline=None)
def test_extract_never_returns_a_tag_nor_what_the_model_did_not_say(text: str, finished: bool) -> None:
    reasoning, answer = extract(text, TAGS, finished)
    every = (*TAGS.description, *TAGS.reasoning, *TAGS.answer)
    assert not any(tag in reasoning for tag in every)
    located = locate(text, TAGS, finished)
    assert (located.reasoning, located.answer) == (reasoning, answer)
    if answer is not None:
        # With a tag inside it, it stands nowhere in one piece.
        rest = text[located.start :]
        assert rest.startswith(answer) or any(tag in rest for tag in every)
        assert answer == answer.strip() != ""
        assert not any(tag in answer for tag in every)
        bare = text.replace("**", "")
        for tag in every:
            bare = bare.replace(tag, "")
        assert answer in bare
        assert finished or TAGS.answer[1] in text


SAME = [
    ["1,000", "1000", "1000.0", "1e3", "$1000$", " 1000. ", "**1,000**", "１０００"],
    ["12", "twelve", "Twelve.", "12.00", r"\boxed{12}", "x = 12", "The answer is 12.", "+12", "24/2"],
    ["-5", "−5", "-5.0"],
    ["0.5", ".5", "1/2", "2/4", r"\frac{1}{2}", r"\frac12", "2^{-1}"],
    ["1/3", r"\frac{1}{3}", r"\dfrac{2}{6}"],
    ["50%", "50 %", "50 percent", r"50\%", "50.0%"],
    ["12 cm", "12cm", "12 centimeters", "12 CM", r"12\text{ cm}", "12.0 centimetres"],
    ["$12", "$12.00", r"\$12", "12 dollars", "12 USD"],
    ["20 °C", "20°C", r"20^\circ C", "20 degrees Celsius"],
    ["3 dogs", "three dogs", "3 dog"],
    ["0.3", "0.1 + 0.2", r"3 \cdot 10^{-1}"],
    ["6.02×10^23", r"6.02 \times 10^{23}", "6.02e23"],
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B)",
        "option B",
        "Option (b)",
        "B) cat",
        "B. cat",
        "(B) a cat",
        "The answer is (B).",
        "**B**",
    ],
    ["yes", "Yes.", "YES!", "yes, there is one", "**Yes**", "Yes. There is a dog."],
    ["no", "No.", "no, none"],
    ["a red car", "Red car", "the Red Car.", '"red car"', "red-car"],
    ['{"a": 1, "b": [2]}', '{"b":[2.0],"a":1.0}', '```json\n{"a": 1, "b": [2]}\n```'],
    [
        '{"name": "f", "arguments": {"x": 1}}',
        '{"arguments": "{\\"x\\": 1}", "name": "f"}',
        '<tool_call>\n{"name": "f", "arguments": {"x": 1.0}}\n</tool_call>',
    ],
    [r"2\pi", r"\pi\cdot 2", "2π", r"\frac{4\pi}{2}"],
    [r"\sqrt{8}", r"2\sqrt{2}", "√8"],
    ["(x+1)^2", "x^2+2x+1", r"x^{2} + 2 \cdot x + 1"],
    [r"\sin^2(x)+\cos^2(x)+x", "x+1"],
    ["x > 3", "3 < x"],
    [r"\{1, 2\}", r"\{2, 1\}"],
    ["y = 2x+1", "2x + 1 = y"],
    ["(3, 4)", "(3,4)"],
    ["A dog lies on the sofa and a cat looks at it.", "a dog lies on the  sofa and a cat looks at it."],
]


@pytest.mark.parametrize("answers", SAME, ids=lambda answers: answers[0])
def test_spellings_of_one_answer_are_one_answer(answers: list[str]) -> None:
    normal = {answer: normalize(answer) for answer in answers}
    assert len(set(normal.values())) == 1, normal
    assert group(answers) == [list(range(len(answers)))]


def test_different_answers_stay_different() -> None:
    apart = [answers[0] for answers in SAME] + [
        "12 m", "50", "0.333", "-12", "C", "D) cat", "true", "blue car", '{"a": 2, "b": [2]}', "13 dogs",
        '{"name": "g", "arguments": {"x": 1}}', "no. 5", "C++", "C#", "A+", "A-", "5 mW", "5 MW", "10:30",
        "5-10", "2024-05-01", "x+2", "x < 3", "[3, 4)", r"\{1, 3\}", "10^{-99}", "0", "I don't know",
        "€12", "犬",
    ]  # fmt: skip
    normal: dict[NormalizedAnswer, str] = {}
    for answer in apart:
        assert normal.setdefault(normalize(answer), answer) == answer
    assert group(apart) == [[place] for place in range(len(apart))]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("12 cm", "number"),
        (r"\frac{2}{4}", "number"),
        ("(A)", "option"),
        ("option K", "option"),
        ("K", "short"),
        ("a", "option"),
        ("No, there isn't", "yes_no"),
        ("on the table", "short"),
        ("[1, 2]", "json"),
        ("[0, 1)", "math"),
        ("{broken: json", "short"),
        ('{"a": NaN}', "short"),
        ("", "prose"),
        ("?!", "prose"),
        ("Three dogs are running over a field in the rain.", "prose"),
        ("A. First look at it\n" * 20, "prose"),
        ("犬がソファの上に寝ています。とてもかわいいです。", "prose"),
        ("No" + " really" * 40, "prose"),
    ],
)
def test_kinds(answer: str, kind: str) -> None:
    assert normalize(answer).kind == kind


@given(st.text(max_size=80) | st.text(alphabet="0123456789.,/-+^{}[]()$%\\xe \n", max_size=40))
@settings(max_examples=400, deadline=None)
def test_normalize_takes_any_text_and_depends_on_nothing_else(text: str) -> None:
    first = normalize(text)
    assert first == normalize(text)
    assert hash(first) == hash(normalize(f"  {text}\n"))
    assert equivalent(first, normalize(f" {text} "))


@given(st.integers(-(10**20), 10**20))
@settings(max_examples=100, deadline=None)
def test_integers_survive_in_every_digit(value: int) -> None:
    assert normalize(str(value)) == normalize(f"{value:,}") == normalize(f"{value}.0")
    assert normalize(str(value)).key == str(value)
    assert normalize(str(value)) != normalize(str(value + 1))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict | list))
)
@settings(max_examples=100, deadline=None)
def test_json_does_not_depend_on_its_layout(value: object) -> None:
    assert normalize(json.dumps(value, indent=1)) == normalize(json.dumps(value, separators=(",", ":")))


def test_clusters_needs_a_majority_of_answers_that_cluster() -> None:
    prose = "A dog lies on the sofa while a cat looks at it."
    assert clusters(["4", "four", "5", prose]) == [[0, 1], [2], [3]]
    assert clusters(["4", prose]) is None
    assert clusters([prose, prose]) is None
    assert clusters([]) is None


HOSTILE = [
    "9^{9^{9^9}}",
    "((((9^{9})^{9})^{9})^{9})^{9}",
    "9^9^9^9",
    "10^{1000000000}",
    "(a+b+c+d+e)^{99}(a-b)^{99}",
    "99999999999!",
    r"\binom{10000000}{5000000}",
    r"\sum_{i=1}^{9999999999} i",
    r"\sqrt{" * 12 + "x" + "}" * 12,
    "(" * 60,
    "1/" * 50 + "0",
    "1e999999999",
    "9" * 5000,
    "[" * 50_000,
    "<tool_call>" * 5_000,
    "<tool_call>[" * 5_000,
    '{"a":' * 15_000,
    "- " * 40_000,
    "$" * 50_000,
    "final answer " * 5_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20])
def test_hostile_answers_end_quickly(text: str) -> None:
    normalize("x^2+1")  # the first expression also pays for importing sympy
    started = time.perf_counter()
    assert normalize(text) == normalize(text)
    extract(f"<think>{text}</think>{text}", TAGS, finished=True)
    assert time.perf_counter() - started < 5


def test_mathematics_works_off_the_main_thread() -> None:
    # Where math-verify's own time limits, which are signals, would raise.
    equal: list[bool] = []
    mathematics.canonical.cache_clear()
    thread = threading.Thread(target=lambda: equal.append(normalize(r"\frac{x}{2}") == normalize("0.5x")))
    thread.start()
    thread.join()
    assert equal == [True]


def test_without_math_verify_equal_spelling_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    mathematics.canonical.cache_clear()
    try:
        assert normalize("x + 1") == normalize("x+1")
        assert normalize("x + 1") != normalize("1 + x")
    finally:
        mathematics.canonical.cache_clear()
