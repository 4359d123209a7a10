"""Running a pipeline for a client that may leave: events out of a task, chunks into a socket.

Whichever way a request ends (answered, failed, client gone, server stopping), the pipeline's generator is
closed before the request's last line of code runs, so nothing of it is left in the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mirl_core.errors import EngineDeadError, EngineError, MIRLError
from mirl_core.types import Result
from mirl_server.handling.choices import IndexedEvent
from mirl_server.observability.logs import trail

logger = logging.getLogger(__name__)

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
T = TypeVar("T")


class ResponseWriter(Protocol):
    """How one request is answered, in the words of the API that it came by."""

    silence: str
    """What a stream says while nothing happens."""
    end: str
    """A stream's last line, where it has one beside its events."""

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """The answer of a request that does not stream: one result per choice, in their order."""
        ...

    def lines(self, told: IndexedEvent) -> Iterable[str]:
        """What a stream says of one event of one choice. It hears of each once, in the order they came."""
        ...

    def failure(self, error: MIRLError) -> Iterable[str]:
        """What a stream says of an error that ends it."""
        ...


class ClientGone(Exception):  # noqa: N818 - not an error: the client hung up
    """The client hung up before its answer was ready."""


class Idle(Exception):  # noqa: N818 - not an error: nothing happened yet
    """No event came within the reader's patience; the work goes on."""


class Events(Generic[T]):
    """A pipeline's events, or what else a generator tells, read from a task of its own.

    One task iterates the generator from the first event to the last, whoever reads: waiting for the next
    event can then be cut short (keep-alive) without cancelling the work, and closing is one cancellation.
    """

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._queue: asyncio.Queue[T | Exception | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._pump(source))

    async def _pump(self, source: AsyncGenerator[T, None]) -> None:
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

    async def next(self, patience: float | None = None) -> T | None:
        """The next event, None after the last; Idle if none comes within `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                item = await self._queue.get()
        except TimeoutError:
            raise Idle from None
        if isinstance(item, Exception):
            raise item
        return item

    async def each(self, hear: Callable[[T], object]) -> None:
        """Have `hear` told all that is left."""
        while (event := await self.next()) is not None:
            hear(event)

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
    first: IndexedEvent,
    events: Events[IndexedEvent],
    voice: ResponseWriter,
    keep_alive: float,
    failed: Callable[[MIRLError], None],
) -> AsyncGenerator[str, None]:
    """The lines of a stream: `first` and what follows it, a sign of life when idle, the error if it fails.

    Args:
        keep_alive: seconds without an event after which the stream says that it is alive.
        failed: hears of an error, which by now can't change the status any more.
    """
    event: IndexedEvent | None = first
    try:
        while event is not None:
            for line in voice.lines(event):
                yield line
            waiting = True
            while waiting:
                try:
                    event = await events.next(keep_alive)
                    waiting = False
                except Idle:
                    yield voice.silence
    except MIRLError as error:
        failed(error)
        for line in voice.failure(error):
            yield line
    except Exception as error:  # noqa: BLE001
        # The last line of defence: headers are out, so the client must hear of it in the stream.
        logger.error("a streamed request failed: %s", trail(error))
        unknown = EngineError("internal error")
        failed(unknown)
        for line in voice.failure(unknown):
            yield line
    if voice.end:
        yield voice.end


def data(chunk: dict[str, Any], event: str | None = None) -> str:
    """One chunk as a server-sent event, with its name where the API names events."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
