"""Requests that the bundled models were not trained on: foreign pictures, foreign questions, or both."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw

from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question

SIZE = 256
"""Width and height of drawn pictures; pixels."""
Draw = Callable[[], Image.Image]

QUESTIONS = (
    "Welche Farbe hat das Auto?",
    "Wie hoch ist der Balken in der Mitte?",
    "Combien de personnes sont visibles ?",
    "¿Qué hora marca el reloj?",
    "Quanti alberi ci sono nella foto?",
    "Сколько яблок на столе?",
    "图中有几个人？",
    "この写真はどこで撮られましたか？",
    "كم عدد الكتب على الرف؟",
    "Who painted this?",
    "Write a short poem about the sea.",
    "What is the capital of France?",
    "Is the patient's fracture displaced?",
    "Which of the two dogs is older?",
    "Solve x^2 - 5x + 6 = 0.",
    "def f(n): return n * 2  # what does f(4) return?",
    "Ignore the picture and say hello.",
)


def _array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _noise() -> Image.Image:
    return _array(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)))


def _grey_noise() -> Image.Image:
    grey = np.random.default_rng(1).normal(128, 40, (SIZE, SIZE, 1))
    return _array(np.repeat(grey, 3, axis=2))


def _plain(colour: str) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), colour)


def _gradient() -> Image.Image:
    ramp = np.linspace(0, 255, SIZE)
    return _array(np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.float64(128)), axis=2))


def _stripes() -> Image.Image:
    wave = 127 + 127 * np.sin(np.arange(SIZE) / 5)
    return _array(np.broadcast_to(wave[None, :, None], (SIZE, SIZE, 3)))


def _checkers() -> Image.Image:
    rows, columns = np.indices((SIZE, SIZE)) // 32
    return _array(np.repeat((255 * ((rows + columns) % 2))[:, :, None], 3, axis=2))


def _rings() -> Image.Image:
    picture = _plain("white")
    draw = ImageDraw.Draw(picture)
    for number, colour in enumerate(("navy", "gold", "black", "crimson", "green")):
        left = 20 + 40 * number
        draw.ellipse(
            (left, 80 + 30 * (number % 2), left + 70, 150 + 30 * (number % 2)), outline=colour, width=6
        )
    return picture


def _text() -> Image.Image:
    picture = _plain("white")
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(("Dear Sir or Madam,", "we regret to inform you", "that the train is late.")):
        draw.text((20, 40 + 40 * row), line, fill="black", font_size=20)
    return picture


def _house() -> Image.Image:
    picture = _plain("lightblue")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 190, SIZE, SIZE), fill="green")
    draw.rectangle((70, 110, 190, 210), fill="brown")
    draw.polygon(((55, 110), (130, 50), (205, 110)), fill="darkred")
    draw.rectangle((115, 150, 145, 210), fill="black")
    draw.ellipse((200, 20, 240, 60), fill="yellow")
    return picture


def _plot(kind: str) -> Image.Image:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 3), dpi=90)
    axis = figure.subplots()
    random = np.random.default_rng(3)
    if kind == "line":
        axis.plot(np.cumsum(random.normal(size=50)))
    elif kind == "scatter":
        axis.scatter(random.normal(size=60), random.normal(size=60))
    else:
        axis.pie([3, 4, 2, 1], labels=["a", "b", "c", "d"])
    stream = io.BytesIO()
    figure.savefig(stream)
    return Image.open(stream).convert("RGB")


def _photograph() -> Image.Image:
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((SIZE, SIZE))


PICTURES: dict[str, Draw] = {
    "noise": _noise,
    "grey noise": _grey_noise,
    "white": functools.partial(_plain, "white"),
    "black": functools.partial(_plain, "black"),
    "red": functools.partial(_plain, "red"),
    "gradient": _gradient,
    "stripes": _stripes,
    "checkers": _checkers,
    "rings": _rings,
    "text": _text,
    "house": _house,
    "line plot": functools.partial(_plot, "line"),
    "scatter plot": functools.partial(_plot, "scatter"),
    "pie": functools.partial(_plot, "pie"),
    "photograph": _photograph,
}


def foreign_requests(world: str, native: int = 40) -> Iterator[tuple[str, Question]]:
    """Yield requests with their kind: `picture`, `world`, `question` or `both` is foreign to `world`.

    Args:
        world: `charts` or `digits`.
        native: number of the world's dev questions that lend their texts and pictures.
    """
    questions = open_data(f"{world}/iid", "dev", native, 0).questions
    for number, (name, draw) in enumerate(PICTURES.items()):
        question = questions[number % native]
        yield "picture", Question(f"{name}-native", question.text, "", draw)
        yield "both", Question(f"{name}-foreign", QUESTIONS[number], "", draw)
    for number, text in enumerate(QUESTIONS):
        yield "question", Question(f"question-{number}", text, "", questions[number % native].image)
    other = "digits" if world == "charts" else "charts"
    for name in (f"{other}/iid", "easy-vqa"):
        for number, question in enumerate(open_data(name, "dev", 8, 0).questions):
            text = questions[number % native].text
            yield "world", Question(f"{name}-{number}-native", text, "", question.image)
            yield "world", Question(f"{name}-{number}-own", question.text, "", question.image)
