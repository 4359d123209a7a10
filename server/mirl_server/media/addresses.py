"""Classes of addresses: which ones an image may be fetched from, in any notation.

`public` addresses are routed on the internet, `private` ones an operator may allow for stores in the cluster,
and `forbidden` are all others: this machine, the link, cloud metadata, multicast, reserved ranges, tunnels.
The tables are here because `ipaddress.is_global` differs between Python releases and knows no metadata
services.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Kind = Literal["public", "private", "forbidden"]


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in text.split())


METADATA = _networks(
    "168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd00:ec2::123 fd20:ce::254"
)
"""Cloud services that issue credentials; most others are in 169.254.0.0/16."""
PRIVATE = _networks("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7")
"""RFC 1918, the carriers' shared space (used for pods in clusters), unique local IPv6."""
RESERVED = _networks(
    "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 "
    "192.88.99.0/24 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
    "2001::/23 2001:db8::/32 2002::/16 3ffe::/16 3fff::/20"
)
"""IANA's special-purpose registries, with Teredo (in 2001::/23) and 6to4 (2002::/16)."""
UNICAST6 = ipaddress.IPv6Network("2000::/3")
"""The routed part of IPv6: an address outside it is never public."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Public IPv4 in an IPv6-only network. The local-use 64:ff9b:1::/48 stays forbidden."""


def unwrapped(text: str) -> Address | None:
    """Return the address, as IPv4 where `text` is an IPv6 form of it; None where `text` is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.scope_id is not None:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else address


def kind_of(text: str) -> Kind:
    """Return whether an address may be connected to: always, with the operator's permission, or never."""
    address = unwrapped(text)
    if address is None or within(address, METADATA) or within(address, RESERVED):
        return "forbidden"
    if within(address, PRIVATE):
        return "private"
    return "public" if address.version == 4 or address in UNICAST6 else "forbidden"


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Return whether an address lies in one of the networks."""
    return any(address.version == network.version and address in network for network in networks)
