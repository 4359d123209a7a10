"""The conversations that every architecture answers."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from mirl_core.types import Conversation

INSTRUCTION = "Look first."
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "description": "Count shapes.",
        "parameters": {"type": "object", "properties": {"colour": {"type": "string"}}},
    },
}


def picture(colour: str, size: tuple[int, int] = (64, 48)) -> dict[str, Any]:
    """Return the content part of a picture of a square."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((size[0] // 8, size[1] // 8, size[0] // 2, size[1] // 2), fill=colour)
    return {"type": "image", "image": image}


def text(words: str) -> dict[str, Any]:
    """Return the content part of a text."""
    return {"type": "text", "text": words}


RED, BLUE = picture("red"), picture("blue", (48, 72))
QUESTION = {"role": "user", "content": [RED, text("How many squares are red?")]}


def user(*parts: Any) -> dict[str, Any]:
    """Return a user's message."""
    return {"role": "user", "content": list(parts)}


CONVERSATIONS: dict[str, Conversation] = {
    "question": Conversation((QUESTION,)),
    "system": Conversation(({"role": "system", "content": "Be brief."}, QUESTION)),
    "two pictures": Conversation((user(RED, text("Beside it:"), BLUE, text("What is the difference?")),)),
    "earlier picture": Conversation(
        (QUESTION, {"role": "assistant", "content": "One."}, user(BLUE, text("And here?")))
    ),
    "pictures alone": Conversation((user(RED), {"role": "assistant", "content": "A square."}, user(BLUE))),
    "tools": Conversation((QUESTION,), tools=(TOOL,)),
}
