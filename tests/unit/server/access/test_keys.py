"""API keys: what the file may say, what a message may not, and rotation without a restart."""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from mirl_core.errors import ConfigError
from mirl_server.access.keys import Keyring, find_key, make_keyring, parse_keys
from mirl_server.settings.limits import AccessSettings, KeyLimits
from mirl_server.settings.server import ServerSettings

KEY_A = "0123456789abcdef-one"
KEY_B = "0123456789abcdef-two"
FILE = f"""
# who may ask
team-a: {KEY_A}
team-b:
  keys: [{KEY_B}, 0123456789abcdef-three]
  requests_per_minute: 60
  concurrent: unlimited
  weight: 2.5
digits: 12345678901234567890
"""


def parsed(text: str, **defaults: Any) -> dict[str, KeyLimits]:
    return {key.name: key.limits for key in parse_keys(text, KeyLimits(**defaults), "keys")}


def test_names_keys_and_limits() -> None:
    keys = parse_keys(FILE, KeyLimits(requests_per_minute=5, concurrent=3), "keys")
    assert [key.name for key in keys] == ["team-a", "team-b", "digits"]
    assert keys[0].limits == KeyLimits(requests_per_minute=5, concurrent=3)
    assert keys[1].limits == KeyLimits(requests_per_minute=60, concurrent=None, weight=2.5)
    opened = {
        name: find_key(keys, secret.encode())
        for name, secret in (("a", KEY_A), ("b", KEY_B), ("no", KEY_A[:-1]))
    }
    assert {name: key and key.name for name, key in opened.items()} == {
        "a": "team-a",
        "b": "team-b",
        "no": None,
    }
    assert find_key(keys, b"0123456789abcdef-three") is keys[1]
    assert find_key(keys, b"12345678901234567890") is keys[2]


@pytest.mark.parametrize(
    "text", [f"{KEY_A}\n{KEY_B}", f"- {KEY_A}\n- {KEY_B}", f"{KEY_A},{KEY_B}", f"# first\n{KEY_A}\n{KEY_B}\n"]
)
def test_keys_alone_get_numbers(text: str) -> None:
    keys = parse_keys(text, KeyLimits(), "keys")
    assert [key.name for key in keys] == ["key-1", "key-2"]
    assert [find_key(keys, secret.encode()) for secret in (KEY_A, KEY_B)] == list(keys)


UNKNOWN_FIELD = (
    "keys, entry 1: unknown field; known are key, keys, requests_per_minute, tokens_per_minute, "
    "concurrent, weight"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "keys: has no keys; write one `name: key` a line"),
        (f"a: {KEY_A}\nb: short-secret",
         "keys, entry 2: a key is 16 or more visible ASCII characters (openssl rand -hex 32)"),
        (f"a: {'x' * 15}",
         "keys, entry 1: a key is 16 or more visible ASCII characters (openssl rand -hex 32)"),
        (f"a b: {KEY_A}", "keys, entry 1: a name has 1 to 64 letters, digits, '.', '_' or '-'"),
        (f"a: {KEY_A}\nanonymous: {KEY_B}",
         "keys, entry 2: a name has 1 to 64 letters, digits, '.', '_' or '-'"),
        (f"a: {{key: {KEY_A}, requests: 3}}",
         UNKNOWN_FIELD),
        (f"a: {{key: {KEY_A}, weight: 0}}", "keys, entry 1: weight: Input should be greater than 0"),
        (f"a: {KEY_A}\na: {KEY_B}", "keys: a name occurs twice; give one name several keys as `keys: […]`"),
        (f"a: {KEY_A}\nb: {KEY_A}",
         "keys: a name or a key occurs twice (environment and --api-key included)"),
        (f"a: {KEY_A}\nb: [", "keys, line 2: not readable as YAML"),
        ("a: \x01", "keys: not readable as YAML"),  # an error without a line
        ("a: {weight: 2}",
         "keys, entry 1: a key is 16 or more visible ASCII characters (openssl rand -hex 32)"),
        (f"{KEY_A}\nshort",
         "keys, entry 2: a key is 16 or more visible ASCII characters (openssl rand -hex 32)"),
    ],
)  # fmt: skip
def test_the_entry_and_the_remedy_are_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert caught.value.message == says


