"""Running a pipeline for a client that may leave: events out of a task, chunks into a socket.

Whichever way a request ends (answered, failed, client gone, server stopping), the pipeline's generator is
closed before the request's last line of code runs, so nothing of it is left in the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mirl_core.errors import EngineDeadError, EngineError, MIRLError
from mirl_core.events import Event
from mirl_server.protocol import error_body

logger = logging.getLogger(__name__)

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
T = TypeVar("T")


class ClientGone(Exception):  # noqa: N818 - not an error: the client hung up
    """The client hung up before its answer was ready."""


class Idle(Exception):  # noqa: N818 - not an error: nothing happened yet
    """No event came within the reader's patience; the work goes on."""


class Events:
    """A pipeline's events, read from a task of its own.

    One task iterates the generator from the first event to the last, whoever reads: waiting for the next
    event can then be cut short (keep-alive) without cancelling the work, and closing is one cancellation.
    """

    def __init__(self, source: AsyncGenerator[Event, None]) -> None:
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._pump(source))

    async def _pump(self, source: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(source):
                async for event in source:
                    self._queue.put_nowait(event)
        except asyncio.CancelledError:
            self._queue.put_nowait(EngineDeadError("the server is shutting down"))
            raise
        except Exception as error:  # noqa: BLE001 - the reader raises it again
            self._queue.put_nowait(error)
        else:
            self._queue.put_nowait(None)

    async def next(self, patience: float | None = None) -> Event | None:
        """The next event, None after the last; Idle if none comes within `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                item = await self._queue.get()
        except TimeoutError:
            raise Idle from None
        if isinstance(item, Exception):
            raise item
        return item

    async def last(self) -> Event:
        """The last event, when it has come."""
        last: Event | None = None
        while (event := await self.next()) is not None:
            last = event
        assert last is not None, "a pipeline always ends with Finished"
        return last

    async def close(self) -> None:
        """Stop the pipeline; returns when nothing of it runs any more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; if the client hangs up first, `work` is cancelled and ClientGone raised.

    The request's body must have been read: what comes after it can only be the disconnect.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events out of a generator; `close` runs whichever way the response ends.

    Starlette's own StreamingResponse leaves the generator to the garbage collector when it is cancelled
    between two chunks.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[str, None], close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        except ClientGone:
            pass
        finally:
            await self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HeldResponse(Response):
    """Another response; `close` runs whichever way it ends."""

    def __init__(self, inner: Response, close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(status_code=inner.status_code)
        self._inner = inner
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._inner(scope, receive, send)
        finally:
            await self._close()


async def stream(
    first: Event,
    events: Events,
    tell: Callable[[Event], Iterable[dict[str, Any]]],
    keep_alive: float,
    failed: Callable[[MIRLError], None],
) -> AsyncGenerator[str, None]:
    """The lines of a stream: `first` and what follows it, a comment when idle, an error event if it fails.

    Args:
        tell: the chunks of one event.
        keep_alive: seconds without an event after which a comment is sent.
        failed: hears of an error, which by now can't change the status any more.
    """
    event: Event | None = first
    try:
        while event is not None:
            for chunk in tell(event):
                yield data(chunk)
            waiting = True
            while waiting:
                try:
                    event = await events.next(keep_alive)
                    waiting = False
                except Idle:
                    yield KEEP_ALIVE
    except MIRLError as error:
        failed(error)
        yield data(error_body(error))
    except Exception:
        # The last line of defence: headers are out, so the client must hear of it in the stream.
        logger.exception("a streamed request failed")
        unknown = EngineError("internal error")
        failed(unknown)
        yield data(error_body(unknown))
    yield DONE


def data(chunk: dict[str, Any]) -> str:
    """One chunk as a line of server-sent events."""
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
