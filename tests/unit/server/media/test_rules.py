"""From where images may be fetched: settings, flags, and what a URL must look like."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_core.errors import ConfigError, ImageError
from mirl_server.cli.flags.server import UsageError, mirl_parser, settings_from_flags
from mirl_server.media.rules import HostPattern, ImageFetching, Rules, Target, plain_host
from mirl_server.settings.server import ServerSettings

WHERE = "messages[0].content[0]"


def target(url: str, *allow: str, **settings: Any) -> tuple[str, int, bool]:
    result = Rules(ImageFetching(allow_hosts=allow or ("*",), **settings)).target(url, WHERE)
    return result.host, result.port, result.named


@pytest.mark.parametrize(
    ("url", "allow", "expected"),
    [
        ("https://example.com/a.png", "example.com", ("example.com", 443, True)),
        ("http://example.com/a.png", "example.com", ("example.com", 80, True)),
        ("https://EXAMPLE.com./a.png", "Example.COM", ("example.com", 443, True)),
        ("https://a.b.example.com/", "*.example.com", ("a.b.example.com", 443, True)),
        ("https://example.com:8443/", "example.com:8443", ("example.com", 8443, True)),
        ("http://example.com:443/", "example.com:443", ("example.com", 443, True)),
        ("https://other.net/", "*", ("other.net", 443, False)),
        ("https://other.net:8443/", "*:8443", ("other.net", 8443, False)),
        ("https://münchen.de/ü", "münchen.de", ("xn--mnchen-3ya.de", 443, True)),
        ("https://xn--mnchen-3ya.de/", "münchen.de", ("xn--mnchen-3ya.de", 443, True)),
        ("http://1.2.3.4/", "1.2.3.4", ("1.2.3.4", 80, True)),
        ("http://[2606:4700:0::1]:81/", "[2606:4700::1]:81", ("2606:4700::1", 81, True)),
    ],
)
def test_allowed(url: str, allow: str, expected: tuple[str, int, bool]) -> None:
    assert target(url, allow) == expected


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("https://example.com.evil.net/", "example.com"),
        ("https://evilexample.com/", "*.example.com"),
        ("https://example.com/", "*.example.com"),
        ("https://www.example.com/", "example.com"),
        ("https://example.com:8443/", "example.com"),
        ("https://example.com:80/", "example.com"),
        ("https://example.com:22/", "*"),
        ("https://example.com/", "example.com:8443"),
        ("https://evil.net/?example.com", "example.com"),
        ("https://evil.net#@example.com/", "example.com"),
        ("https://evil.net\\@example.com:80/", "example.com"),
    ],
)
def test_not_allowed(url: str, allow: str) -> None:
    with pytest.raises(ImageError) as caught:
        target(url, allow)
    assert caught.value.param == WHERE


@pytest.mark.parametrize(
    "url",
    ["https://user:secret@example.com/", "https://user@example.com/", "https://:@example.com/", "https:///a.png",
     "https:a.png", "http:", "https://", "https://exa mple.com/", "https://example.com\n/", "https://%65xample.com/",
     "https://example..com/", "https://-a.com/", f"https://{'a' * 64}.com/", f"https://{'a.' * 127}com/",
     "http://0x7f.1/", "http://0x7f000001/", "http://2130706433/", "http://127.1/", "http://0177.0.0.1/",
     "http://1.2.3.4.5/", "http://a.1/", "http://①②⑦.0.0.1/", "http://[::1%25eth0]/", "http://[::1/", "http://[v1.a]/",
     "http://example.com:99999/", "http://example.com:0/", "http://example.com:a/", "https://a\x00b/",
     "httpx://example.com/", "http+unix://x/", "httpfile:///etc/passwd", "https://example.com/\ud800",
     "https://example.com/" + "a" * 9000],
)  # fmt: skip
def test_malformed_urls_are_refused_whatever_is_allowed(url: str) -> None:
    with pytest.raises(ImageError) as caught:
        target(url)
    assert caught.value.param == WHERE
    assert "secret" not in caught.value.message


@given(st.text(max_size=60))
def test_no_text_is_more_than_an_image_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/a.png"):
        with contextlib.suppress(ImageError):
            assert Rules(ImageFetching(allow_hosts=("*",))).target(url, WHERE).port in (80, 443)


DATA = "send a data URL (data:image/png;base64,…)"
PLAIN = f"the image's URL must read https://host/path, with a plain host; or {DATA}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/" + "a" * 8173, f"the image's URL is over 8192 characters; {DATA}"),
        ("https://[::1/", f"the image's URL is malformed; check it, or {DATA}"),
        ("https://exa mple.com/", PLAIN),
        ("http://example.com:a/", f"the image's URL is malformed; check it, or {DATA}"),
        ("ftp://example.com/", PLAIN),
        ("https:///a.png", PLAIN),
        ("https://127.1/", PLAIN),
        ("http://example.com/", f"images are fetched by https only; or {DATA}"),
        ("https://u:secret@example.com/",
         f"the image's URL carries a name or password; leave it out, or {DATA}"),
        ("https://other.example/", f"images from this host and port are not fetched here; {DATA}"),
        ("https://example.com:81/", f"images from this host and port are not fetched here; {DATA}"),
        ("https://denied.example.com/", f"images from this host and port are not fetched here; {DATA}"),
    ],
)  # fmt: skip
def test_refusals_name_part_and_remedy(url: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        target(url, "example.com", "*.example.com", https_only=True, deny_hosts=["denied.example.com"])
    assert (caught.value.message, caught.value.param) == (message, WHERE)


def test_a_target_keeps_the_url_to_fetch() -> None:
    url = "https://example.com:8443/a%20b?c=d"
    result = Rules(ImageFetching(allow_hosts=("*:8443", "example.com:8443"))).target(url, WHERE)
    assert result == Target(httpx.URL(url), "example.com", 8443, named=True)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("EXAMPLE.com", "example.com"), ("example.com.", "example.com"), ("example.com..", None),
        ("a" * 63 + ".com", "a" * 63 + ".com"), ("a" * 64 + ".com", None),
        ("a_b-c.com", "a_b-c.com"), ("-a.com", None), ("a-.com", None), ("a.-b", None), ("a.b-", None),
        ("a.b-c", "a.b-c"), ("1.2.3.4", "1.2.3.4"), ("1.2.3.4.", "1.2.3.4"), ("1.2.3", None),
        ("1.2.3.0x4", None), ("a.0x", None), ("a.0", None), ("0.a", "0.a"), ("0x7.a", "0x7.a"),
        ("a.0xg", "a.0xg"), ("[2606:4700:0::0001]", "2606:4700::1"), ("[2606::1%251]", None),
        (".".join(["a" * 49] * 5) + ".abc", ".".join(["a" * 49] * 5) + ".abc"),
        (".".join(["a" * 49] * 5) + ".abcd", None),
    ],
)  # fmt: skip
def test_plain_hosts(host: str, plain: str | None) -> None:
    assert plain_host(httpx.URL(f"https://{host}/")) == plain


def test_https_only() -> None:
    assert target("https://example.com/", https_only=True)[0] == "example.com"
    with pytest.raises(ImageError, match="https only"):
        target("http://example.com/", https_only=True)


def test_denied_hosts_win() -> None:
    for url in ("https://bad.example.com/", "https://example.com:8443/"):
        with pytest.raises(ImageError, match="not fetched here"):
            target(url, "*", "*:8443", "example.com:8443", deny_hosts=["*.example.com", "example.com"])


@pytest.mark.parametrize(
    ("deny", "refused", "passes"),
    [
        ("example.com:8443", ["https://example.com:8443/"], ["https://example.com/", "http://example.com/"]),
        ("*.example.com:443", ["https://a.example.com/"], ["https://a.example.com:8443/"]),
        ("*:80", ["http://example.com/"], ["https://example.com/", "https://example.com:8443/"]),
        ("example.com", ["http://example.com/", "https://example.com:8443/"], ["https://a.example.com/"]),
    ],
)
def test_a_denied_port_is_that_port_alone(deny: str, refused: list[str], passes: list[str]) -> None:
    for url in refused:
        with pytest.raises(ImageError, match="not fetched here"):
            target(url, "*", "*:8443", deny_hosts=[deny])
    for url in passes:
        assert target(url, "*", "*:8443", deny_hosts=[deny])[0].endswith("example.com")


@pytest.mark.parametrize(
    ("longest", "too_long"),
    [
        ("https://example.com/" + "a" * 8172, "https://example.com/" + "a" * 8173),
        ("https://" + "a" * 63 + ".com/", "https://" + "a" * 64 + ".com/"),
        (f"https://{'a.' * 125}com/", f"https://{'a.' * 125}comm/"),
        ("https://example.com:65535/", "https://example.com:65536/"),
        ("https://example.com:1/", "https://example.com:0/"),
    ],
)
def test_urls_hosts_and_ports_have_longest_forms(longest: str, too_long: str) -> None:
    allow = ("*", "*:65535", "*:1")
    assert target(longest, *allow)[0].endswith("com")
    with pytest.raises(ImageError):
        target(too_long, *allow)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("*", "", None), ("*:8443", "", 8443), (" Example.COM. ", "example.com", None),
        ("*.example.com:1", ".example.com", 1), ("example.com:65535", "example.com", 65535),
        ("[2606:4700:0::1]:81", "2606:4700::1", 81), ("a-b_c.example", "a-b_c.example", None),
    ],
)  # fmt: skip
def test_patterns_are_read(text: str, host: str, port: int | None) -> None:
    assert HostPattern.parse(text) == HostPattern(host, port)


def test_denied_networks_hold_for_addresses() -> None:
    rules = Rules(
        ImageFetching(allow_hosts=["*"], deny_hosts=["93.184.1.2/16", " 1.1.1.1 ", "2606:4700::/32"])
    )
    destination = rules.target("https://example.com/", WHERE)
    addresses = ("93.184.215.14", "1.1.1.1", "::ffff:1.1.1.1", "64:ff9b::101:101", "2606:4700::1111")
    assert not any(rules.may_connect(address, destination) for address in addresses)
    assert rules.may_connect("8.8.8.8", destination)
    assert not any(
        rules.may_connect(text, destination) for text in ("", "example.com", "8.8.8.8 ", "8.8.8.8/32")
    )
    # A network-specific way to IPv4 is denied as it is written; what it leads to is looked at anyway.
    translated = Rules(ImageFetching(allow_hosts=["*"], deny_hosts=["64:ff9b::/96"]))
    assert rules.may_connect("64:ff9b::8.8.8.8", destination)
    assert not rules.may_connect("64:ff9b::1.1.1.1", destination)
    assert not translated.may_connect("64:ff9b::8.8.8.8", destination)


@pytest.mark.parametrize(
    ("allow", "private", "expected"),
    [("store.svc", True, True), ("store.svc", False, False), ("*", True, False), ("*.svc", True, True)],
)
def test_private_addresses_need_the_switch_and_a_name(allow: str, private: bool, expected: bool) -> None:
    rules = Rules(ImageFetching(allow_hosts=[allow], allow_private=private))
    destination = rules.target("http://store.svc/", WHERE)
    assert rules.may_connect("10.0.0.7", destination) is expected
    assert rules.may_connect("fd00::7", destination) is expected
    for never in ("127.0.0.1", "::1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1"):
        assert not rules.may_connect(never, destination)


@pytest.mark.parametrize(
    "text", ["", "http://a", "a/b", "a b", "*.*", "a.*", "a:b", "a:0", "a:65536", "u@a", "127.1"]
)
def test_wrong_patterns_are_config_errors(text: str) -> None:
    with pytest.raises(ValueError, match="names no host") as caught:
        HostPattern.parse(text)
    remedy = "names no host: write example.com, *.example.com, example.com:8443 or *"
    assert str(caught.value) == f"{text!r} {remedy}"
    for field in ("allow_hosts", "deny_hosts"):
        with pytest.raises(ConfigError, match=r"example\.com"):
            ServerSettings.load(images={field: [text]})


def test_flags() -> None:
    words = ["--allow-image-host", "a.com", "--allow-image-host", "*.b.com:8443",
             "--deny-image-host", "c.b.com", "--allow-private-image-hosts",
             "--image-fetch", "timeout=3", "--image-fetch", "https_only=true"]  # fmt: skip
    images = ServerSettings.load(**settings_from_flags(mirl_parser().parse_args(words))).images
    assert images == ImageFetching(
        allow_hosts=("a.com", "*.b.com:8443"),
        deny_hosts=("c.b.com",),
        allow_private=True,
        timeout=3,
        https_only=True,
    )
    assert "images" not in settings_from_flags(mirl_parser().parse_args([]))
    with pytest.raises(UsageError, match="max_redirects"):
        settings_from_flags(mirl_parser().parse_args(["--image-fetch", "allow_hosts=x"]))


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRL_IMAGES__ALLOW_HOSTS", "a.com, *.b.com")
    monkeypatch.setenv("MIRL_IMAGES__ALLOW_PRIVATE", "true")
    images = ServerSettings.load().images
    assert (images.allow_hosts, images.allow_private) == (("a.com", "*.b.com"), True)


def test_what_is_set_where_the_operator_says_nothing() -> None:
    assert ImageFetching().model_dump() == {
        "allow_hosts": (),
        "deny_hosts": (),
        "allow_private": False,
        "https_only": False,
        "timeout": 10.0,
        "max_redirects": 3,
        "per_request": 4,
        "max_concurrent": 32,
    }
    for field, value in (("timeout", 0), ("max_redirects", -1), ("max_redirects", 21), ("per_request", 0),
                         ("max_concurrent", 0)):  # fmt: skip
        with pytest.raises(ConfigError, match=f"images.{field}"):
            ServerSettings.load(images={field: value})
    assert ImageFetching(max_redirects=20, per_request=1, max_concurrent=1).max_redirects == 20


def test_nothing_is_fetched_by_default() -> None:
    assert ServerSettings.load().images.allow_hosts == ()
    assert all(field.description for field in ImageFetching.model_fields.values())