@pytest.mark.parametrize(("name", "secret"), [("n" * 64, "s" * 16), ("a.b_c-d", "!~" * 8), ("0", "s" * 4096)])
def test_the_longest_names_and_the_shortest_keys(name: str, secret: str) -> None:
    (key,) = parse_keys(f"{name}: '{secret}'", KeyLimits(), "keys")
    assert find_key([key], secret.encode()) is key
    for wrong in (f"{'n' * 65}: {KEY_A}", f"a: {'s' * 4097}", f"a: '{KEY_A} x'"):
        with pytest.raises(ConfigError):
            parsed(wrong)


@pytest.mark.parametrize("word", ["", "~", "null", "none", "None", "unlimited"])
def test_a_key_may_be_without_a_limit_that_others_have(word: str) -> None:
    limits = parsed(f"a: {{key: {KEY_A}, concurrent: '{word}'}}", concurrent=3, tokens_per_minute=9)["a"]
    assert limits == KeyLimits(concurrent=None, tokens_per_minute=9)


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing", "[]", "a: short-secret", "a:", f"a b: {KEY_A}", f"anonymous: {KEY_A}",
        f"a: {KEY_A}\na: {KEY_B}",
        f"a: {KEY_A}\nb: {KEY_A}", f"a: {{key: {KEY_A}, requests: 3}}", f"a: {{key: {KEY_A}, weight: 0}}",
        f"a: {{key: {KEY_A}, weight: nan}}", f"a: {{key: {KEY_A}, concurrent: {KEY_B}}}",
        f"{KEY_A}: {{key: a}}", f"a: {{keys: [{KEY_A}, []]}}", f"a: [{KEY_A}", f"? {KEY_A}: b",
        f"a: !!python/name:os.system {KEY_A}\n  - b", f"{KEY_A}:\n  {KEY_B}:\n - x",
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_without_the_content(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert KEY_A not in str(caught.value)
    assert KEY_B not in str(caught.value)
    assert "short-secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = parse_keys(FILE, KeyLimits(), "keys")
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return real(left, right)

    monkeypatch.setattr("mirl_server.access.keys.hmac.compare_digest", counting)
    for presented in (KEY_A, KEY_B, "nobody's", ""):
        compared.clear()
        find_key(keys, presented.encode())
        assert len(compared) == 4
        assert all(len(left) == len(right) == 32 for left, right in compared)


async def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a: {KEY_A}")
    ring = Keyring(file, interval=0)
    await ring.refresh()
    assert find_key(ring.keys, KEY_A.encode()) is not None
    file.write_text(f"a: {{keys: [{KEY_A}, {KEY_B}]}}")
    await ring.refresh()
    assert find_key(ring.keys, KEY_B.encode()) is not None
    file.write_text(f"a: {KEY_B}")
    await ring.refresh()
    assert find_key(ring.keys, KEY_A.encode()) is None
    assert find_key(ring.keys, KEY_B.encode()) is not None


async def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    """How Kubernetes changes a mounted secret: same size, and the time may be older."""
    for name, key in (("old", KEY_A), ("new", KEY_B)):
        (tmp_path / name).write_text(f"a: {key}")
        os.utime(tmp_path / name, ns=(0, 0))
    link = tmp_path / "keys"
    link.symlink_to("old")
    ring = Keyring(link, interval=0)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    await ring.refresh()
    assert find_key(ring.keys, KEY_B.encode()) is not None
    assert find_key(ring.keys, KEY_A.encode()) is None


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (b"a: short-secret",
         ", entry 1: a key is 16 or more visible ASCII characters (openssl rand -hex 32)"),
        (b"a: {", ", line 1: not readable as YAML"),
        (b"", ": has no keys; write one `name: key` a line"),
        (f"a: {KEY_A}\nb: {KEY_A}".encode(),
         ": a name or a key occurs twice (environment and --api-key included)"),
        (b"\xff", ": can't be read (UnicodeDecodeError)"),
        (None, ": can't be read (FileNotFoundError)"),
    ],
)  # fmt: skip
async def test_a_broken_file_leaves_the_keys_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None, says: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a: {KEY_A}")
    ring = Keyring(file, interval=0)
    file.unlink()
    if broken is not None:
        file.write_bytes(broken)
    with caplog.at_level(logging.INFO, "mirl_server"):
        for _ in range(3):
            await ring.refresh()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.messages == [f"the API keys stay as they were: API key file {file}{says}"]
    assert "short-secret" not in caplog.text
    assert KEY_A not in caplog.text
    assert find_key(ring.keys, KEY_A.encode()) is not None
    file.write_text(f"a: {KEY_B}")
    await ring.refresh()
    assert find_key(ring.keys, KEY_B.encode()) is not None


