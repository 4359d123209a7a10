"""What is logged of a request, and what never is: a real server, marked prompts, images and keys."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import Request, Response
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineDeadError, EngineError
from mirl_server.middleware.request_log import RequestLog
from mirl_server.observability.logs import (
    WITHOUT_ARGUMENTS,
    LogSettings,
    begin_notes,
    json_formatter,
    note,
    sane_id,
    share_handlers,
    trail,
)
from tests.unit.server.harness import DESCRIPTIONS, Build, Harness, question

MARK = "MARKEDTEXT"
KEY = "sk-MARKEDKEY"
ANSWER = "MARKEDANSWER"
HEADERS = {"authorization": f"Bearer {KEY}"}


@functools.cache
def marked_image() -> tuple[str, str]:
    """A data URL whose EXIF carries the mark, and a piece of its base64."""
    exif = Image.Exif()
    exif[270] = MARK
    buffer = io.BytesIO()
    Image.effect_noise((16, 16), 50).save(buffer, "JPEG", exif=exif.tobytes())
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/jpeg;base64,{encoded}", encoded[200:260]


class Lines(logging.Handler):
    """Every line of every logger, at DEBUG."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def of_requests(self) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.lines]
        return [
            entry
            for entry in entries
            if entry["logger"] == "mirl_server.middleware.request_log" and entry["event"] == "request"
        ]


@pytest.fixture(params=["json", "text"])
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    style = logging.Formatter("%(levelname)s %(name)s %(message)s")
    handler = Lines(json_formatter() if request.param == "json" else style)
    root, level = logging.getLogger(), logging.getLogger().level
    # As in a process without vLLM: with it our lines would go where its own go, at its level.
    theirs = logging.getLogger("vllm")
    kept, theirs.handlers = theirs.handlers, []
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    # The client that asks is not the server.
    quiet = [logging.getLogger(name) for name in ("httpx", "httpcore")]
    for logger in quiet:
        logger.setLevel(logging.WARNING)
    share_handlers(LogSettings())
    yield handler
    theirs.handlers = kept
    root.removeHandler(handler)
    root.setLevel(level)
    for logger in quiet:
        logger.setLevel(logging.NOTSET)


def format_of(lines: Lines) -> Any:
    return "json" if "ProcessorFormatter" in type(lines.formatter).__name__ else "text"


