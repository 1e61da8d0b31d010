"""The operator's list of hosts from which pictures may be fetched."""

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
    """In ASCII; an IPv6 address without brackets."""
    port: int
    subdomains: bool
    """Whether `host` stands for the names below it."""

    def allows(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether a URL with these parts may be fetched. `port` is None where the URL has none."""
        named = host.endswith("." + self.host) if self.subdomains else host == self.host
        return named and scheme == self.scheme and (_DEFAULT_PORTS[scheme] if port is None else port) == self.port


def picture_host(text: str) -> PictureHost:
    """Read an entry: `cdn.shop.example`, `*.shop.example`, `pictures.internal:8443`, `http://10.0.0.7:8080`.

    Raises:
        ValueError: it is none of these.
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
        raise ValueError(f"{text!r} has a port that is not between 1 and 65535")
    return PictureHost(scheme, ascii_host, port, bool(match["any"]))
