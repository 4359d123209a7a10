"""The operator's settings of what guards a server: keys, connections, admission. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from mirl_core.config import Settings


class KeyLimits(Settings):
    """What one API key may do. The docstring under each field is its documentation."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most requests in a minute; None: no limit. Reading (GET) is not counted."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most generated tokens in a minute; None: no limit. They are charged when a request ends, so one request
    may go over; then the key waits for the next minute."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most requests at the same time; None: no limit."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Share of the server beside other keys that wait: a key of weight 2 is served twice as much."""


class AccessSettings(Settings):
    """Who may ask, and how much. The docstring under each field is its documentation."""

    key_file: Path | None = None
    """API keys, one `name: key` a line (or YAML with limits of each key); read again when it changes."""
    keys: SecretStr | None = None
    """API keys in the file's format, for the environment: `MIRL_ACCESS__KEYS='team-a: 3f…'`."""
    limits: KeyLimits = KeyLimits()
    """Limits of a key that says nothing of its own, and of everybody together where there are no keys."""
    open_paths: tuple[str, ...] = ("/health", "/ready", "/ping")
    """Paths that need no key. `/metrics` is not among them: it names the keys' holders."""


class HTTPSettings(Settings):
    """What a connection may do. The docstring under each field is its documentation."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 64 * 2**20
    """Largest request body; bytes. A larger one is a 413, whatever its Content-Length says."""
    body_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for a request's whole body to arrive; then a 408."""
    header_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds for a request's headers to arrive; then a 408. A connection that says nothing is closed."""
    write_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that a client may leave its answer unread, once the connection's buffers are full; then the
    connection is cut, and the request ends as if the client had left."""


class AdmissionSettings(Settings):
    """How much runs and waits at the same time. The docstring under each field is its documentation."""

    max_running_sequences: Annotated[int, Field(ge=2)] | None = None
    """Most sequences of admitted requests: N + k·m of a gated one, n of a plain one. None: twice vLLM's
    `--max-num-seqs`, for of N + k·m about half run at a time."""
    max_running_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens that admitted requests may sample together, by what they ask for; None: no limit."""
    max_queue: Annotated[int, Field(ge=0)] = 256
    """Most requests that wait, of each kind (gated, plain); one more is a 429."""
    queue_seconds: Annotated[float, Field(gt=0)] = 45.0
    """Longest wait; then a 429. A request's own `mirl.timeout` may be shorter, and the wait counts in it."""
    plain_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the capacity that is kept for plain requests (text, `:direct`) while any wait."""
