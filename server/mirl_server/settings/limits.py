"""The operator's limits: API keys, connections, admission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from mirl_core.config import Settings


class KeyLimits(Settings):
    """Limits of one API key. The docstring under each field is its documentation."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most requests in a minute; None: no limit. GET requests are not counted."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most generated tokens in a minute; None: no limit. They are charged when a request ends, so a request
    may exceed the limit; then the key waits for the next minute."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most requests at the same time; None: no limit."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Share of the server among keys that wait: a key of weight 2 gets twice the share of weight 1."""


class AccessSettings(Settings):
    """API keys and their limits. The docstring under each field is its documentation."""

    key_file: Path | None = None
    """API keys, one `name: key` a line (or YAML with limits of each key); read again when it changes."""
    keys: SecretStr | None = None
    """API keys in the file's format, for the environment: `MIRL_ACCESS__KEYS='team-a: 3f…'`."""
    limits: KeyLimits = KeyLimits()
    """Limits of a key that sets none; without keys, of all clients together."""
    open_paths: tuple[str, ...] = ("/health", "/ready", "/ping")
    """Paths that need no key. Not `/metrics`, which names the keys' holders."""


class HTTPSettings(Settings):
    """Limits of a connection. The docstring under each field is its documentation."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 64 * 2**20
    """Largest request body; bytes. A larger one is a 413, whatever its Content-Length says."""
    body_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for a request's whole body to arrive; then a 408."""
    header_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds for a request's headers to arrive; then a 408. A connection without a request is closed."""
    write_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that a client may leave its response unread, once the connection's buffers are full; then the
    connection is cut, and the request ends as if the client had left."""


class AdmissionSettings(Settings):
    """Limits of the work that runs and waits. The docstring under each field is its documentation."""

    max_running_sequences: Annotated[int, Field(ge=2)] | None = None
    """Most sequences of admitted requests: N + k·m for a gated request, n for a plain one. None: twice vLLM's
    `--max-num-seqs`, since about half of N + k·m run at a time."""
    max_running_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens that admitted requests may sample together, by their own limits; None: no limit."""
    max_queue: Annotated[int, Field(ge=0)] = 256
    """Most waiting requests of each kind (gated, plain); a further one gets a 429."""
    queue_seconds: Annotated[float, Field(gt=0)] = 45.0
    """Longest wait in seconds; then a 429. A request's own `mirl.timeout` includes the wait."""
    plain_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the capacity that is reserved for plain requests (text, `:direct`) while any wait."""
