"""Which addresses may be connected to, in every form that they are written in."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirl_server.media.addresses import kind_of


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
