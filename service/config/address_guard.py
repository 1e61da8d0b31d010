"""Decides which IP addresses the service may fetch pictures from: public ones, and those that the operator allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
"""NAT64 prefix of RFC 6052. The last 32 bits are an IPv4 address."""
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
"""NAT64 prefix for local use, of RFC 8215. The local network decides what such an address means."""
_IPV4_COMPATIBLE = IPv6Network("::/96")
"""IPv4-compatible addresses of RFC 4291, section 2.5.5.1, which are deprecated."""


def may_connect(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether an address, or each IPv4 address that it embeds, is public or in an allowed network.

    Private, loopback, link-local, multicast, shared (RFC 6598) and reserved addresses are not public.
    """
    return all(_is_public(one) or any(one in network for network in allowed) for one in _meanings(ip_address(address)))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address.is_site_local or address in _NAT64_LOCAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meanings(address: Address) -> Iterator[Address]:
    """The address itself, or the IPv4 addresses that a translator or tunnel endpoint would derive from it."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    elif address.sixtofour is not None:  # newer versions of Python call all of these private
        yield address.sixtofour
    else:
        yield address
        yield from address.teredo or ()
