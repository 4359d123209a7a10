"""A reverse proxy that writes down what a program in front of a model server really sends it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Call:
    """One chat completion that arrived."""

    messages: list[dict[str, Any]]
    """Per message its role and the types of its parts; pictures as the length of their URL."""
    sampling: dict[str, Any]
    """The other fields of the body."""
    status: int
    """What the model server answered."""
    prompt_tokens: int | None
    """As the model server counted them."""


@dataclass(slots=True)
class Recorder:
    """What arrived, in order."""

    url: str
    calls: list[Call] = field(default_factory=list)

    def taken(self) -> list[Call]:
        """The calls since the last time."""
        taken, self.calls = self.calls, []
        return taken


@contextlib.contextmanager
def recording(upstream: str) -> Iterator[Recorder]:
    """A proxy in front of `upstream` on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass(None)

        def do_POST(self) -> None:
            self._pass(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _pass(self, body: bytes | None) -> None:
            answer = httpx.request(
                self.command,
                upstream + self.path,
                content=body,
                headers={"content-type": "application/json"},
                timeout=300,
            )
            if body is not None and self.path.endswith("/chat/completions"):
                usage = answer.json().get("usage") if answer.status_code == 200 else None
                counted = (usage or {}).get("prompt_tokens")
                recorder.calls.append(seen(json.loads(body), answer.status_code, counted))
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers.get("content-type", "application/json"))
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder = Recorder(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def seen(body: dict[str, Any], status: int, prompt_tokens: int | None) -> Call:
    """A request body without its texts and pictures."""
    messages = [{"role": message.get("role"), "parts": parts(message)} for message in body["messages"]]
    sampling = {key: body[key] for key in body if key not in ("messages", "model")}
    return Call(messages, sampling, status, prompt_tokens)


def parts(message: dict[str, Any]) -> list[str]:
    """The types of a message's parts; a string is one of type `string`."""
    content = message.get("content")
    if isinstance(content, list):
        return [str(part.get("type")) for part in content]
    return [] if content is None else ["string"]


def pictures(call: Call) -> int:
    """How many pictures a call brought."""
    return sum(part in ("image_url", "image") for message in call.messages for part in message["parts"])
