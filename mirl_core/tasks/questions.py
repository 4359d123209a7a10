"""A question about a picture, its truth, and whether an answer is right.

An answer is right where `mirl_core.algorithm.answers` holds it equal to the truth. Chains vote by the same
relation, so a vote never joins a right and a wrong answer. There are two exceptions: an option's letter and
its text vote apart and are right together; and a data set may judge answers by its own rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING

from mirl_core.algorithm.answers import equivalent, normalize
from mirl_core.engines.base import derive_seed
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]{0,2}")
_LETTER_AND_MORE = re.compile(r"[(\[]?([A-Za-z])[)\].:]{1,2}\s+(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a picture, with its truth."""

    key: str
    """Unique and stable within its data set, e.g. `digits-iid-test-000012`."""
    text: str
    """The user's text, choices already rendered into it if there are any."""
    answer: str
    """The truth; for a question with choices the option's letter or its text. Empty: unlabelled."""
    image: Callable[[], Image]
    """Load or draw the picture (RGB)."""
    family: str = ""
    """Kind of question, where the data set names it."""
    clusters: tuple[str, ...] = ()
    """The clusters that are resampled together: the scene first, then its glyphs; () means (key,)."""
    choices: tuple[str, ...] = ()
    """The options' texts, A first."""
    describes: Callable[[str], bool] | None = None
    """Return whether a description is right; None where the data set can't tell."""
    accept: Callable[[str], bool] | None = None
    """Return whether an answer is right by the data set's rule (a tolerance, a list); None: no such rule."""
    more_images: tuple[Callable[[], Image], ...] = ()
    """Further pictures of the same question, shown after the first."""
    stored: Callable[[], Iterable[bytes]] | None = None
    """Return the bytes that stand for all pictures, in order: of a file its content, of a drawn scene its
    parameters. None: the pixels stand for them. See `mirl_core.tasks.content`."""

    def conversation(self) -> Conversation:
        """Return one user message: the picture (or pictures), then the text."""
        pictures = [{"type": "image", "image": load()} for load in (self.image, *self.more_images)]
        text = {"type": "text", "text": self.text}
        return Conversation(({"role": "user", "content": [*pictures, text]},))


@dataclass(frozen=True, slots=True)
class DataSet:
    """Questions under one name."""

    name: str
    """`digits/iid`, `easy-vqa`, `file.jsonl`, `hf:mathvista`."""
    part: str
    """`dev`, `test`, or a split's own name."""
    questions: tuple[Question, ...]


def is_right(question: Question, answer: str | None) -> bool:
    """Return whether `answer`, as `mirl_core.algorithm.answers.extract` returns it, is the truth.

    The data set's rule decides where there is one. With choices, the letter and the text of the right option
    are right, alone or together (`B`, `(b).`, `B. cat`, `cat`). Otherwise answers are compared after
    normalisation. None is wrong, and so is every answer to an unlabelled question.
    """
    if answer is None or not question.answer:
        return False
    if question.accept is not None:
        return question.accept(answer)
    if question.choices:
        truth = chosen(question.choices, question.answer)
        return truth is not None and chosen(question.choices, answer) == truth
    return equivalent(normalize(answer), normalize(question.answer))


def chosen(choices: Sequence[str], answer: str) -> int | None:
    """Return the index of the option that an answer names; None for no option, or several that read the same.

    A lone letter is a letter even where another option's text is that letter. Otherwise an option's exact
    text comes before the reading as a letter with text, since `E. coli` may be an option.
    """
    text = answer.strip()
    if (letter := _LETTER.fullmatch(text)) and (index := _option_index(letter[1], choices)) is not None:
        return index
    folded = [_fold(choice) for choice in choices]
    if folded.count(_fold(text)) == 1:
        return folded.index(_fold(text))
    if (letter_and_text := _LETTER_AND_MORE.fullmatch(text)) and (
        index := _option_index(letter_and_text[1], choices)
    ) is not None:
        return index
    normal = normalize(text)
    if normal.kind == "option" and (index := _option_index(normal.key, choices)) is not None:
        return index
    equal = [index for index, choice in enumerate(choices) if equivalent(normalize(choice), normal)]
    return equal[0] if len(equal) == 1 else None


def question_seed(seed: int, key: str) -> int:
    """Return the seed of one question: the same in the bank and in a live run, on any set of questions."""
    derived = derive_seed(seed, key)
    assert derived is not None, "a seed of None alone derives None"
    return derived


def render_choices(choices: Sequence[str]) -> str:
    """Return the options as lines `A. first`."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))


def _option_index(letter: str, choices: Sequence[str]) -> int | None:
    index = ascii_uppercase.index(letter.upper())
    return index if index < len(choices) else None


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
