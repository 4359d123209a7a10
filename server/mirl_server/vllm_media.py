"""Images that vLLM decodes itself, held against the operator's limits first.

`NAME:direct` and vLLM's other endpoints read data URLs by vLLM's own code, which opens dozens of formats and
looks at nothing but the picture's size: a file that is small to send and long to open, refused at the gate,
would only have to be sent there. vLLM lets its media connector be replaced; this one looks before it decodes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.image import ImageMediaIO

from mirl_core.config import Limits
from mirl_core.errors import RequestError
from mirl_server.media.decoding import DAMAGED, Room, check_bytes, data_bytes

DEFAULT = "http"
"""vLLM's name of its own connector. An operator's (`VLLM_MEDIA_CONNECTOR`) has another, and stays."""
_PART = "image_url"


def check_images(limits: Limits) -> None:
    """Have vLLM look at images this way from here on."""
    MEDIA_CONNECTOR_REGISTRY.register(DEFAULT)(type("Checked", (CheckedConnector,), {"limits": limits}))


class CheckedConnector(MediaConnector):  # type: ignore[misc] # vllm's types are not followed
    """vLLM's own, but for the look at an image's data. `check_images` sets `limits`."""

    limits: ClassVar[Limits] = Limits()

    def _load_data_url(self, url: str, media_io: Any) -> Any:
        if not isinstance(media_io, ImageMediaIO):
            return super()._load_data_url(url, media_io)
        try:
            raw = data_bytes(url, _PART, room := Room.of(self.limits))
            check_bytes(raw, _PART, room)
            return media_io.load_bytes(raw)
        except RequestError as error:
            raise VLLMValidationError(error.message, parameter=_PART) from error
        except DAMAGED as error:
            says = "the image is damaged or cut short; send a whole file"
            raise VLLMValidationError(says, parameter=_PART) from error

    def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
        if self.allowed_local_media_path is None:
            # vLLM's own error ends as a 500.
            raise VLLMValidationError("'file:' URLs are not accepted; send a data URL", parameter=_PART)
        return super()._load_file_url(url_spec, media_io)
