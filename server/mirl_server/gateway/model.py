"""The model behind a gateway: how its engines list it, and its settings. Its weights are usually not here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mirl_core.bundled import MODELS, resolve
from mirl_core.config import DIRECT, ModelSettings
from mirl_core.errors import ConfigError
from mirl_core.families import find_settings, of_family
from mirl_server.settings.server import load_calibration

logger = logging.getLogger(__name__)

Card = dict[str, Any]
HUB_FILES = ("mirl.json", "config.json", "chat_template.jinja", "tokenizer_config.json")
"""What a model's settings, or its family, are read from."""


@dataclass(frozen=True, slots=True)
class Cards:
    """The models that an engine lists."""

    all: Sequence[Card]
    """Without those of `:direct`, which MIRL's own server adds to its list, as a gateway does."""
    gating: frozenset[str]
    """Names that the engine gates itself: there, `NAME:direct` is the plain model."""
    url: str
    """The engine that lists them."""

    def base(self, model: str | None) -> Card:
        """Return the card of the model that the gate uses.

        Args:
            model: its name; None: the first that is no adapter.

        Raises:
            ConfigError: the engine does not list it.
        """
        # Adapters are listed without a length.
        models = [card for card in self.all if card.get("max_model_len")]
        for card in models:
            if model in (None, card["id"]):
                return card
        names = ", ".join(str(card["id"]) for card in models) or "no model"
        raise ConfigError(f"{self.url} does not serve {model or 'a model'}, but {names} (--engine-model)")

    def plain(self, name: str) -> str:
        """Return the engine's name of the plain model `name`.

        An engine that gates has it under `NAME:direct`, and takes `:direct` off any name as this gateway did.
        """
        doubled = name in self.gating or (bool(self.gating) and name.endswith(DIRECT))
        return f"{name}{DIRECT}" if doubled else name

    def names(self, base: Card) -> tuple[str, ...]:
        """Return all names of the model, the base card's first."""
        root = base.get("root")
        others = [
            str(card["id"])
            for card in self.all
            if card.get("max_model_len") and card["id"] != base["id"] and root and card.get("root") == root
        ]
        return (str(base["id"]), *others)


def served_cards(url: str, response: httpx.Response) -> Cards:
    """Return the cards in an engine's answer to `GET /v1/models`.

    Raises:
        ConfigError: it has another form.
    """
    try:
        cards = [dict(card) for card in response.json()["data"]]
        ids = {str(card["id"]) for card in cards}
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"{url} lists its models in another form than vLLM") from error
    doubled = frozenset(name for name in ids if f"{name}{DIRECT}" in ids)
    kept = [card for card in cards if card["id"] not in {f"{name}{DIRECT}" for name in doubled}]
    return Cards(kept, doubled, url)


def model_source(card: Card, tokenizer: str | None) -> str:
    """Return the folder or hub name of the model's tokenizer, config and settings.

    Args:
        tokenizer: the operator's; None: the name under which the engine loaded the model. A bundled model is
            here too, wherever the engine has it.
    """
    name = str(card["id"])
    source = resolve(tokenizer or (name if name in MODELS else str(card.get("root") or name)))
    return str(Path(source).expanduser()) if source.startswith("~") else source


def find_model_settings(source: str, calibration: Path | None) -> ModelSettings:
    """Return the model's settings: the operator's, its own, its family's, the paper's.

    Args:
        source: see `model_source`; files of a hub are fetched, as the tokenizer's are.
        calibration: the operator's file.

    Raises:
        ConfigError: a file is wrong, the operator's does not exist, or the hub can't be reached.
    """
    if calibration is not None:
        return load_calibration(calibration)
    folder = _from_hub(source) if on_hub(source) else Path(source)
    resolved = of_family(None, None) if folder is None else find_settings(folder)
    if notice := resolved.notice:
        logger.warning("%s %s (--mirl-calibration names a file)", source, notice)
    return resolved.settings


def on_hub(source: str) -> bool:
    """Return whether a source of a model's files is a name of a hub, not a folder."""
    return not source.startswith(("/", ".")) and not Path(source).is_dir()


def _from_hub(name: str) -> Path | None:
    """Return the folder of a hub's settings files in the local cache; None where there are none.

    Raises:
        ConfigError: the hub can't be reached, so that it may have settings which are not in the cache.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    folder = None
    for file in HUB_FILES:
        try:
            folder = Path(hub.hf_hub_download(name, file)).parent
        except LocalEntryNotFoundError as error:
            if not constants.HF_HUB_OFFLINE:
                raise ConfigError(
                    f"{file} of {name} is not in this machine's cache, and the hub can't be reached: "
                    "--engine-tokenizer takes a folder, HF_HUB_OFFLINE=1 does without the file"
                ) from error
        except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
            # The model has no such file, or there is no such model: then the tokenizer says so.
            continue
    return folder
