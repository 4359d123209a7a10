"""Which addresses may be connected to, in every form that they are written in."""

from __future__ import annotations

import importlib.util
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_server.media.addresses import kind_of, unwrapped


@pytest.mark.parametrize(
    "address",
    ["93.184.215.14", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.169.0.1",
     "2606:4700::1111", "2a00:1450:4001:80b::200e", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"],
)  # fmt: skip
def test_public(address: str) -> None:
    assert kind_of(address) == "public"


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
     "100.127.255.1", "fc00::1", "fd12:3456::1", "::ffff:10.0.0.1", "::ffff:a00:1", "64:ff9b::10.0.0.1"],
)  # fmt: skip
def test_private(address: str) -> None:
    assert kind_of(address) == "private"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.255.0.3", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1",
     "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::a00:1", "2002:7f00:1::",
     "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "169.254.169.254", "169.254.170.2",
     "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::", "100.100.100.200",
     "168.63.129.16", "192.0.0.192",
     "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%eth0", "2606:4700::1111%1", "fec0::1", "ff02::1",
     "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.51.100.7", "203.0.113.9",
     "198.18.0.1", "192.88.99.1", "2001:db8::1", "2001:20::1", "3fff::1", "100::1", "5f00::1",
     "", "localhost", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "1.1.1.1/8", "1.1.1.1\n"],
)  # fmt: skip
def test_forbidden(address: str) -> None:
    assert kind_of(address) == "forbidden"


@pytest.mark.parametrize(
    ("before", "first", "last", "after"),
    [
        (None, "0.0.0.0", "0.255.255.255", "1.0.0.0"),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
        ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
        ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
        ("192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0"),
        ("192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0"),
        ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
        ("192.175.47.255", "192.175.48.0", "192.175.48.255", "192.175.49.0"),
        ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
        ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
        ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
        ("223.255.255.255", "224.0.0.0", "255.255.255.255", None),
        ("2000:ffff::ffff", "2001::", "2001:1ff:ffff::ffff", "2001:200::"),
        ("2001:db7:ffff::ffff", "2001:db8::", "2001:db8:ffff::ffff", "2001:db9::"),
        ("2001:ffff::ffff", "2002::", "2002:ffff::ffff", "2003::"),
        ("3ffd:ffff::ffff", "3ffe::", "3fff:fff::ffff", "3fff:1000::"),
        (None, "::", "1fff:ffff::ffff", "2000::"),
        ("3fff:ffff::ffff", "4000::", "fbff:ffff::ffff", None),
        (None, "fe00::", "ffff:ffff::ffff", None),
        (None, "64:ff9b:0:0:0:1:101:101", "64:ff9b:1::101:101", None),
    ],
)
def test_forbidden_ranges_end_where_the_registries_say(
    before: str | None, first: str, last: str, after: str | None
) -> None:
    assert (kind_of(first), kind_of(last)) == ("forbidden", "forbidden")
    assert [kind_of(neighbour) for neighbour in (before, after) if neighbour] == ["public"] * sum(
        map(bool, (before, after))
    )


@pytest.mark.parametrize(
    ("before", "first", "last", "after", "outside"),
    [
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", "public"),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0", "public"),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0", "public"),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0", "public"),
        ("fbff:ffff::ffff", "fc00::", "fdff:ffff::ffff", "fe00::", "forbidden"),
    ],
)
def test_private_ranges_end_where_the_registries_say(
    before: str, first: str, last: str, after: str, outside: str
) -> None:
    assert (kind_of(first), kind_of(last)) == ("private", "private")
    assert (kind_of(before), kind_of(after)) == (outside, outside)


@pytest.mark.parametrize(
    ("address", "around"),
    [
        ("100.100.100.200", ("100.100.100.199", "100.100.100.201")),
        ("fd00:ec2::254", ("fd00:ec2::253", "fd00:ec2::255")),
        ("fd00:ec2::23", ("fd00:ec2::22", "fd00:ec2::24")),
        ("fd00:ec2::123", ("fd00:ec2::122", "fd00:ec2::124")),
        ("fd20:ce::254", ("fd20:ce::253", "fd20:ce::255")),
    ],
)
def test_metadata_services_among_private_addresses(address: str, around: tuple[str, str]) -> None:
    assert kind_of(address) == "forbidden"
    assert [kind_of(neighbour) for neighbour in around] == ["private", "private"]


def test_nat64_reaches_to_its_last_address() -> None:
    assert kind_of("64:ff9b::dfff:ffff") == "public"
    assert str(unwrapped("64:ff9b::dfff:ffff")) == "223.255.255.255"
    assert str(unwrapped("::ffff:223.255.255.255")) == "223.255.255.255"
    assert str(unwrapped("64:ff9b:1::dfff:ffff")) == "64:ff9b:1::dfff:ffff"
    assert unwrapped("fe80::1%eth0") is unwrapped("localhost") is None


@given(st.ip_addresses())
def test_what_is_public_is_public_to_python_too(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if kind_of(str(address)) == "public" and not str(address).startswith("64:ff9b:"):
        assert (getattr(address, "ipv4_mapped", None) or address).is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_ipv4_means_the_same_inside_ipv6(address: ipaddress.IPv4Address) -> None:
    assert kind_of(f"::ffff:{address}") == kind_of(f"64:ff9b::{address}") == kind_of(str(address))
    assert kind_of(f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::1") == "forbidden"
    assert kind_of(f"::{address}") == "forbidden"


def test_a_fresh_load_of_the_tables_classifies_alike() -> None:
    """The tables are parsed at import, before any other test runs."""
    spec = importlib.util.find_spec(kind_of.__module__)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    kinds = {
        "8.8.8.8": "public",
        "10.0.0.1": "private",
        "100.100.100.200": "forbidden",
        "127.0.0.1": "forbidden",
    }
    assert {address: fresh.kind_of(address) for address in kinds} == kinds