@asynccontextmanager
async def served(harness: Harness, format: str) -> AsyncIterator[httpx.AsyncClient]:  # noqa: A002
    """The app on a real socket, with what the launcher sets."""
    harness.app.add_middleware(RequestLog, settings=LogSettings(format=format))  # type: ignore[arg-type]
    config = uvicorn.Config(harness.app, log_config=None, access_log=False, log_level="debug", lifespan="off")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve([listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=20) as client:
            yield client
        server.should_exit = True
        await task


def body(**fields: Any) -> dict[str, Any]:
    message = question(f"what is {MARK}?", marked_image()[0])
    return {
        "model": "m",
        "messages": [message],
        "mirl": {"descriptions": 2, "keep": 1},
        "user": MARK,
    } | fields


BROKEN: list[dict[str, Any]] = [
    {},
    {"stream": True},
    {MARK: 1},
    {"mirl": {MARK: 1}},
    {"mirl": {"gate": MARK}},
    {"temperature": MARK},
    {"stop": [MARK], "seed": 1},
    {"model": f"{MARK}:direct"},
    {"messages": [question(MARK, f"data:image/png;base64,{MARK}!")]},
    {"messages": [question(MARK, f"https://example.com/{MARK}.png")]},
    {"messages": [question(MARK, "data:image/png;base64," + base64.b64encode(MARK.encode()).decode())]},
    {"messages": [{"role": MARK, "content": MARK}, question(MARK)]},
    {"messages": [{"role": "user", "content": MARK}]},
    {"chat_template_kwargs": {"tools": MARK}},
    {"mirl": {"descriptions": 2, "keep": 1, "timeout": 0.001}},
]


def no_marks(lines: Lines) -> None:
    said = "\n".join(lines.lines)
    for secret in (MARK, KEY, ANSWER, marked_image()[1], base64.b64encode(MARK.encode()).decode()):
        assert secret not in said, next(line for line in lines.lines if secret in line)


async def test_no_prompt_image_or_key_is_logged_whatever_is_sent(build: Build, lines: Lines) -> None:
    engine = FakeEngine(
        [FakeText(f"a {MARK}</description>")], lambda *_: f"<think>{MARK}</think><answer>{ANSWER}</answer>"
    )
    async with served(build(engine), format_of(lines)) as client:
        for fields in BROKEN:
            await client.post("/v1/chat/completions", json=body(**fields))
        for raw in (b"{", b"[]", f'"{MARK}"'.encode(), f'{{"messages": {MARK}'.encode(), b"\xff"):
            await client.post(
                "/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
            )
        await client.post("/v1/chat/completions", content=MARK, headers={"content-type": "text/plain"})
        score = {"messages": [question(MARK, marked_image()[0])], "descriptions": [f"a {MARK}"]}
        await client.post("/v1/mirl/score", json=score)
        await client.post("/v1/mirl/score", json={**score, "descriptions": MARK})
        await client.post("/v1/mirl/score", json={**score, MARK: MARK})
        await client.get("/nowhere", params={"api_key": KEY})
        await client.get("/v1/models", headers={"x-request-id": f"{MARK} is no id"})
    assert len(lines.lines) > 25
    no_marks(lines)


async def failing(*_: object) -> None:
    raise RuntimeError(f"could not read {MARK} with {KEY}")


def break_delegate(harness: Harness) -> None:
    async def delegate(body: Mapping[str, Any], request: Request) -> Response:
        raise RuntimeError(f"{body} {request.headers}")

    object.__setattr__(harness.service, "delegate", delegate)


def break_engine(kind: str) -> Callable[[Harness], None]:
    return lambda harness: setattr(harness.engine, kind, failing)


def scripted(kind: str, error: EngineError) -> Callable[[Harness], None]:
    return lambda harness: harness.engine._fail_at.update({kind: error})


@pytest.mark.parametrize(
    "break_it",
    [
        break_engine("render"),
        break_engine("score"),
        break_delegate,
        scripted("describe", EngineError(f"choked on {MARK}")),
        scripted("fork", EngineDeadError(f"died of {MARK}")),
    ],
)
async def test_nor_where_the_inside_breaks(
    build: Build, lines: Lines, break_it: Callable[[Harness], None]
) -> None:
    harness = build(FakeEngine(DESCRIPTIONS))
    break_it(harness)
    async with served(harness, format_of(lines)) as client:
        ids = []
        for stream in (False, True):
            direct = (
                body(stream=stream, model="m:direct", mirl=None)
                if break_it is break_delegate
                else body(stream=stream)
            )
            response = await client.post("/v1/chat/completions", json=direct)
            assert "error" in response.text
            ids.append(response.headers["x-request-id"])
    no_marks(lines)
    assert all(any(request_id in line for line in lines.lines) for request_id in ids)
    places = ("RuntimeError at", "EngineError at", "EngineDeadError at")
    assert any(place in line for line in lines.lines for place in places)


async def test_nor_where_a_response_breaks_off(build: Build, lines: Lines) -> None:
    harness = build()

    @harness.app.get("/breaks")
    async def breaks() -> Response:
        class Broken(Response):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                raise RuntimeError(MARK)

        return Broken()

    async with served(harness, format_of(lines)) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/breaks")
    no_marks(lines)
    assert any("RuntimeError at" in line for line in lines.lines)


async def test_nor_where_the_client_leaves(build: Build, lines: Lines) -> None:
    harness = build(FakeEngine([FakeText(f"a {MARK}</description>", delay=5)]))
    async with served(harness, format_of(lines)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/chat/completions", json=body(), timeout=0.3)
    no_marks(lines)
    assert harness.engine.running == 0
    assert any("499" in line and "cancelled" in line for line in lines.lines)


@pytest.mark.parametrize("lines", ["json"], indirect=True)
async def test_a_line_says_what_a_request_cost(build: Build, lines: Lines) -> None:
    async with served(build(), "json") as client:
        answered = await client.post("/v1/chat/completions", json=body(), headers={"x-request-id": "mine-1"})
        refused = await client.post("/v1/chat/completions", json=body(mirl={"kep": 1}))
        streamed = await client.post("/v1/chat/completions", json=body(stream=True))
        plain = await client.post("/v1/chat/completions", json=body(model="m:direct", mirl=None))
        await client.get("/ready")
    first, second, third, fourth = lines.of_requests()
    usage, evidence = answered.json()["usage"], answered.json()["mirl"]
    assert first.items() >= {
        "request_id": "mine-1", "method": "POST", "path": "/v1/chat/completions", "status": 200,
        "level": "info", "model": "m", "endpoint": "chat", "stream": False, "outcome": "answered",
        "prompt_tokens": usage["prompt_tokens"], "completion_tokens": usage["completion_tokens"],
        "scored_tokens": evidence["stages"][1]["scored_tokens"], "kept": 1, "chains": 2, "vote_share": 1.0,
    }.items()  # fmt: skip
    assert first["id"] == answered.json()["id"].removeprefix("chatcmpl-")
    assert first["id"].startswith("mine-1-")
    assert first["stages"].keys() == {"describe", "score", "fork"}
    assert 0 < sum(first["stages"].values()) <= first["seconds"] < 20
    assert (second["status"], second["error"], second["outcome"]) == (400, "RequestError", "refused")
    assert second["request_id"] == refused.headers["x-request-id"]
    assert (third["status"], third["outcome"], third["stream"]) == (200, "answered", True)
    assert third["request_id"] == streamed.headers["x-request-id"]
    assert (fourth["status"], fourth["endpoint"]) == (200, "chat:direct")
    assert plain.headers["x-request-id"] == fourth["request_id"]


@pytest.mark.parametrize("lines", ["text"], indirect=True)
async def test_a_line_for_people_has_the_same(build: Build, lines: Lines) -> None:
    async with served(build(), "text") as client:
        await client.post("/v1/chat/completions", json=body(), headers={"x-request-id": "mine-1"})
        await client.get("/a%20b%22%0Aforged=1")
    first, second = (line for line in lines.lines if "mirl_server.middleware.request_log" in line)
    assert first.startswith("INFO mirl_server.middleware.request_log request_id=mine-1 method=POST")
    assert " status=200 " in first
    assert " stages=describe:" in first
    assert "/a%20b%22%0Aforged" in second
    assert "\n" not in second


@pytest.mark.parametrize(
    ("request_id", "kept"),
    [
        ("a.b_c:1-2", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("a\u00e4", False),
        ("", False),
    ],
)
async def test_request_ids_are_kept_if_sane_and_always_answered(
    server: Harness, request_id: str, kept: bool
) -> None:
    server.app.add_middleware(RequestLog, settings=LogSettings())
    async with server.client() as client:
        for path in ("/v1/models", "/nowhere"):
            response = await client.get(path, headers={"x-request-id": request_id.encode("latin-1")})
            said = response.headers["x-request-id"]
            assert (said == request_id) is kept
            assert sane_id(said) == said
            assert response.headers.get_list("x-request-id") == [said]


async def test_streams_pass_through_as_they_come() -> None:
    """Chunks aren't held back, and the line comes after the last one."""
    steps: list[str] = []
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go.wait()
        await send({"type": "http.response.body", "body": b"two", "more_body": False})

    async def send(message: Message) -> None:
        steps.append(message["type"])

    async def receive() -> Message:
        raise AssertionError("the body is the app's to read")

    logged = RequestLog(app, LogSettings(), ended=lambda: steps.append("ended"))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": {}}
    task = asyncio.create_task(logged(scope, receive, send))
    await asyncio.sleep(0.01)
    assert steps == ["http.response.start", "http.response.body"]
    go.set()
    await task
    assert steps[2:] == ["http.response.body", "ended"]


def test_only_known_fields_can_be_noted() -> None:
    scope: dict[str, Any] = {"type": "http"}
    notes = begin_notes(scope)
    note(scope, key="team-a", images=None, model="x" * 1000)
    assert notes == {"key": "team-a", "model": "x" * 256}
    with pytest.raises(KeyError, match="prompt"):
        note(scope, prompt=MARK)
    note({"type": "http"}, key="nobody listens")


def test_a_trail_has_places_and_no_messages() -> None:
    try:
        try:
            raise ValueError(MARK)
        except ValueError as error:
            raise EngineError(MARK) from error
    except EngineError as error:
        said = trail(error)
    assert MARK not in said
    assert said.startswith("EngineError at test_logs.py:")
    assert "caused by ValueError at test_logs.py:" in said


def test_exceptions_in_json_have_no_messages() -> None:
    try:
        raise ValueError(MARK)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "broke", (), __import__("sys").exc_info())
    entry = json.loads(json_formatter().format(record))
    assert entry["exception"][0]["exc_type"] == "ValueError"
    assert MARK not in json.dumps(entry)


def test_a_backends_errors_quote_no_request(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("a.backend")
    logger.addFilter(WITHOUT_ARGUMENTS)
    try:
        logger.error("Error with model %s", "a secret")
        try:
            raise ValueError("a secret")
        except ValueError as error:
            logger.exception("Error in create_messages: %s", error)
        logger.warning("%s is deprecated", "a flag")
    finally:
        logger.removeFilter(WITHOUT_ARGUMENTS)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "Error with model"
    assert said[1].startswith("Error in create_messages: ValueError at test_logs.py:")
    assert said[2] == "a flag is deprecated"
    assert "secret" not in caplog.text
