"""What a server must be to join an engine; the first that joins decides what the others must equal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.remote import checks
from mirl_core.engines.remote.chat.checks import Abilities, check_chat
from mirl_core.engines.remote.checks import ServedModel
from mirl_core.engines.remote.server import Server
from mirl_core.errors import ConfigError, EngineDeadError, EngineError

logger = logging.getLogger(__name__)

Mode = Literal["tokens", "chat"]
WantedMode = Literal["tokens", "chat", "auto"]


@dataclass(frozen=True, slots=True)
class Profile:
    """What all servers of an engine have in common."""

    model: ServedModel
    text: TextCodec
    banned: frozenset[int] = frozenset()
    """Tokens that stand for media; never sampled."""
    mode: Mode = "tokens"
    abilities: Abilities = field(default_factory=Abilities)
    """What the servers' chat completions return; of use in chat mode only."""


class Joining:
    """Checks servers that join.

    Args:
        model: the model, as the servers list it; None: the first in the list of the server that joins first.
        tokenizer: folder or hub name of the model; None: the name under which the servers loaded it.
        mode: how tokens are had from the servers; `auto`: as the server that joins first allows.
        keep_special: special tokens that stay in text.
        profile: what servers must have, where that is known beforehand.
    """

    def __init__(
        self,
        model: str | None = None,
        tokenizer: str | None = None,
        mode: WantedMode = "tokens",
        keep_special: Sequence[str] = (),
        profile: Profile | None = None,
    ) -> None:
        self._model, self._tokenizer, self._mode = model, tokenizer, mode
        self._keep_special = tuple(keep_special)
        self._profile = profile
        self._loaded: dict[str, tuple[TextCodec, frozenset[int]]] = {}
        self._lock = asyncio.Lock()

    @property
    def profile(self) -> Profile:
        """What the servers have in common.

        Raises:
            EngineDeadError: no server has joined yet.
        """
        if self._profile is None:
            raise EngineDeadError("no server has joined yet")
        return self._profile

    async def admit(self, server: Server, weights: str | None) -> None:
        """Check a server before it is used.

        Args:
            weights: the version of the weights that it must have; None: any.

        Raises:
            ConnectionLost: it doesn't answer.
            ConfigError: it serves another model than the others, or must be started with other flags.
            MIRLError: it answers in another form than expected.
        """
        if not await server.healthy():
            # Says why, where the server does.
            await server.control("GET", "/health", timeout=5.0)
            raise EngineError(f"{server.name} fails its health check")
        name = self._profile.model.name if self._profile else self._model
        model = await checks.find_model(server, name, any_length=self._mode != "tokens")
        server.vllm_version = await checks.read_version(server)
        profile = await self._compared(server, model)
        if weights is not None:
            await _check_weights(server, weights)
        if profile.mode == "tokens":
            checks.check_version(server)
            await checks.check(server, profile.model, profile.text.encode)
        else:
            abilities = await check_chat(server, profile.model)
            profile = replace(profile, abilities=abilities)
        if self._profile is None:
            self._profile = profile
            return
        # Another server may have joined meanwhile.
        await self._compared(server, model)
        if self._profile.mode != profile.mode:
            raise ConfigError(
                f"{server.name} is used by {profile.mode}, the other servers by {self._profile.mode}: start "
                "all with --enable-scale-out, or choose the mode chat"
            )
        if self._profile.abilities != profile.abilities:
            raise ConfigError(
                f"the chat completions of {server.name} have other parts than those of the other servers: "
                "run the same server everywhere"
            )

    async def _compared(self, server: Server, model: ServedModel) -> Profile:
        """Return the profile, or the one that there will be if the server joins.

        Raises:
            ConfigError: the server serves another model than the others, or takes prompts of another length.
        """
        profile = self._profile
        if profile is None:
            return await self._new_profile(server, model)
        if model.name != profile.model.name:
            raise ConfigError(
                f"{server.name} serves {model.name}, the other servers {profile.model.name}: serve one model "
                "under one name"
            )
        if model.max_model_len != profile.model.max_model_len:
            raise ConfigError(
                f"{server.name} takes {model.max_model_len} tokens, the other servers "
                f"{profile.model.max_model_len}: start all with the same --max-model-len"
            )
        return profile

    async def _new_profile(self, server: Server, model: ServedModel) -> Profile:
        mode = self._mode
        if mode == "auto":
            mode = "tokens" if await checks.has_token_routes(server) else "chat"
            if mode == "chat":
                logger.warning(
                    "%s has no token routes (--enable-scale-out): chat completions are used, which is not "
                    "token-exact",
                    server.name,
                )
        name = self._tokenizer or model.root
        async with self._lock:
            if name not in self._loaded:
                loaded, banned = await asyncio.to_thread(checks.load_tokenizer, name)
                self._loaded[name] = TextCodec(loaded, self._keep_special), banned
        text, banned = self._loaded[name]
        return Profile(model, text, banned, mode)


async def _check_weights(server: Server, version: str) -> None:
    info = await server.control("GET", "/weight_info")
    if info["weight_version"] != version:
        raise EngineError(f"{server.name} has other weights")
    server.weights_version = version
