"""Which addresses count as public, in every notation."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from service.config.address_guard import may_connect

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.127.255.255", "192.0.0.170", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::a9fe:a9fe", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "100::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:a00:1::1",
    "2001:0:7f00:1::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_connected_to(address) -> None:
    assert may_connect(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_inside_are_refused_however_they_are_written(address) -> None:
    assert not may_connect(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("64:ff9b::a01:203", True),
        ("10.2.0.1", False),
        ("::ffff:10.2.0.1", False),
        ("fd00::5", True),
        ("fe80::1", False),
        ("169.254.169.254", False),
        ("8.8.8.8", True),
    ],
)
def test_the_operator_allows_networks_one_by_one(address, expected) -> None:
    assert may_connect(address, [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]) is expected
