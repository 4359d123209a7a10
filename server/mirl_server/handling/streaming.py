"""Events of a pipeline, read in a task, and written to a client that may leave.

However a request ends (answered, failed, client gone, server stopping), the pipeline's generator is closed
before the request's last line of code runs, so that nothing of it stays in the engine.
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
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.types import Result
from mirl_server.http.errors import error_body, is_messages, messages_error
from mirl_server.observability.logs import trail

logger = logging.getLogger(__name__)

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
T = TypeVar("T")


class ResponseWriter(Protocol):
    """The writer of one response, in the form of its API."""

    keep_alive: str
    """The line of a stream without events."""
    last_line: str
    """The line after a stream's events; empty: none."""

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """Return the body of a response that does not stream, of one result per choice, in order."""
        ...

    def lines(self, choice_event: ChoiceEvent) -> Iterable[str]:
        """Return a stream's lines for an event. Each event is passed once, in the order of arrival."""
        ...

    def failure(self, error: MIRLError) -> Iterable[str]:
        """Return a stream's lines for the error that ends it."""
        ...


class ClientGone(Exception):  # noqa: N818 - not an error: the client hung up
    """The client hung up before its answer was ready."""


class Idle(Exception):  # noqa: N818 - not an error: nothing happened yet
    """No event came in time; the work goes on."""


class EventReader(Generic[T]):
    """A generator's items, read by a task.

    One task iterates the generator from the first item to the last: a wait for the next item can then time
    out (keep-alive) without cancelling the work, and closing is one cancellation.
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

    async def next(self, seconds: float | None = None) -> T | None:
        """Return the next item, None after the last.

        Raises:
            Idle: no item came within `seconds`.
            Exception: the generator's own error.
        """
        try:
            async with asyncio.timeout(seconds):
                item = await self._queue.get()
        except TimeoutError:
            raise Idle from None
        if isinstance(item, Exception):
            raise item
        return item

    async def close(self) -> None:
        """Stop the generator; return when nothing of it runs any more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which is cancelled when the client hangs up first.

    The request's body must have been read: only the disconnect can follow it.

    Raises:
        ClientGone: the client hung up.
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
    """Server-sent events from a generator; `close` runs however the response ends.

    Starlette's StreamingResponse leaves the generator to the garbage collector when it is cancelled
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
    """A wrapper of another response; `close` runs however it ends."""

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
    first: ChoiceEvent,
    events: EventReader[ChoiceEvent],
    writer: ResponseWriter,
    keep_alive: float,
    on_error: Callable[[MIRLError], None],
) -> AsyncGenerator[str, None]:
    """Yield a stream's lines: for `first` and the events after it, idle times, and an error that ends it.

    Args:
        keep_alive: seconds without an event before a keep-alive line.
        on_error: called with an error, which comes too late to change the status.
    """
    event: ChoiceEvent | None = first
    try:
        while event is not None:
            for line in writer.lines(event):
                yield line
            waiting = True
            while waiting:
                try:
                    event = await events.next(keep_alive)
                    waiting = False
                except Idle:
                    yield writer.keep_alive
    except MIRLError as error:
        on_error(error)
        for line in writer.failure(error):
            yield line
    except Exception as error:  # noqa: BLE001
        # The headers are out, so the stream must carry the error.
        logger.error("a streamed request failed: %s", trail(error))
        internal_error = EngineError("internal error")
        on_error(internal_error)
        for line in writer.failure(internal_error):
            yield line
    if writer.last_line:
        yield writer.last_line


def data(chunk: dict[str, Any], event: str | None = None) -> str:
    """Return a chunk as a server-sent event, with its name where the API names events."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_event(path: str, error: MIRLError) -> str:
    """Return the event that ends a stream with an error, in the form of the API that `path` belongs to."""
    if is_messages(path):
        return data(messages_error(error), "error")
    if path.startswith("/v1/responses"):
        fields = error_body(error)["error"]
        return data(
            {"type": "error", **{name: fields[name] for name in ("code", "message", "param")}}, "error"
        )
    return data(error_body(error)) + DONE
