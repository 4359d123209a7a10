"""Requests that move to another server where theirs fails, as long as nothing was delivered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mirl_core.engines.remote.pool.pool import Pool
from mirl_core.engines.remote.server import ConnectionLost, Server
from mirl_core.errors import EngineError, RequestError, ServerError

T = TypeVar("T")

MOST_SENT = 2
"""How often a request may reach a server: one that kills engines must not go from server to server."""
PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses of failures that another server may not have."""


async def send_to(
    pool: Pool,
    home: Callable[[], Server],
    ask: Callable[[Server], Awaitable[T]],
    key: str | None = None,
    *,
    proves: bool = True,
) -> T:
    """Return the result of `ask` for the home server, or for another if that fails.

    `ask` delivers nothing before it returns, so a repeated request loses and duplicates nothing. It is
    repeated where the connection failed or the server hung, and on another server after a status in PASSING;
    never after a refusal, which is the request's own fault and no failure of the server.

    Args:
        home: the server that holds the request's prefix; called before each try, because where one branch of
            a prompt has moved, the others follow.
        ask: sends the request to a server.
        key: see `Pool.pick`.
        proves: whether an answer shows that the server works: a rendering says nothing of its engine.

    Raises:
        EngineDeadError: no server is up.
        EngineError: the request failed, as often as it was sent.
        RequestError: the server refuses the request.
    """
    sent = tries = 0
    failed: set[Server] = set()
    before: Server | None = None
    while True:
        tries += 1
        server = await pool.keep(home(), key, without=failed)
        if before is not None and before is not server:
            before.counters.moved += 1
        before = server
        try:
            answer = await ask(server)
        except RequestError:
            if proves:
                pool.succeeded(server)
            raise
        except ConnectionLost as error:
            sent += error.sent
            failed.add(server)
            await pool.failed(server, error)
            # A server that lives may only have closed an idle connection: if it is alone, it is tried again.
            if sent < MOST_SENT and tries <= len(pool.servers):
                continue
            await pool.keep(server)
            raise EngineError(str(error)) from error
        except ServerError as error:
            sent += 1
            failed.add(server)
            if error.status is None or error.status >= 500:
                await pool.failed(server, error)
            passing = error.status is None or error.status in PASSING
            if passing and sent < MOST_SENT and pool.has_other(server, failed):
                continue
            # If the engine died, its server is left out now; if no server is left, raise EngineDeadError.
            await pool.keep(server)
            raise
        except EngineError as error:
            await pool.failed(server, error)
            await pool.keep(server)
            raise
        if proves:
            pool.succeeded(server)
        return answer
