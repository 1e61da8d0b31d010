"""Parses and applies the operator's list of hosts from which the service may fetch pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass

import idna

_ENTRY = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<any>\*\.)?(?P<host>\[[0-9a-f:.]+\]|[^\s/:@?#*\[\]\\%]+)(?::(?P<port>\d{1,5}))?/?"
)
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class PictureHost:
    """One entry of the list."""

    scheme: str
    host: str
    """The host name in ASCII, or an IP address; IPv6 addresses have no brackets here."""
    port: int
    subdomains: bool
    """Whether the entry allows the subdomains of `host` instead of `host` itself."""

    def allows(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether this entry allows a URL with these parts. `port` is None if the URL has none."""
        named = host.endswith("." + self.host) if self.subdomains else host == self.host
        return named and scheme == self.scheme and (_DEFAULT_PORTS[scheme] if port is None else port) == self.port


def picture_host(text: str) -> PictureHost:
    """Parse an entry: `cdn.shop.example`, `*.shop.example`, `pictures.internal:8443` or `http://10.0.0.7:8080`.

    Raises:
        ValueError: the entry has none of these forms.
    """
    match = _ENTRY.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a host. Give a name such as cdn.shop.example, *.shop.example or host:8443")
    host = match["host"].strip("[]")
    try:
        ascii_host = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"{text!r} is not a host: {error}") from None
    scheme = match["scheme"] or "https"
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ValueError(f"{text!r} has an invalid port; ports are 1 to 65535")
    return PictureHost(scheme, ascii_host, port, bool(match["any"]))
