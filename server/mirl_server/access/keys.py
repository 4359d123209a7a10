"""API keys and what each may do, from a file that is read again when it changes, and from the environment.

Only the keys' SHA-256 digests are kept. Messages and logs never quote the file: not even an entry's name,
which may be a key that was put on the wrong side of the colon.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mirl_core.errors import ConfigError
from mirl_server.settings.limits import KeyLimits

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-~]{16,4096}")
_UNLIMITED = ("", "~", "null", "none", "unlimited")


@dataclass(frozen=True, slots=True)
class Key:
    """One holder: a name (a bounded label, for logs and metrics), the keys that open, and the limits."""

    name: str
    digests: tuple[bytes, ...]
    limits: KeyLimits


def digest(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def find_key(keys: Iterable[Key], presented: bytes) -> Key | None:
    """The holder of a key, in a time that does not depend on which key is nearly right."""
    given = digest(presented)
    found = None
    for key in keys:
        for known in key.digests:
            if hmac.compare_digest(given, known):
                found = key
    return found


def parse_keys(text: str, defaults: KeyLimits, where: str) -> tuple[Key, ...]:
    """Keys out of YAML: `name: key`, `name: {key: …, requests_per_minute: …}`, or keys alone, one a line.

    Raises:
        ConfigError: it is not that. The message names `where` and the entry by its place, and quotes nothing.
    """
    try:
        _refuse_repeated_names(text, where)
        # Only text, lists and dicts: a key of digits stays text, and nothing can be constructed.
        content: Any = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: not readable as YAML") from None
    if isinstance(content, str):
        content = content.replace(",", " ").split()
    if isinstance(content, list):
        content = {f"key-{place}": entry for place, entry in enumerate(content, 1)}
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{where}: has no keys; write one `name: key` a line")
    keys = tuple(
        _key(str(name), entry, defaults, f"{where}, entry {place}")
        for place, (name, entry) in enumerate(content.items(), 1)
    )
    _check_distinct(keys, where)
    return keys


def _key(name: str, entry: object, defaults: KeyLimits, where: str) -> Key:
    if not _NAME.fullmatch(name) or name == ANONYMOUS:
        raise ConfigError(f"{where}: a name has 1 to 64 letters, digits, '.', '_' or '-'")
    said = dict(entry) if isinstance(entry, dict) else {"key": entry}
    given = said.pop("keys", None) or said.pop("key", None)
    digests = []
    for secret in given if isinstance(given, list) else [given]:
        if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
            raise ConfigError(f"{where}: a key is 16 or more visible ASCII characters (openssl rand -hex 32)")
        digests.append(digest(secret.encode()))
    known = {
        field: None if isinstance(value, str) and value.lower() in _UNLIMITED else value
        for field, value in said.items()
    }
    try:
        own = KeyLimits.model_validate(known)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known_fields = ", ".join(KeyLimits.model_fields)
            raise ConfigError(f"{where}: unknown field; known are key, keys, {known_fields}") from None
        raise ConfigError(f"{where}: {field}: {problem['msg']}") from None
    limits = defaults.model_copy(update=own.model_dump(exclude_unset=True))
    return Key(name, tuple(digests), limits)


def _refuse_repeated_names(text: str, where: str) -> None:
    """YAML lets the last of two entries of one name win, silently: half a rotation would be lost."""
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}: a name occurs twice; give one name several keys as `keys: […]`")


def _check_distinct(keys: Sequence[Key], where: str) -> None:
    names = [key.name for key in keys]
    digests = [one for key in keys for one in key.digests]
    if len(set(names)) != len(names) or len(set(digests)) != len(digests):
        raise ConfigError(f"{where}: a name or a key occurs twice (environment and --api-key included)")


class Keyring:
    """The keys that open this server.

    Args:
        file: read again when it changes; None for no file.
        text: keys from the environment, in the file's format.
        bare: keys without names (vLLM's `--api-key`).
        defaults: limits of a key that says nothing of its own.
        interval: seconds between two looks at the file.

    Raises:
        ConfigError: something is wrong at the start. Later a broken file leaves the keys as they were.
    """

    def __init__(
        self,
        file: Path | None = None,
        text: str | None = None,
        bare: Sequence[str] = (),
        defaults: KeyLimits | None = None,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._defaults = defaults or KeyLimits()
        self._interval = interval
        self._clock = clock
        self._looked = clock()
        fixed = parse_keys(text, self._defaults, "MIRL_ACCESS__KEYS") if text else ()
        more = [
            Key(f"vllm-{place}", (digest(key.encode()),), self._defaults)
            for place, key in enumerate(dict.fromkeys(bare), 1)
        ]
        self._fixed = (*fixed, *more)
        self._seen = self._signature() if file is not None else None
        self.keys: tuple[Key, ...] = self._read()
        """Every key, as of the last good reading."""

    def __bool__(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self.keys)

    async def refresh(self) -> None:
        """Read the file again if it changed; looks at most once in `interval` seconds, off the event loop."""
        if self._file is None or self._clock() - self._looked < self._interval:
            return
        # Set first: whoever asks while the file is read goes on with the keys there are.
        self._looked = self._clock()
        await asyncio.to_thread(self._reload)

    def _reload(self) -> None:
        try:
            seen = self._signature()
            if seen == self._seen:
                return
            self._seen = seen
            self.keys = self._read()
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error.message)
        else:
            logger.info("read the API keys again: %d names", len(self.keys))

    def _signature(self) -> tuple[int, int, int] | None:
        """What changes with the file, a swapped symbolic link included; None while it can't be looked at."""
        assert self._file is not None
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _read(self) -> tuple[Key, ...]:
        if self._file is None:
            keys = self._fixed
        else:
            where = f"API key file {self._file}"
            try:
                text = self._file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{where}: can't be read ({type(error).__name__})") from None
            keys = (*self._fixed, *parse_keys(text, self._defaults, where))
        _check_distinct(keys, "API keys")
        return keys
