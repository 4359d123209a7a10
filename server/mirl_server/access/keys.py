"""API keys and their limits, from a file that is read again when it changes, and from the environment.

Only the SHA-256 digests of keys are kept. Messages and logs never quote the file, not even an entry's name,
which may be a key on the wrong side of the colon.
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
from mirl_server.settings.limits import AccessSettings, KeyLimits

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-~]{16,4096}")
_UNLIMITED = ("", "~", "null", "none", "unlimited")


@dataclass(frozen=True, slots=True)
class Key:
    """A holder of keys: a name (a bounded label for logs and metrics), the keys' digests, and limits."""

    name: str
    digests: tuple[bytes, ...]
    limits: KeyLimits


def digest(key: bytes) -> bytes:
    """Return a key's SHA-256 digest, the only form that is kept."""
    return hashlib.sha256(key).digest()


def find_key(keys: Iterable[Key], presented: bytes) -> Key | None:
    """Return the holder of a key; the time it takes does not depend on which key nearly matches."""
    presented_digest = digest(presented)
    holder = None
    for key in keys:
        for key_digest in key.digests:
            if hmac.compare_digest(presented_digest, key_digest):
                holder = key
    return holder


def parse_keys(text: str, defaults: KeyLimits, where: str) -> tuple[Key, ...]:
    """Read keys from YAML: `name: key`, `name: {key: …, requests_per_minute: …}`, or keys alone, one a line.

    Args:
        where: the source, as messages name it.

    Raises:
        ConfigError: the text has another form. The message has `where` and the entry's number, and no quote.
    """
    try:
        _refuse_repeated_names(text, where)
        # Text, lists and dicts only: a key of digits stays text, and no object is constructed.
        content: Any = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not readable as YAML") from None
    if isinstance(content, str):
        content = content.replace(",", " ").split()
    if isinstance(content, list):
        content = {f"key-{number}": entry for number, entry in enumerate(content, 1)}
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{where}: has no keys; write one `name: key` a line")
    keys = tuple(
        _key(str(name), entry, defaults, f"{where}, entry {number}")
        for number, (name, entry) in enumerate(content.items(), 1)
    )
    _check_distinct(keys, where)
    return keys


def _key(name: str, entry: object, defaults: KeyLimits, where: str) -> Key:
    if not _NAME.fullmatch(name) or name == ANONYMOUS:
        raise ConfigError(f"{where}: a name has 1 to 64 letters, digits, '.', '_' or '-'")
    fields = dict(entry) if isinstance(entry, dict) else {"key": entry}
    secrets = fields.pop("keys", None) or fields.pop("key", None)
    digests = []
    for secret in secrets if isinstance(secrets, list) else [secrets]:
        if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
            raise ConfigError(f"{where}: a key is 16 or more visible ASCII characters (openssl rand -hex 32)")
        digests.append(digest(secret.encode()))
    limit_fields = {
        field: None if isinstance(value, str) and value.lower() in _UNLIMITED else value
        for field, value in fields.items()
    }
    try:
        key_limits = KeyLimits.model_validate(limit_fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known_fields = ", ".join(KeyLimits.model_fields)
            raise ConfigError(f"{where}: unknown field; known are key, keys, {known_fields}") from None
        raise ConfigError(f"{where}: {field}: {problem['msg']}") from None
    limits = defaults.model_copy(update=key_limits.model_dump(exclude_unset=True))
    return Key(name, tuple(digests), limits)


def _refuse_repeated_names(text: str, where: str) -> None:
    """Raise ConfigError for a repeated name: YAML silently keeps the last, which loses half a rotation."""
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}: a name occurs twice; give one name several keys as `keys: […]`")


def _check_distinct(keys: Sequence[Key], where: str) -> None:
    names = [key.name for key in keys]
    digests = [key_digest for key in keys for key_digest in key.digests]
    if len(set(names)) != len(names) or len(set(digests)) != len(digests):
        raise ConfigError(f"{where}: a name or a key occurs twice (environment and --api-key included)")


class Keyring:
    """The known keys of this server.

    Args:
        file: the key file, read again when it changes; None: no file.
        text: keys from the environment, in the file's format.
        bare: keys without names (vLLM's `--api-key`).
        defaults: limits of a key that sets none.
        interval: least seconds between two checks of the file.
        clock: returns monotonic seconds.

    Raises:
        ConfigError: the keys are wrong at the start. A file that breaks later leaves the keys unchanged.
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
        self._checked_at = clock()
        fixed = parse_keys(text, self._defaults, "MIRL_ACCESS__KEYS") if text else ()
        unnamed = [
            Key(f"vllm-{number}", (digest(key.encode()),), self._defaults)
            for number, key in enumerate(dict.fromkeys(bare), 1)
        ]
        self._fixed = (*fixed, *unnamed)
        self._last_signature = self._signature() if file is not None else None
        self.keys: tuple[Key, ...] = self._read()
        """All keys as of the last valid reading."""

    def __bool__(self) -> bool:
        """Return whether any key is configured."""
        return bool(self.keys)

    async def refresh(self) -> None:
        """Read the file again if it has changed, off the event loop; checks at most once per `interval`."""
        if self._file is None or self._clock() - self._checked_at < self._interval:
            return
        # Set before the reading, so that other requests go on with the current keys meanwhile.
        self._checked_at = self._clock()
        await asyncio.to_thread(self._reload)

    def _reload(self) -> None:
        try:
            signature = self._signature()
            if signature == self._last_signature:
                return
            self._last_signature = signature
            self.keys = self._read()
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error.message)
        else:
            logger.info("read the API keys again: %d names", len(self.keys))

    def _signature(self) -> tuple[int, int, int] | None:
        """Return a value that changes with the file or its symbolic link's target; None where stat fails."""
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


def make_keyring(settings: AccessSettings, bare: Sequence[str] = ()) -> Keyring:
    """Return a keyring of the settings' keys and of `bare` keys, which have no names.

    Raises:
        ConfigError: the key file, or the environment variable with keys, is wrong.
    """
    text = settings.keys.get_secret_value() if settings.keys else None
    keyring = Keyring(settings.key_file, text, bare, settings.limits)
    if not keyring and (settings.key_file is not None or settings.keys is not None):
        raise ConfigError("API keys are asked for, but none is given", param="access.keys")
    return keyring