async def test_the_file_is_looked_at_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 50.0
    file = tmp_path / "keys"
    file.write_text(f"a: {KEY_A}")
    ring = Keyring(file, clock=lambda: now)  # once a second
    file.write_text(f"a: {KEY_B}")
    now = 50.96875
    await ring.refresh()
    assert find_key(ring.keys, KEY_B.encode()) is None
    now = 51.0
    with caplog.at_level(logging.INFO, "mirl_server"):
        await ring.refresh()
    assert find_key(ring.keys, KEY_B.encode()) is not None
    assert caplog.messages == ["read the API keys again: 1 names"]
    file.write_text(f"b: {KEY_A}")
    now = 51.96875
    await ring.refresh()
    assert ring.keys[0].name == "a"


async def test_a_file_that_stays_as_it_is_is_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# Schlüssel\na: {KEY_A}", encoding="utf-8")
    ring = Keyring(file, interval=0)
    keys = ring.keys
    with caplog.at_level(logging.INFO, "mirl_server"):
        await ring.refresh()
        await Keyring(text=f"a: {KEY_A}", interval=0).refresh()
    assert ring.keys is keys
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("text", "bare", "says"),
    [
        ("a: short", [],
         "MIRL_ACCESS__KEYS, entry 1: a key is 16 or more visible ASCII characters (openssl rand -hex 32)"),
        (f"a: {KEY_A}\nb: {KEY_A}", [],
         "MIRL_ACCESS__KEYS: a name or a key occurs twice (environment and --api-key included)"),
        (f"a: {KEY_A}", [KEY_A],
         "API keys: a name or a key occurs twice (environment and --api-key included)"),
        (f"vllm-2: {KEY_A}", ["x", "y"],
         "API keys: a name or a key occurs twice (environment and --api-key included)"),
    ],
)  # fmt: skip
def test_wrong_keys_name_their_source(text: str, bare: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keyring(text=text, bare=bare)
    assert caught.value.message == says


def test_keys_without_names_are_numbered_and_unlimited() -> None:
    ring = Keyring(bare=["x", "y", "x"])
    assert [(key.name, key.limits) for key in ring.keys] == [("vllm-1", KeyLimits()), ("vllm-2", KeyLimits())]
    assert [find_key(ring.keys, key) for key in (b"x", b"y")] == list(ring.keys)
    assert (bool(ring), bool(Keyring())) == (True, False)


def test_keys_from_everywhere_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a: {KEY_A}")
    monkeypatch.setenv("MIRL_ACCESS__KEYS", f"b: {KEY_B}")
    settings = ServerSettings.load(access={"key_file": file, "limits": {"concurrent": 2}})
    ring = make_keyring(settings.access, ["vllm's own", "vllm's own"])
    assert [key.name for key in ring.keys] == ["b", "vllm-1", "a"]
    assert all(key.limits.concurrent == 2 for key in ring.keys)
    assert KEY_B not in repr(settings)
    assert KEY_B not in settings.model_dump_json()
    with pytest.raises(ConfigError):
        make_keyring(settings.access, [KEY_B])
    with pytest.raises(ConfigError):
        make_keyring(AccessSettings(key_file=tmp_path / "none"))
    assert not make_keyring(AccessSettings())
