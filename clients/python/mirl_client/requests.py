"""Requests of the client: addresses, bodies, and the defaults that the environment sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import urlsplit

from mirl_client.answers import Message
from mirl_client.errors import NotMIRLError
from mirl_client.pictures import Picture, as_pictures, picture_url

DEFAULT_URL = "http://127.0.0.1:8000"
"""The address of `mirl-serve` with its defaults."""
DIRECT = ":direct"
"""Ends the name of the plain model beside each gated one."""

_OWN_FIELDS = frozenset({"model", "messages", "mirl", "n", "stream", "stream_options"})


class ScoreSettings(TypedDict, total=False):
    """Settings of one `score`, by keyword; all may be left out."""

    options: Mapping[str, Any] | None
    """Options of the `mirl` object, such as `{"keep": 3}`; they win over the preset."""
    history: Iterable[Mapping[str, Any]]
    """The conversation so far, such as the `messages` of an earlier answer."""
    model: str | None
    """A name in place of the client's."""
    max_pixels: int | None
    """Most pixels of a picture; a larger one is scaled down."""
    max_side: int | None
    """Most pixels of a picture's longer side."""


class AskSettings(ScoreSettings, total=False):
    """Settings of one `ask`, `stream` or `describe`, by keyword; all may be left out."""

    preset: str | None
    """A named set of options, such as `gate` or `steered`."""
    seed: int | None
    """The seed of the sampling; the same seed gives the same answer on the same server."""
    extra: Mapping[str, Any] | None
    """Further fields of a chat completion, such as `{"max_completion_tokens": 400}`."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request but for the model's name, which may have to be looked up."""

    messages: list[Message]
    fields: dict[str, Any]
    """The body's fields beside `model` and `messages`."""

    def body(self, model: str) -> dict[str, Any]:
        """Return the whole body."""
        return {"model": model, "messages": self.messages, **self.fields}


def ask_call(
    pictures: Picture | Sequence[Picture], question: str, settings: AskSettings, method: str
) -> Call:
    """Return the request of a question.

    Args:
        method: the caller's name, for the message of an error.

    Raises:
        PictureError: a picture can't be read.
        TypeError: there is no such setting.
        ValueError: `extra` has a field that the client sets.
    """
    _refuse_unknown(settings, AskSettings, method)
    messages = _messages(pictures, question, settings)
    preset, seed = settings.get("preset"), settings.get("seed")
    return Call(messages, fields_of(preset, settings.get("options"), seed, settings.get("extra")))


def score_call(
    pictures: Picture | Sequence[Picture],
    question: str,
    descriptions: str | Sequence[str],
    settings: ScoreSettings,
) -> Call:
    """Return the request of scores.

    Raises:
        PictureError: a picture can't be read.
        TypeError: there is no such setting.
    """
    _refuse_unknown(settings, ScoreSettings, "score")
    messages = _messages(pictures, question, settings)
    texts = [descriptions] if isinstance(descriptions, str) else list(descriptions)
    options = {"token_mi": True} | dict(settings.get("options") or {})
    return Call(messages, {"descriptions": texts, "mirl": options})


def _refuse_unknown(settings: Mapping[str, Any], kind: type, method: str) -> None:
    """Raise Python's own error for an unknown keyword, which `**settings` would let through."""
    known = kind.__required_keys__ | kind.__optional_keys__  # type: ignore[attr-defined]
    for name in settings:
        if name not in known:
            raise TypeError(f"{method}() got an unexpected keyword argument '{name}'")


def _messages(pictures: Picture | Sequence[Picture], question: str, settings: ScoreSettings) -> list[Message]:
    return conversation(
        pictures,
        question,
        settings.get("history", ()),
        max_pixels=settings.get("max_pixels"),
        max_side=settings.get("max_side"),
    )


def api_url(base_url: str | None) -> str:
    """Return the address of a server's API, which ends with `/v1`.

    Args:
        base_url: the server's address, with or without `/v1`; None: `MIRL_BASE_URL`, else `DEFAULT_URL`.

    Raises:
        ValueError: it is no http(s) URL.
    """
    url = (base_url or os.environ.get("MIRL_BASE_URL") or DEFAULT_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"not the http(s) address of a server: {url}")
    return url if url.endswith("/v1") else f"{url}/v1"


def api_key_of(api_key: str | None) -> str:
    """Return the key to send; None: `MIRL_API_KEY`, else a word, since a header can't be empty."""
    return api_key or os.environ.get("MIRL_API_KEY") or "none"


def gated_model(names: Iterable[str]) -> str:
    """Return the first of a server's model names that is gated.

    Raises:
        NotMIRLError: none is.
    """
    listed = list(names)
    for name in listed:
        if f"{name}{DIRECT}" in listed:
            return name
    raise NotMIRLError("the server lists no gated model: it is no MIRL server, or its plugin is off")


def conversation(
    pictures: Picture | Sequence[Picture],
    question: str,
    history: Iterable[Mapping[str, Any]] = (),
    *,
    max_pixels: int | None = None,
    max_side: int | None = None,
) -> list[Message]:
    """Return a conversation that ends with a question about pictures; without pictures it is text alone.

    Raises:
        PictureError: a picture can't be read.
    """
    urls = [
        picture_url(picture, max_pixels=max_pixels, max_side=max_side) for picture in as_pictures(pictures)
    ]
    parts: list[Message] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content: Any = [*parts, {"type": "text", "text": question}] if parts else question
    return [*map(dict, history), {"role": "user", "content": content}]


def fields_of(
    preset: str | None,
    options: Mapping[str, Any] | None,
    seed: int | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the fields of a request beside its model and messages.

    Raises:
        ValueError: `extra` has a field that the client sets, or one that a single answer excludes.
    """
    if refused := sorted(_OWN_FIELDS & (extra or {}).keys()):
        raise ValueError(f"not a field of `extra`: {', '.join(refused)}")
    fields = dict(extra or {})
    mirl = ({"preset": preset} if preset is not None else {}) | dict(options or {})
    if mirl:
        fields["mirl"] = mirl
    if seed is not None:
        fields["seed"] = seed
    return fields
