"""One hostile request, and a request of each API to make hostile."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image

from tests.helpers.servers import NAME

JSON = {"content-type": "application/json"}
# Whatever of a corpus is answered after all should cost little.
SMALL = {"descriptions": 1, "keep": 1, "forks": 1, "description_tokens": 8}
CANARY = "canary-of-the-corpus"
"""In every prompt; it may stand in no log and in no metric."""


@dataclass(frozen=True)
class Case:
    """A request. `headers` may be malformed, `body` anything."""

    family: str
    name: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    method: str = "POST"
    harmless: bool = False
    """It may be answered after all: chance made it, or the backend is free to take it."""

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name} ({self.method} {self.path})"


@cache
def picture(kind: str = "PNG", side: int = 64) -> str:
    """A good picture, as a data URL."""
    buffer = io.BytesIO()
    noise = random.Random(side).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), noise).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def chat(url: str | None = None, model: str = NAME, **fields: Any) -> dict[str, Any]:
    """A request of chat completions: with a picture, or of text alone."""
    parts: list[Any] = [{"type": "text", "text": f"{CANARY}: what is the sum?"}]
    if url is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 4} | fields


def responses(url: str | None = None, model: str = NAME, **fields: Any) -> dict[str, Any]:
    """A request of the Responses API."""
    parts: list[Any] = [{"type": "input_text", "text": f"{CANARY}: what is the sum?"}]
    if url is not None:
        parts.insert(0, {"type": "input_image", "image_url": url, "detail": "auto"})
    return {"model": model, "input": [{"role": "user", "content": parts}], "max_output_tokens": 4} | fields


def messages(url: str | None = None, model: str = NAME, **fields: Any) -> dict[str, Any]:
    """A request of the Anthropic API."""
    parts: list[Any] = [{"type": "text", "text": f"{CANARY}: what is the sum?"}]
    if url is not None:
        head, _, data = url.partition(";base64,")
        if head.startswith("data:") and data:
            source = {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
        else:
            source = {"type": "url", "url": url}
        parts.insert(0, {"type": "image", "source": source})
    return {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 4} | fields


def score(url: str | None = None, model: str = NAME, **fields: Any) -> dict[str, Any]:
    """A request for the MI of a description."""
    body = chat(url, model) | {"descriptions": ["a seven"]} | fields
    del body["max_tokens"]
    return body


def describe(url: str | None = None, model: str = NAME, **fields: Any) -> dict[str, Any]:
    """A request for descriptions alone."""
    return chat(url, model, mirl=SMALL) | fields


@dataclass(frozen=True)
class Target:
    """Where requests go, and a good one for there."""

    name: str
    path: str
    model: str = NAME
    gated: bool = True

    def body(self, url: str | None = None, **fields: Any) -> dict[str, Any]:
        """A good request with a picture, and `fields` in it."""
        make = {
            "/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages,
            "/v1/mirl/score": score, "/v1/mirl/describe": describe,
        }[self.path]  # fmt: skip
        knobs = {"mirl": SMALL} if self.gated and self.path != "/v1/mirl/score" else {}
        return make(picture() if url is None else url, self.model, **{**knobs, **fields})

    def case(self, family: str, name: str, body: Any, **how: Any) -> Case:
        """A case of this target; `body` is JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
        return Case(family, f"{name}, {self.name}", self.path, raw, **how)


CHAT = Target("gated chat", "/v1/chat/completions")
DIRECT = Target("plain chat", "/v1/chat/completions", f"{NAME}:direct", gated=False)
RESPONSES = Target("gated responses", "/v1/responses")
PLAIN_RESPONSES = Target("plain responses", "/v1/responses", f"{NAME}:direct", gated=False)
MESSAGES = Target("gated messages", "/v1/messages")
PLAIN_MESSAGES = Target("plain messages", "/v1/messages", f"{NAME}:direct", gated=False)
SCORE = Target("score", "/v1/mirl/score")
DESCRIBE = Target("describe", "/v1/mirl/describe")
GATED = (CHAT, RESPONSES, MESSAGES, SCORE, DESCRIBE)
PLAIN = (DIRECT, PLAIN_RESPONSES, PLAIN_MESSAGES)
TARGETS = (*GATED, *PLAIN)

Cases = Iterator[Case]
