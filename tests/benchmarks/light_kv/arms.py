"""The arms: an engine's cache type, arguments of the image processor, and a bound on pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mirl_client.pictures import open_image, picture_bytes, picture_url
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ARMS", "REFERENCE", "Arm", "bounded", "named_arms"]

REFERENCE = "full"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer."""

    name: str
    kv_cache_dtype: str = "auto"
    """As vLLM's option; an engine of its own for each."""
    processor: Mapping[str, Any] = field(default_factory=dict)
    """`mm_processor_kwargs`."""
    max_side: int | None = None
    """Longest side to which a client scales pictures down; pixels."""


ARMS = {
    arm.name: arm
    for arm in (
        Arm(REFERENCE),
        # The same once more: what differs is the engine's own rounding in other batches.
        Arm("again"),
        Arm("fp8", kv_cache_dtype="fp8_e4m3"),
        Arm("fp8_e5m2", kv_cache_dtype="fp8_e5m2"),
        Arm("side48", max_side=48),
        Arm("side32", max_side=32),
        Arm("processor32", processor={"size": {"longest_edge": 32}}),
        Arm("patches32", processor={"max_image_size": {"longest_edge": 32}}),
    )
}


def named_arms(names: str) -> tuple[Arm, ...]:
    """Return the arms in `names`, separated by commas, those of one engine next to each other.

    Raises:
        ConfigError: a name is unknown.
    """
    chosen = list(dict.fromkeys(filter(None, names.split(","))))
    for name in chosen:
        if name not in ARMS:
            raise ConfigError(f"arms: there is no {name!r}; there are {', '.join(ARMS)}", param="arms")
    arms = [ARMS[name] for name in chosen]
    engines = list(dict.fromkeys(arm.kv_cache_dtype for arm in arms))
    return tuple(sorted(arms, key=lambda arm: engines.index(arm.kv_cache_dtype)))


def bounded(question: Question, max_side: int | None) -> Question:
    """Return the question with its picture scaled down as the clients do it."""
    if max_side is None:
        return question

    def image() -> Image:
        url = picture_url(question.image().convert("RGB"), max_side=max_side)
        return open_image(picture_bytes(url)).convert("RGB")

    return replace(question, image=image)
