"""Between MIRL's conversations and the JSON of a vLLM server.

A prompt with images travels as vLLM's `content_parts`: the prompt's tokens with one placeholder an image, as
the chat template leaves them, and the images beside them. The other form that vLLM offers, the `features` of
its rendering, is not exact: it loses which of an image's tokens are the image (vLLM 0.32's
`PlaceholderRangeInfo`), and every request would carry the preprocessed pixels. Each image has a name, by
which it is referred to once a server has it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirl_core.engines.common.images import upright_rgb
from mirl_core.engines.common.messages import messages_with
from mirl_core.engines.remote.server import Server, to_json
from mirl_core.errors import EngineError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

# Fields of the request; vLLM puts them over template arguments of the same name.
_REQUEST_FIELDS = ("add_generation_prompt", "continue_final_message")


@dataclass(frozen=True, slots=True)
class Picture:
    """One image, losslessly encoded."""

    name: str
    """A digest of its pixels: nobody can refer to a picture that he hasn't got."""
    url: str


@dataclass(eq=False, slots=True)
class RemotePrompt:
    """A rendered conversation and the server that it lives on."""

    token_ids: tuple[int, ...]
    """As the model sees them, image placeholders expanded."""
    places: tuple[tuple[int, int], ...]
    """Offset and length of every image's tokens, ascending."""
    pictures: tuple[Picture, ...]
    server: Server
    """Changes when that server fails."""
    known: set[Server] = field(default_factory=set)
    """The servers that have the images."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def image_tokens(self) -> frozenset[int]:
        """All tokens that stand in the images' places."""
        return frozenset(
            self.token_ids[at] for start, size in self.places for at in range(start, start + size)
        )

    def fields(self, suffix: Sequence[int], placeholder: int | None, *, with_images: bool) -> dict[str, Any]:
        """The prompt and `suffix` in a request for tokens.

        Args:
            placeholder: the token that vLLM expands to an image's; None where there are no images.
            with_images: carry the images, or refer to them by name.
        """
        if placeholder is None or not self.pictures:
            return {"token_ids": [*self.token_ids, *suffix]}
        ids: list[int] = []
        end = 0
        for start, size in self.places:
            ids += (*self.token_ids[end:start], placeholder)
            end = start + size
        parts = [
            {"type": "image_url", "url": picture.url if with_images else None, "uuid": picture.name}
            for picture in self.pictures
        ]
        return {"token_ids": [*ids, *self.token_ids[end:], *suffix], "content_parts": parts}


def render_request(conversation: Conversation, model: str) -> tuple[bytes, tuple[Picture, ...]]:
    """The body for `/v1/chat/completions/render` and the images in it. Encodes them: not on the event loop.

    Raises:
        RequestError: a part of a message can't be sent.
    """
    pictures: list[Picture] = []

    def part(image: Image) -> dict[str, Any]:
        picture = encoded(image)
        pictures.append(picture)
        return {"type": "image_url", "image_url": {"url": picture.url}, "uuid": picture.name}

    arguments = dict(conversation.template_kwargs)
    body = {
        "model": model,
        "messages": messages_with(conversation, part),
        # The prompt must leave room for a token.
        "max_tokens": 1,
        # The pixels would come back preprocessed.
        "mm_payload": "none",
        **{name: arguments.pop(name) for name in _REQUEST_FIELDS if name in arguments},
    }
    if arguments:
        body["chat_template_kwargs"] = arguments
    if conversation.tools:
        # They are in the template with any choice; other choices take flags that the server may lack.
        body |= {"tools": [dict(tool) for tool in conversation.tools], "tool_choice": "none"}
    return to_json(body), tuple(pictures)


def read_rendering(answer: Any, pictures: tuple[Picture, ...], server: Server) -> RemotePrompt:
    """The prompt from the server's answer.

    Raises:
        EngineError: it is not what vLLM answers.
    """
    try:
        features: Mapping[str, Any] = answer["features"] or {"mm_placeholders": {}}
        ranges: Iterable[Any] = (one for kind in features["mm_placeholders"].values() for one in kind)
        places = sorted((int(place["offset"]), int(place["length"])) for place in ranges)
        ids = tuple(int(token) for token in answer["token_ids"])
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError(f"{server.url} answered a rendering of another form") from error
    if len(places) != len(pictures):
        raise EngineError(f"{server.url} rendered {len(places)} images of {len(pictures)}")
    return RemotePrompt(ids, tuple(places), pictures, server)


def encoded(image: Image) -> Picture:
    """A picture as PNG in a data URL: RGB, without anything but its pixels."""
    from PIL import Image as Images

    if image.mode != "RGB":
        image = upright_rgb(image)
    pixels = image.tobytes()
    # A copy, since Pillow writes colour profiles and the like that the original carries.
    buffer = io.BytesIO()
    Images.frombytes("RGB", image.size, pixels).save(buffer, "PNG", compress_level=1)
    name = hashlib.sha256(repr(image.size).encode() + pixels).hexdigest()
    return Picture(name, f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
