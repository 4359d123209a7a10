"""Bodies that are no request: broken JSON, JSON of the wrong shape, other contents."""

from __future__ import annotations

import gzip
import json
import random

from tests.hostile.case import CHAT, DIRECT, TARGETS, Case, Cases, Target

VLLMS = (
    "/v1/completions", "/tokenize", "/detokenize", "/v1/embeddings", "/v1/messages/count_tokens",
    "/v1/chat/completions/batch", "/v1/chat/completions/render", "/v1/completions/render",
    "/inference/v1/generate", "/invocations", "/v1/audio/transcriptions", "/v1/score", "/rerank", "/pooling",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/v1/load_lora_adapter", "/v1/responses/nothing/cancel",
    "/generative_scoring", "/v1/systemone",
)  # fmt: skip
"""vLLM's other endpoints that a user can reach, those that this model has no use for among them."""


def broken() -> list[tuple[str, bytes]]:
    """Bodies that are no JSON object; the last are no request of any API."""
    good = json.dumps(CHAT.body()).encode()
    deep = 5000
    return [
        ("nothing", b""), ("spaces", b"   "), ("an open brace", b"{"), ("a list", b"[]"),
        ("a word", b"hello"), ("a text", b'"hello"'), ("a number", b"1e9"), ("null", b"null"),
        ("true", b"true"), ("cut in the middle", good[: len(good) // 2]), ("cut at the end", good[:-1]),
        ("twice", good + good), ("a comma more", good[:-1] + b",}"), ("a comment", b"/* a */" + good),
        ("single quotes", b"{'model': 'x'}"), ("no quotes", b"{model: 1}"),
        ("NaN", b'{"messages": [], "temperature": NaN}'),
        ("infinity", b'{"messages": [], "temperature": Infinity}'),
        ("less than infinity", b'{"messages": [], "temperature": -Infinity}'),
        ("a number over all", b'{"messages": [], "temperature": 1e999}'),
        ("a number of many digits", b'{"messages": [], "seed": ' + b"9" * 5000 + b"}"),
        ("a deep list", b"[" * deep + b"]" * deep), ("a deep list without an end", b"[" * 100_000),
        ("a deep object", b'{"a":' * deep + b"1" + b"}" * deep),
        ("a deep message", b'{"messages": ' + b"[" * deep + b"]" * deep + b"}"),
        ("no UTF-8", b'{"messages": "\xff\xfe"}'), ("an overlong slash", b'{"messages": "\xc0\xaf"}'),
        ("UTF-16", good.decode().encode("utf-16")), ("UTF-32", b'{"messages": []}'.decode().encode("utf-32")),
        ("a mark before UTF-8", b"\xef\xbb\xbf" + good),
        ("a raw surrogate", b'{"messages": "\xed\xa0\x80"}'),
        ("half a surrogate", b'{"messages": "\\ud800"}'), ("a NUL", b'{"messages": "\x00"}'),
        ("only a NUL", b"\x00"), ("an escaped NUL as a name", b'{"\\u0000": 1}'),
        ("a raw line break in a text", b'{"messages": "a\nb"}'),
        ("a name twice", b'{"messages": [], "messages": 3}'), ("no name", b'{"": 1}'),
        ("gzip", gzip.compress(good)), ("a form", b"messages=1&model=2"), ("XML", b"<a>1</a>"),
        ("noise", random.Random(1).randbytes(3000)), ("an empty object", b"{}"),
        ("a name alone", b'{"model": "mirl-tiny"}'),
        ("a prototype", b'{"__proto__": {"a": 1}, "constructor": 1}'),
        ("a class", b'{"__class__": "os.system", "__init__": {"__globals__": {}}}'),
    ]  # fmt: skip


OTHER_ENCODINGS = {"UTF-16", "a mark before UTF-8"}
"""Bodies that are whole requests: the parser, Python's as vLLM's, detects how they are encoded."""


def wrong_bodies() -> Cases:
    for target in TARGETS:
        if target.gated or target is DIRECT:  # what they read is the same
            for name, body in broken():
                yield target.case("broken bodies", name, body, harmless=name in OTHER_ENCODINGS)
    for path in VLLMS:
        for name, body in broken():
            # A gated request is one of some of them too; most refuse it.
            yield Case("vLLM's own endpoints", name, path, body, harmless=True)


def wrong_headers() -> Cases:
    """A good body, announced as something else."""
    for target in TARGETS:
        if not target.gated and target is not DIRECT:
            continue
        good = json.dumps(target.body()).encode()
        for kind in (
            "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
            "application/xml", "", "json", "application/json-patch+json", "application/octet-stream",
            "image/png", "*/*", "text/html, application/json", "application/jsonp",
        ):  # fmt: skip
            yield target.case("content types", f"'{kind}'", good, headers={"content-type": kind})
        for coding in ("gzip", "br", "deflate, gzip"):
            headers = {"content-type": "application/json", "content-encoding": coding}
            yield target.case(
                "content types", f"{coding} that it is not", gzip.compress(good), headers=headers
            )


def mutated(target: Target, count: int, seed: int) -> Cases:
    """A good body with a few of its bytes changed, left out or doubled."""
    chance = random.Random(seed)
    good = json.dumps(target.body()).encode()
    for number in range(count):
        raw = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            # Mostly outside of the picture, where a byte has a meaning.
            at = chance.choice((chance.randrange(100), chance.randrange(len(raw) - 200, len(raw))))
            match chance.randrange(4):
                case 0:
                    raw[at] = chance.randrange(256)
                case 1:
                    del raw[at]
                case 2:
                    raw.insert(at, chance.choice(b'{}[]",:\\0'))
                case _:
                    raw[at : at + 8] = raw[at : at + 8] * 2
        yield target.case("mutated bodies", f"no. {number}", bytes(raw), harmless=True)


def mutations() -> Cases:
    for seed, target in enumerate(TARGETS):
        yield from mutated(target, 40, seed)
