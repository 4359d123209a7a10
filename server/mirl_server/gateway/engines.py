"""The gateway's engines: connected to as soon as one is ready, and checked again and again.

The gateway starts before its engines and outlives them: whatever is wrong with them is a reason in `/ready`
and a line in the log, never the end of the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from mirl_core.config import ModelSettings
from mirl_core.engines.remote.engine import RemoteEngine
from mirl_core.engines.remote.pool.settings import PoolSettings
from mirl_core.engines.remote.server import Server, checked_url
from mirl_core.errors import EngineDeadError, MIRLError, ServerError
from mirl_server.gateway.model import Cards, find_model_settings, model_source, on_hub, served_cards
from mirl_server.gateway.upstream import Engine
from mirl_server.observability.logs import trail
from mirl_server.settings.engines import EngineSettings
from mirl_server.settings.server import ServerSettings

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between two checks while no engine is ready."""
NOT_YET = "no engine has been reached yet"
Start = Callable[..., Awaitable[RemoteEngine]]


@dataclass(frozen=True, slots=True)
class Connected:
    """The engines, once one of them is ready."""

    engine: RemoteEngine
    model: ModelSettings
    cards: Cards


class _Member:
    """A server of the remote engine, as one that requests are passed on to."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def name(self) -> str:
        # A URL that is an address says all there is to say.
        return self.url if self.address in (None, httpx.URL(self.url).host) else self.server.name

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def address(self) -> str | None:
        return self.server.address

    @property
    def in_flight(self) -> int:
        return self.server.in_flight

    def working(self) -> AbstractContextManager[None]:
        return self.server.working()


class GatewayEngines:
    """The vLLM servers of a gateway. Run `run` in a task for as long as the gateway lives.

    Args:
        settings: the operator's.
        client: sends requests to the servers, with the gateway's key.
        connected: called once, when an engine is ready for the first time.
        start: replaces RemoteEngine.start in tests.
    """

    def __init__(
        self,
        settings: ServerSettings,
        client: Callable[[], httpx.AsyncClient],
        connected: Callable[[Connected], Awaitable[None]],
        start: Start = RemoteEngine.start,
    ) -> None:
        self._settings = settings
        self._client = client
        self._connected = connected
        self._start = start
        self._urls = [checked_url(url) for url in settings.engine.urls]
        self._connection: Connected | None = None
        self._reason = NOT_YET
        self._check_now = asyncio.Event()

    @property
    def engine(self) -> RemoteEngine | None:
        """The remote engine; None until the servers' model is known."""
        return self._connection.engine if self._connection is not None else None

    @property
    def settings(self) -> EngineSettings:
        return self._settings.engine

    def ready(self) -> Sequence[Engine]:
        """Return the engines that are ready."""
        return [_Member(server) for server in self.servers if server.up]

    def why_none(self) -> str:
        """Return why no engine is ready."""
        reasons = dict.fromkeys(server.reason for server in self.servers if not server.up)
        return f"no engine is ready: {'; '.join(reasons) or self._reason}"

    def inexact_reason(self) -> str | None:
        """Return why forks and scores are not of exactly the sampled tokens; None: they are."""
        ready = self.engine is not None and self.ready()
        return self.engine.inexact_reason if ready and self.engine is not None else None

    def suspect(self) -> None:
        """Check the engines soon: a request has failed."""
        self._check_now.set()

    def states(self) -> list[dict[str, Any]]:
        """Return each engine's state, with the reason where it is not ready."""
        servers = self.servers
        if not servers:
            return [{"engine": url, "ready": False, "reason": self._reason} for url in self._urls]
        return [
            {"engine": _Member(server).name, "ready": server.up}
            | ({} if server.up else {"reason": server.reason})
            for server in servers
        ]

    async def run(self) -> None:
        """Connect to the engines, then check them for ever; close them when cancelled."""
        try:
            while not await self._connect():
                await self._wait(RETRY_SECONDS)
            while True:
                suspected = await self._wait(self.settings.check_seconds if self.ready() else RETRY_SECONDS)
                # Engines that are up are checked by their pool.
                if suspected or not self.ready():
                    await self._check()
        finally:
            if self.engine is not None:
                await self.engine.close()

    async def _connect(self) -> bool:
        """Connect to the engines; return whether one is ready."""
        try:
            if self._connection is None:
                self._connection = await self._first_connection()
            else:
                await self._connection.engine.health()
            if not self.ready():
                self._note(self.why_none())
                return False
            await self._connected(self._connection)
        except MIRLError as error:
            self._note(error.message)
            return False
        except Exception as error:  # noqa: BLE001
            # A library's error (of the tokenizer's files, say) is a reason like any other.
            logger.error("the engines can't be used: %s", trail(error))
            self._note(f"{type(error).__name__} while the engines were connected to; see the gateway's log")
            return False
        return True

    async def _first_connection(self) -> Connected:
        settings = self.settings
        cards = await self.cards()
        chosen = cards.base(settings.model)
        source = model_source(chosen, settings.tokenizer)
        if on_hub(source):
            self._note(f"settings and tokenizer of {source} are being fetched from the hub", logging.INFO)
        model = await asyncio.to_thread(find_model_settings, source, self._settings.calibration)
        key = settings.api_key.get_secret_value() if settings.api_key else None
        tags = (*model.tags.description, *model.tags.reasoning, *model.tags.answer)
        name = str(chosen["id"])
        if settings.mode == "chat":
            name = cards.plain(name)
        engine = await self._start(
            self._urls,
            model=name,
            tokenizer=source,
            mode=settings.mode,
            api_key=key,
            timeout=settings.seconds,
            keep_special=tags,
            required=False,
            settings=PoolSettings(
                check_seconds=settings.check_seconds, resolve_seconds=settings.resolve_seconds or None
            ),
        )
        return Connected(engine, model, cards)

    async def cards(self) -> Cards:
        """Return the models that the first engine lists that answers.

        Raises:
            EngineDeadError: none answers.
            ServerError: an engine refuses the gateway's key.
            ConfigError: its answer is no list of models.
        """
        ready = [member.url for member in self.ready()]
        reasons = []
        for url in ready or self._urls:
            try:
                response = await self._client().get(f"{url}/v1/models", timeout=10.0)
            except httpx.HTTPError as error:
                reasons.append(f"{url} can't be reached: {type(error).__name__}")
                continue
            if response.status_code in (401, 403):
                raise ServerError(f"{url} refuses the gateway's key (--engine-api-key)", response.status_code)
            if response.is_success:
                return served_cards(url, response)
            reasons.append(f"{url} answers /v1/models with status {response.status_code}")
        raise EngineDeadError("; ".join(reasons))

    async def _check(self) -> None:
        assert self.engine is not None, "engines are checked once connected"
        before = bool(self.ready())
        try:
            await self.engine.health()
        except MIRLError:
            pass  # the servers' states say why
        except Exception as error:  # noqa: BLE001
            # The next check may succeed, and without checks no engine would ever come back.
            logger.error("the engines can't be checked: %s", trail(error))
        after = bool(self.ready())
        if before and not after:
            logger.error("%s", self.why_none())
        elif after and not before:
            logger.info("an engine is ready again")

    def _note(self, reason: str, level: int = logging.WARNING) -> None:
        if reason != self._reason:
            logger.log(level, "%s", reason)
        self._reason = reason

    async def _wait(self, seconds: float) -> bool:
        """Wait for a request that has failed, `seconds` at most; return whether one has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._check_now.wait()
        suspected = self._check_now.is_set()
        self._check_now.clear()
        return suspected

    @property
    def servers(self) -> Sequence[Server]:
        """The servers of the remote engine; none before it is connected."""
        return self.engine.servers if self.engine is not None else ()
