"""Reads the proxy and the certificates for a client's address from the environment.

httpx reads the same variables, but fails with a traceback on an IPv6 address in NO_PROXY, a missing certificate file or
a malformed proxy. Here every invalid value raises a `ConfigurationError` that names its variable.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import getproxies

import httpx

from screening_client import log
from screening_client.errors import ConfigurationError

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Network:
    """The proxy and certificates for one address. It contains no sockets or contexts, so a fork can use it."""

    proxy: str | None = field(repr=False)
    """The proxy's URL, which may hold a password."""
    cert_file: str | None
    cert_dir: str | None

    @property
    def proxy_address(self) -> str | None:
        """The proxy's URL without user name and password, for messages."""
        return None if self.proxy is None else log.address(httpx.URL(self.proxy)).rstrip("/")

    def sync_client(self) -> httpx.Client:
        # Connections have no limit, because `concurrency` limits them and a wait would look like a slow service.
        verify = self._verify()
        limits = httpx.Limits(max_connections=None)
        return httpx.Client(verify=verify, proxy=self._proxy(verify), limits=limits, trust_env=False)

    def async_client(self) -> httpx.AsyncClient:
        verify = self._verify()
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(verify=verify, proxy=self._proxy(verify), limits=limits, trust_env=False)

    def _proxy(self, verify: ssl.SSLContext | bool) -> httpx.Proxy | None:
        if self.proxy is None:
            return None
        secure = self.proxy.startswith("https://") and isinstance(verify, ssl.SSLContext)
        return httpx.Proxy(self.proxy, ssl_context=verify if secure else None)  # type: ignore[arg-type]

    def _verify(self) -> ssl.SSLContext | bool:
        """Return the TLS context, or True for the certificates of certifi, which httpx uses by default."""
        if not (self.cert_file or self.cert_dir):
            return True
        try:
            return ssl.create_default_context(cafile=self.cert_file, capath=self.cert_dir)
        except OSError as error:  # SSLError included
            name, value = ("SSL_CERT_FILE", self.cert_file) if self.cert_file else ("SSL_CERT_DIR", self.cert_dir)
            raise ConfigurationError(
                f"{name}={value} contains no readable certificates ({error.strerror or error}). "
                f"Set {name} to certificates in PEM format, or unset it."
            ) from error


def network_for(base_url: str) -> Network:
    """Read the proxy and the certificates for `base_url` from the environment.

    Raises:
        ConfigurationError: a variable that applies to this address is not valid.
    """
    url = httpx.URL(base_url)
    network = Network(_proxy_for(url), _certificates("SSL_CERT_FILE"), _certificates("SSL_CERT_DIR"))
    network._verify()
    return network


def parsed_url(text: str) -> httpx.URL:
    """Parse a URL, and check that sockets accept its host and port.

    Raises:
        ValueError: it is not a URL, or sockets would refuse its host or port.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(str(error)) from error
    url.raw_host.decode().encode("idna")  # as sockets do; its UnicodeError is a ValueError
    if url.port is not None and not 0 < url.port <= 0xFFFF:
        raise ValueError(f"the port {url.port} is not between 1 and 65535")
    return url


def bypasses_proxy(url: httpx.URL, no_proxy: str) -> bool:
    """Whether an entry of `no_proxy` matches the address of `url`, according to curl's rules.

    An entry is a domain (which includes its subdomains), an IP address, a network such as `10.0.0.0/8` or `fd00::/8`,
    or `*`. Each may end in `:port`, and IPv6 addresses may be in brackets. Any other entry matches nothing.
    """
    port, host = url.port or _PORTS[url.scheme], url.raw_host.decode()
    return any(_matches(entry, url.scheme, host, port) for entry in no_proxy.replace(",", " ").split())


def _matches(entry: str, scheme: str, host: str, port: int) -> bool:
    if "://" in entry:
        wanted, _, entry = entry.partition("://")
        if wanted.lower() not in (scheme, "all"):
            return False
    name, wanted_port = _split_port(entry)
    if wanted_port not in ("", str(port)):
        return False
    if name == "*":
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        with suppress(ValueError):
            return address in ipaddress.ip_network(name, strict=False)
        return False
    domain = name.lower().removeprefix("*").strip(".")
    with suppress(UnicodeError):
        domain = domain.encode("idna").decode()  # the address has this form as well
    host = host.lower().rstrip(".")
    return bool(domain) and (host == domain or host.endswith("." + domain))


def _split_port(entry: str) -> tuple[str, str]:
    """Split `host:8000`, `[::1]:8000`, `[fd00::]/8` or `::1` into the name without brackets and the port or ""."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        if rest.startswith("/"):
            return name + rest, ""
    elif entry.count(":") == 1:
        name, _, rest = entry.partition(":")
    else:
        name, rest = entry, ""
    return name.partition("%")[0], rest.removeprefix(":")


def _proxy_for(url: httpx.URL) -> str | None:
    proxies = getproxies()  # includes the system's settings on macOS and Windows, as in httpx
    kind = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(kind, "").strip()
    if not proxy or bypasses_proxy(url, proxies.get("no", "")):
        return None
    return _checked_proxy(proxy if "://" in proxy else f"http://{proxy}", _variable(f"{kind}_proxy"), url.host)


def _checked_proxy(proxy: str, variable: str, host: str) -> str:
    remedy = f"Set {variable} to an address such as http://proxy.example.com:3128, unset it, or add {host} to NO_PROXY."
    try:
        address = parsed_url(proxy)
    except ValueError as error:
        raise ConfigurationError(f"{variable} is not a proxy's address ({error}). {remedy}") from error
    if address.scheme not in _PROXY_SCHEMES:
        schemes = ", ".join(_PROXY_SCHEMES)
        raise ConfigurationError(f"{variable} begins with {address.scheme}://, not with one of {schemes}. {remedy}")
    if not address.host:
        raise ConfigurationError(f"{variable} names no host. {remedy}")
    if address.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(
            f"{variable} names a SOCKS proxy ({address.scheme}://{address.host}), but the package socksio is not "
            f"installed. Run: pip install 'httpx[socks]'. Or unset {variable}, or add {host} to NO_PROXY."
        )
    return str(address)


def _certificates(name: str) -> str | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    is_there = Path(value).is_file() if name == "SSL_CERT_FILE" else any(map(os.path.isdir, value.split(os.pathsep)))
    if not is_there:
        kind = "file" if name == "SSL_CERT_FILE" else "directory"
        raise ConfigurationError(
            f"{name}={value} is not a {kind}. Set {name} to a {kind} of certificates in PEM format, or unset it."
        )
    return value


def _variable(name: str) -> str:
    """Return the variable's name in the spelling in which it is set. Lower case has precedence, as in `getproxies`."""
    spellings = (name, name.upper())
    return next((each for each in spellings if os.environ.get(each)), f"the system's {name.upper()}")
