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
from mirl_core.engines.remote.server import Server
from mirl_core.errors import EngineError
from mirl_core.types import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

STAND_IN: dict[str, Any] = {
    "type": "image_url",
    "image_url": {
        "url": (
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PMQ0AAAwDoEqv9"
            "ErYvQQckD4XAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAYHLAB8+AWnmfUycAAAAAElFTkSuQmCC"
        )
    },
    "uuid": "mirl-stand-in",
}
"""The part of a message with a small grey image, of 64 × 64 pixels. It is recognised by identity."""

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
    key: str | None = None
    """What this prompt has in common with others that may share its cached prefix."""
    servers_with_images: set[Server] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def image_tokens(self) -> frozenset[int]:
        """Return all tokens in the images' ranges."""
        return frozenset(
            self.token_ids[at] for start, size in self.image_ranges for at in range(start, start + size)
        )

    def around_images(self) -> list[tuple[int, ...]]:
        """Return the tokens before, between and after the images."""
        pieces = []
        end = 0
        for start, size in self.image_ranges:
            pieces.append(self.token_ids[end:start])
            end = start + size
        return [*pieces, self.token_ids[end:]]

    def fields(self, suffix: Sequence[int], placeholder: int | None, *, with_images: bool) -> dict[str, Any]:
        """Return a request's fields for the prompt plus `suffix`.

        Args:
            suffix: token ids after the prompt.
            placeholder: the token that vLLM expands to an image's tokens; None where there are no images.
            with_images: whether to carry the images or to refer to them by name.
        """
        if placeholder is None or not self.pictures:
            return {"token_ids": [*self.token_ids, *suffix]}
        first, *others = self.around_images()
        ids = [*first]
        for piece in others:
            ids += (placeholder, *piece)
        parts = [
            {"type": "image_url", "url": picture.url if with_images else None, "uuid": picture.name}
            for picture in self.pictures
        ]
        return {"token_ids": [*ids, *suffix], "content_parts": parts}


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """A conversation as the body of a request for its rendering, or of a chat completion."""

    body: Mapping[str, Any]
    """Its images are stand-ins: `part_of` makes the parts of the true ones, in order."""
    pictures: tuple[Picture, ...]
    key: str
    """Equal for conversations of one tenant with the same images, or without images the same beginning."""

    def with_images(self, *, by_name: bool = False) -> dict[str, Any]:
        """Return the body with the true images, or with their names where the server has them."""
        parts = (part_of(picture, by_name=by_name) for picture in self.pictures)
        messages = [
            {**message, "content": [next(parts) if part is STAND_IN else part for part in content]}
            if isinstance(content := message.get("content"), list)
            else message
            for message in self.body["messages"]
        ]
        return {**self.body, "messages": messages}


def render_request(conversation: Conversation, model: str, cache_salt: str | None = None) -> RenderRequest:
    """Return the body for `/v1/chat/completions/render` and the images in it.

    Encodes the images: call it in a thread.

    Raises:
        RequestError: a part of a message can't be sent.
    """
    pictures: list[Picture] = []

    def part(image: Image) -> dict[str, Any]:
        pictures.append(encoded(image))
        return STAND_IN

    arguments = dict(conversation.template_kwargs)
    messages = messages_with(conversation, part)
    body = {
        "model": model,
        "messages": messages,
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
    return RenderRequest(body, tuple(pictures), _key(messages, pictures, cache_salt))


def part_of(picture: Picture, *, by_name: bool = False) -> dict[str, Any]:
    """Return the part of a message that carries an image, or its name."""
    image = None if by_name else {"url": picture.url}
    return {"type": "image_url", "image_url": image, "uuid": picture.name}


def read_rendering(answer: Any, request: RenderRequest, server: Server) -> RemotePrompt:
    """Return the prompt in a server's answer to a rendering request.

    Raises:
        EngineError: the answer's form is not vLLM's, or it has another number of images.
    """
    try:
        image_ranges = ranges((answer["features"] or {"mm_placeholders": {}})["mm_placeholders"])
        ids = tuple(int(token) for token in answer["token_ids"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise EngineError(f"{server.name} answered a rendering of another form") from error
    if len(image_ranges) != len(request.pictures):
        raise EngineError(f"{server.name} rendered {len(image_ranges)} images of {len(request.pictures)}")
    return RemotePrompt(ids, image_ranges, request.pictures, server, request.key)


def read_expansion(answer: Any, short: RemotePrompt) -> RemotePrompt | None:
    """Return a prompt with its true images from the answer to a request for tokens after it.

    Args:
        answer: of a request with `return_token_ids`.
        short: the rendering with stand-ins for the images.

    Returns:
        None where the answer doesn't say where the images are, or has other tokens around them than `short`.
    """
    try:
        image_ranges = ranges(answer["mm_placeholders"])
        ids = tuple(int(token) for token in answer["prompt_token_ids"])
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    prompt = RemotePrompt(ids, image_ranges, short.pictures, short.server, short.key)
    return prompt if prompt.around_images() == short.around_images() else None


def ranges(placeholders: Mapping[str, Iterable[Any]]) -> tuple[tuple[int, int], ...]:
    """Return offset and length of every image's tokens, ascending, from vLLM's `mm_placeholders`."""
    spans = (span for modality in placeholders.values() for span in modality)
    return tuple(sorted((int(span["offset"]), int(span["length"])) for span in spans))


def _key(messages: Sequence[Mapping[str, Any]], pictures: Sequence[Picture], salt: str | None) -> str:
    # A conversation that goes on keeps its first picture, or its first two messages.
    beginning: Any = pictures[0].name if pictures else messages[:2]
    return hashlib.sha256(repr((salt, beginning)).encode()).hexdigest()


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
