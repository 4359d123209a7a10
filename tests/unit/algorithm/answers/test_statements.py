"""Where statements of an answer stand, and which of them is the answer, each lead word once."""

from __future__ import annotations

import pytest

from mirl_core.algorithm.answers import Extract, extract, locate
from mirl_core.algorithm.answers.statements import find_statements, strip_lead
from mirl_core.config import Tags

TAGS = Tags()

# A text → every lead in it, and what follows it.
STATEMENTS = {
    "The answer is 5.": [("The answer is ", "5.")],
    "so the answer is: 5": [("so the answer is: ", "5")],
    "Therefore, the correct answer is (B).": [("Therefore, the correct answer is ", "(B).")],
    "I say the best option is C": [("the best option is ", "C")],
    "It has the right letter = B": [],
    "Right choice: B": [("Right choice: ", "B")],
    "Option: B": [("Option: ", "B")],
    "My answer would be 5": [("My answer would be ", "5")],
    "The answer to the question is 5": [("The answer to the question is ", "5")],
    "The answer must be 5, it equals 6": [("The answer must be ", "5, it equals 6")],
    "Ans: 5": [("Ans: ", "5")],
    "> **Answer:** 5": [("> **Answer:** ", "5")],
    "- *Answer*: 5": [("- *Answer*: ", "5")],
    "Answer = 5": [("Answer = ", "5")],
    "Answer：５": [("Answer：", "５")],
    "Answer (B)": [("Answer ", "(B)")],
    "Answer the question": [],
    "### Answer\n\n5": [("### Answer\n\n", "5")],
    "**Final Answer**\n5": [("Final Answer**\n", "5")],
    "x. Final answer: 5": [("Final answer: ", "5")],
    "The final result would be 5": [("final result would be ", "5")],
    "My answer: 5. The final value is 6": [
        ("My answer: ", "5. The final value is 6"), ("final value is ", "6"),
    ],
    "This is my answer: 5": [],
    "I choose option B": [("I choose ", "option B")],
    "I'd pick (C).": [("I'd pick ", "(C).")],
    "I pick a card": [],
    "#### 42": [("#### ", "42")],
    "#### Step 2": [],
    "a #### 42": [],
    "Option B is correct.": [("Option ", "B")],
    "So (C) is the best answer": [("", "(C)")],
    "Option B is correct in that it barks": [],
    "b is correct": [],
    "Antwort: 5": [("Antwort: ", "5")],
    "正确答案：C": [("正确答案：", "C")],
    "答案是 C": [("答案是 ", "C")],
    "If the answer is 5, go": [],
    "whether the answer is 5": [],
    "The answer is not 5": [],
    "The answer is needed": [],
    "The answer isn't 5": [],
    "The answer is\n\\[\nx\n\\]\ny": [("The answer is\n", "\\[\nx\n\\]")],
    "The answer is $$\nx\n$$ y": [("The answer is ", "$$\nx\n$$")],
    "The answer is $$ x": [("The answer is ", "$$ x")],
    "\\boxed{a{b}c} \\fbox {d}": [("\\boxed{", "a{b}c"), ("\\fbox {", "d")],
    "\\boxed{a\\}b} \\boxed{c": [("\\boxed{", "a\\}b")],
    "\\boxed{\\boxed{a}}": [("\\boxed{", "\\boxed{a}"), ("\\boxed{", "a")],
    "The answer is \\boxed{5}": [("The answer is ", "\\boxed{5}"), ("\\boxed{", "5")],
}  # fmt: skip


@pytest.mark.parametrize("text", STATEMENTS)
def test_every_lead_and_what_follows_it(text: str) -> None:
    statements = [
        (text[item.start : item.begin], text[item.begin : item.end]) for item in find_statements(text)
    ]
    assert statements == STATEMENTS[text]


LEADS = {
    "Thus, the final answer is: 12": "12", "the final answer is 12": "12", "Answer: 12": "12",
    "**Answer:** 12": "12", "my final answer = 12": "12", "12": "12", "answer 5": "answer 5",
    "Red: the answer is 5": "Red: the answer is 5", "the answer is the answer is 5": "the answer is 5",
    "The answer is not 5": "The answer is not 5",
}  # fmt: skip


def test_a_lead_is_stripped_from_the_front_once() -> None:
    assert {text: strip_lead(text) for text in LEADS} == LEADS


# A text → the reasoning, the answer and its index: which statement wins, and what belongs to it.
LAST = {
    "\\boxed{5} is the area.\nFinal answer: 7": ("\\boxed{5} is the area.", "7", 37),
    "Answer: D\nNo, \\boxed{7}": ("Answer: D\nNo,", "7", 21),
    "Answer: B\n\nThe mark is on the leg.": ("", "B", 8),
    "The answer is 5. But no.\nThe answer is 6. Yes.": ("The answer is 5. But no.", "6.", 39),
    "The answer is (B). The mark is there.": ("", "(B).", 14),
    "The answer is B. The mark is there.": ("", "B. The mark is there.", 14),
    "The answer is 5 cm because it is long.": ("", "5 cm", 14),
    "The answer is 5, since 2 + 3 = 5.": ("", "5", 14),
    "The answer is a dog. It sleeps.": ("", "a dog. It sleeps.", 14),
    "The answer is a dog because it barks.": ("", "a dog because it barks.", 14),
    "The answer is **B**. No other.": ("", "B. No other.", 14),
    "**Answer: (B)**.": ("", "(B).", 10),
    # A connective, on the last line and before a value only.
    "I count.\nTherefore, 5 cm.": ("I count.", "5 cm.", 20),
    "So (B).\n": ("", "(B).", 3),
    "Thus it is yes": ("", "yes", 11),
    "It's B.": ("", "B.", 5),
    "So we get \\frac{1}{2}.": ("", "\\frac{1}{2}.", 10),
    "Therefore, 5 cm.\nThat is all.": ("", "Therefore, 5 cm.\nThat is all.", 0),
    "Therefore, the dog sleeps.": ("", "Therefore, the dog sleeps.", 0),
    "Sofa 5": ("", "Sofa 5", 0),
    "5 cm": ("", "5 cm", 0),
}


@pytest.mark.parametrize("text", LAST)
def test_the_last_statement_and_what_belongs_to_it(text: str) -> None:
    reasoning, answer, start = LAST[text]
    assert locate(text, TAGS, finished=True) == Extract(reasoning, answer, start)
    assert extract(text, TAGS, finished=False)[1] is None


@pytest.mark.parametrize(("blanks", "cut"), [(57, True), (58, False)])
def test_a_remark_far_behind_a_value_belongs_to_the_answer(blanks: int, cut: bool) -> None:
    value = f"5{' ' * blanks}meters."
    answer = extract(f"Answer: {value} Then", TAGS, finished=True)[1]
    assert answer == (value if cut else f"{value} Then")
