"""Translation between MIRL's conversations and the JSON of a vLLM server.

A prompt with images travels as vLLM's `content_parts`: the prompt's tokens with one placeholder per image, as
the chat template leaves them, and the images beside them. The other form that vLLM offers, the `features` of
its rendering, is not exact: it loses which tokens of an image's range are the image's (vLLM 0.32's
`PlaceholderRangeInfo`), and every request would carry the preprocessed pixels. Once a server has an image,
requests refer to it by its name.
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

# Fields of the request, which override template arguments of the same name in vLLM.
_REQUEST_FIELDS = ("add_generation_prompt", "continue_final_message")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, losslessly encoded."""

    name: str
    """A digest of its pixels: only a client that has the picture can refer to it."""
    url: str


@dataclass(eq=False, slots=True)
class RemotePrompt:
    """A rendered conversation and the server that caches it."""

    token_ids: tuple[int, ...]
    """The tokens that the model sees, image placeholders expanded."""
    image_ranges: tuple[tuple[int, int], ...]
    """Offset and length of every image's tokens, ascending."""
    pictures: tuple[Picture, ...]
    server: Server
    """The server that new requests go to; another one after it fails."""
    servers_with_images: set[Server] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def image_tokens(self) -> frozenset[int]:
        """Return all tokens in the images' ranges."""
        return frozenset(
            self.token_ids[at] for start, size in self.image_ranges for at in range(start, start + size)
        )

    def fields(self, suffix: Sequence[int], placeholder: int | None, *, with_images: bool) -> dict[str, Any]:
        """Return a request's fields for the prompt plus `suffix`.

        Args:
            suffix: token ids after the prompt.
            placeholder: the token that vLLM expands to an image's tokens; None where there are no images.
            with_images: whether to carry the images or to refer to them by name.
        """
        if placeholder is None or not self.pictures:
            return {"token_ids": [*self.token_ids, *suffix]}
        ids: list[int] = []
        end = 0
        for start, size in self.image_ranges:
            ids += (*self.token_ids[end:start], placeholder)
            end = start + size
        parts = [
            {"type": "image_url", "url": picture.url if with_images else None, "uuid": picture.name}
            for picture in self.pictures
        ]
        return {"token_ids": [*ids, *self.token_ids[end:], *suffix], "content_parts": parts}


def render_request(conversation: Conversation, model: str) -> tuple[bytes, tuple[Picture, ...]]:
    """Return the body for `/v1/chat/completions/render` and the images in it.

    Encodes the images: call it in a thread.

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
        # vLLM refuses a prompt that leaves no room for this many tokens.
        "max_tokens": 1,
        # Without this, the answer carries the preprocessed pixels.
        "mm_payload": "none",
        **{name: arguments.pop(name) for name in _REQUEST_FIELDS if name in arguments},
    }
    if arguments:
        body["chat_template_kwargs"] = arguments
    if conversation.tools:
        # The template shows the tools with any choice; other choices need flags that the server may lack.
        body |= {"tools": [dict(tool) for tool in conversation.tools], "tool_choice": "none"}
    return to_json(body), tuple(pictures)


def read_rendering(answer: Any, pictures: tuple[Picture, ...], server: Server) -> RemotePrompt:
    """Return the prompt in a server's answer to a rendering request.

    Raises:
        EngineError: the answer's form is not vLLM's, or it has another number of images.
    """
    try:
        features: Mapping[str, Any] = answer["features"] or {"mm_placeholders": {}}
        spans: Iterable[Any] = (
            span for modality in features["mm_placeholders"].values() for span in modality
        )
        image_ranges = sorted((int(span["offset"]), int(span["length"])) for span in spans)
        ids = tuple(int(token) for token in answer["token_ids"])
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError(f"{server.url} answered a rendering of another form") from error
    if len(image_ranges) != len(pictures):
        raise EngineError(f"{server.url} rendered {len(image_ranges)} images of {len(pictures)}")
    return RemotePrompt(ids, tuple(image_ranges), pictures, server)


def encoded(image: Image) -> Picture:
    """Return an image as an RGB PNG in a data URL, without metadata."""
    from PIL import Image as Images

    if image.mode != "RGB":
        image = upright_rgb(image)
    pixels = image.tobytes()
    # A copy of the pixels: Pillow would also write the original's colour profile and the like.
    buffer = io.BytesIO()
    Images.frombytes("RGB", image.size, pixels).save(buffer, "PNG", compress_level=1)
    name = hashlib.sha256(repr(image.size).encode() + pixels).hexdigest()
    return Picture(name, f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
