"""URLs that would make the server ask where it must not: itself, its network, the cloud's metadata, files."""

from __future__ import annotations

from typing import Any

from tests.hostile.case import CHAT, DESCRIBE, DIRECT, GATED, PLAIN, Cases

LOOPBACK = (
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0.0.0.0", "0", "2130706433", "0x7f000001",
    "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "localhost", "localhost.", "LOCALHOST",
    "ip6-localhost", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::]", "[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "①②⑦.⓪.⓪.①",
    "１２７.0.0.1", "127。0。0。1",
    "loc\u00adalhost", "ⓛocalhost", "xn--localhost-", "127.0.0.1%00.example.com", "127.0.0.1%2eexample.com",
    "127.0.0.1\\@example.com", "example.com@127.0.0.1", "example.com:80@127.0.0.1", "user:pass@127.0.0.1",
)  # fmt: skip
"""This machine, as many ways as resolvers and parsers know. With a port a test listens there."""
INTERNAL = (
    "169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "metadata.google.internal", "100.100.100.200",
    "168.63.129.16", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "2852039166", "0xa9fea9fe",
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fc00::1]", "[fe80::1]", "[fec0::1]", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "[ff02::1]", "198.18.0.1", "192.0.2.1", "[2001:db8::1]", "[100::1]",
    "kubernetes.default.svc", "nobody.invalid", "a" * 300 + ".example", "a..example", "-a.example",
    ".example",
    "exa mple.com", "example.com\r\nhost: evil", "example.com\t", "", " ", "%", "[", "]", "[::", "a:b:c", "*",
)  # fmt: skip
SCHEMES = (
    "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/a.png",
    "gopher://127.0.0.1:70/_GET", "dict://127.0.0.1:11211/stats", "ldap://127.0.0.1/", "jar:http://a!/b",
    "netdoc:///etc/passwd", "php://filter/resource=/etc/passwd", "blob:http://127.0.0.1/x", "about:blank",
    "javascript:alert(1)", "s3://bucket/key", "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun/x",
    "//127.0.0.1/a.png", "/etc/passwd", "\\\\127.0.0.1\\share", "http:127.0.0.1", "http:/127.0.0.1/",
    "http:///a",
    "http://", "https://", "http:", "https:\\\\127.0.0.1", "http://example.com:0/", "http://example.com:65536/",
    "http://example.com:-1/", "http://example.com:port/", "http://example.com:99999999999/", "ht\ntp://a/",
    "http://127.0.0.1/\r\nX-Injected: 1", " http://127.0.0.1/", "\x00http://127.0.0.1/", "HTTP://127.0.0.1/",
    "http://example.com/" + "a" * 10_000, "https://" + "a." * 5000 + "com/", "http://\ud83d.example/",
)  # fmt: skip


def written(port: int = 80) -> list[tuple[str, str]]:
    """Every URL with a short name; those of this machine ask for `port`."""
    named = [(host, f"http://{host}:{port}/a.png") for host in LOOPBACK]
    named += [(host, f"http://{host}/latest/meta-data/") for host in INTERNAL]
    named += [(url, url) for url in SCHEMES]
    return [(repr(name)[:60], url) for name, url in named]


def urls(port: int = 80) -> Cases:
    """Each URL to each API, the ones that vLLM's own handlers answer too."""
    for name, url in written(port):
        for target in (*GATED, *PLAIN):
            yield target.case("URLs", name, target.body(url))


def other_media(port: int = 80) -> Cases:
    """Parts that vLLM would fetch by its own rules."""
    url = f"http://127.0.0.1:{port}/a"
    parts: list[dict[str, Any]] = [
        {"type": "video_url", "video_url": {"url": url}}, {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "image_url", "image_url": url}, {"type": "input_image", "image_url": url},
        {"type": "image_url", "image_url": {"url": f" {url}"}}, {"image_url": {"url": url}},
        {"type": "file", "file": {"file_data": url}},
        {"type": "video_url", "video_url": {"url": f"file:{url}"}},
        {"type": "text", "text": "x", "image_url": url}, {"type": "image_url", "image_url": {"URL": url}},
    ]  # fmt: skip
    for part in parts:
        messages = [{"role": "user", "content": [part]}]
        for target in (CHAT, DESCRIBE, DIRECT):
            body = target.body(messages=messages)
            yield target.case("URLs", f"a part of {part!r:.50}", body, harmless="text" in part)
        earlier = [*messages, {"role": "assistant", "content": "x"}, *CHAT.body()["messages"]]
        yield CHAT.case(
            "URLs", f"before, a part of {part!r:.50}", CHAT.body(messages=earlier), harmless="text" in part
        )
