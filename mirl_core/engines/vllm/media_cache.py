"""vLLM's caches of preprocessed media: the front end never relies on what it believes the engine to hold.

By default vLLM's front end mirrors the engine's cache and sends a reference where the mirror has an image.
Each rendering changes the mirror, but only requests that reach the engine change its cache, in their order
there. What is rendered and then refused, counted or cancelled, and requests that overtake each other leave
the two apart: the engine then ends a request with an error, a 500, and the same request passes when it is
sent again (vllm#31404, vllm#46354, vllm#46747). vLLM's other cache in the same process keeps the media
themselves. With it every request carries its media, as in vLLM with several API servers, and nothing can
come apart.
"""

from __future__ import annotations

from typing import Any

from vllm.multimodal.cache import LruKeyReplicatedSenderCache, engine_receiver_cache_from_config
from vllm.renderers import BaseRenderer


def drop_mirror(renderer: BaseRenderer) -> None:
    """Make every rendering of this process carry its media, those of vLLM's own handlers too.

    A cache in shared memory stays: it hands out addresses, and holds what is there until it is read.
    """
    if isinstance(getattr(renderer, "mm_processor_cache", None), LruKeyReplicatedSenderCache):
        # The property has no setter, and vLLM no option for it.
        renderer._mm_processor_cache = renderer._mm_processor_only_cache


def engine_keeps_media(config: Any) -> bool:
    """Return whether the engine caches the media that it receives: a later request may refer to them."""
    return engine_receiver_cache_from_config(config) is not None
