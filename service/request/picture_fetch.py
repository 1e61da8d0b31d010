"""Fetches pictures that a request names by URL, from hosts that the operator allows.

A caller must not reach what only the service can reach (server-side request forgery). The host must stand on the
operator's list. Its name is resolved once; every address that it has must be public or allowed; and the connection
goes to one of these addresses, so that a second answer of the name server changes nothing. TLS and the Host header use
the name. Redirects and proxies of the environment are not followed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from ssl import SSLContext

import httpcore
import httpx

from screening import __version__
from screening.runtime.daemon_thread import in_daemon_thread
from service.config.address_guard import Network, may_connect
from service.config.picture_hosts import PictureHost
from service.errors import PictureFetchFailed, PictureUrlRefused, RequestTooLarge
from service.request.fields import PictureUrl, picture_name

_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": f"screening-service/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}
_MAX_URL = 8192
"""Characters."""


class AddressRefused(Exception):
    """The host has an address that may not be connected to."""


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, by the system's resolver."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await in_daemon_thread(look_up, name="resolve")
    return [str(entry[4][0]) for entry in found]


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were checked, never to a name."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await resolve(host, port)
        if not addresses or not all(may_connect(address, self._allowed) for address in addresses):
            raise AddressRefused
        error: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error


@dataclass(slots=True)
class _Budget:
    """Bytes that all pictures of one request may still have."""

    left: int


class PictureFetch:
    """Fetches the pictures of requests."""

    def __init__(
        self,
        hosts: Sequence[PictureHost],
        networks: Sequence[Network],
        *,
        seconds: float,
        max_picture_bytes: int,
        max_total_bytes: int,
    ) -> None:
        """
        Args:
            hosts: from which pictures may be fetched.
            networks: addresses allowed though they are not public.
            seconds: for one picture, from resolving the name to the last byte.
        """
        self._hosts = hosts
        self._seconds = seconds
        self._max_picture_bytes = max_picture_bytes
        self._max_total_bytes = max_total_bytes
        self._network = GuardedNetwork(networks)

    async def blobs(self, pictures: Sequence[bytes | PictureUrl]) -> list[bytes]:
        """The bytes of all pictures, those behind URLs fetched at the same time.

        Raises:
            PictureUrlRefused: a URL may not be fetched.
            PictureFetchFailed: a picture did not come.
            RequestTooLarge: one picture, or all together, have too many bytes.
        """
        names = [picture_name(index) for index in range(len(pictures))]
        checked = [
            self._checked(picture.url, name) if isinstance(picture, PictureUrl) else picture
            for picture, name in zip(pictures, names, strict=True)
        ]
        budget = _Budget(self._max_total_bytes - sum(len(one) for one in checked if isinstance(one, bytes)))
        async with httpcore.AsyncConnectionPool(self._tls, network_backend=self._network) as pool:
            jobs = [
                asyncio.create_task(self._blob(pool, one, name, budget))
                for one, name in zip(checked, names, strict=True)
            ]
            try:
                return await asyncio.gather(*jobs)
            finally:
                for job in jobs:
                    job.cancel()
                await asyncio.gather(*jobs, return_exceptions=True)

    @cached_property
    def _tls(self) -> SSLContext:
        return httpx.create_ssl_context()

    def _checked(self, text: str, name: str) -> httpx.URL:
        """A URL whose host is on the list.

        Raises:
            PictureUrlRefused: it is not, or the URL has a form that is not accepted.
        """
        if not self._hosts:
            raise PictureUrlRefused(
                name,
                "pictures by URL are switched off. Send the bytes, or ask the operator to allow the picture's host.",
            )
        if len(text) > _MAX_URL:
            raise PictureUrlRefused(name, f"the URL has more than {_MAX_URL} characters.")
        try:
            url = httpx.URL(text.strip())
            host = url.raw_host.decode("ascii")
            _ = url.host  # decodes the name for messages, which fails for some
        except (httpx.InvalidURL, ValueError):
            raise PictureUrlRefused(name, "the URL is not valid.") from None
        if url.userinfo:
            raise PictureUrlRefused(name, "the URL holds a user name or password. Leave them out.")
        if any(entry.allows(url.scheme, host, url.port) for entry in self._hosts):
            return url
        if url.scheme not in ("https", "http"):
            raise PictureUrlRefused(
                name, f"the URL begins with {url.scheme[:20]!a}. Give one that begins with https://."
            )
        raise PictureUrlRefused(
            name, f"{url.scheme}://{url.netloc.decode('ascii')[:200]} is not among the hosts that the operator allows."
        )

    async def _blob(
        self, pool: httpcore.AsyncConnectionPool, picture: bytes | httpx.URL, name: str, budget: _Budget
    ) -> bytes:
        if isinstance(picture, bytes):
            return picture
        try:
            async with asyncio.timeout(self._seconds):
                return await self._fetch(pool, picture, name, budget)
        except TimeoutError:
            raise PictureFetchFailed(name, f"{picture.host} did not send it within {self._seconds:g} s.") from None
        except AddressRefused:
            raise PictureUrlRefused(name, f"the address of {picture.host} is not public.") from None
        except (socket.gaierror, UnicodeError):
            raise PictureFetchFailed(name, f"the host name {picture.host} was not found.") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            why = str(error) or type(error).__name__
            raise PictureFetchFailed(name, f"the connection to {picture.host} failed ({why[:200]}).") from None

    async def _fetch(self, pool: httpcore.AsyncConnectionPool, url: httpx.URL, name: str, budget: _Budget) -> bytes:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        async with pool.stream("GET", target, headers=_HEADERS | {"Host": url.netloc}) as response:
            self._check_head(response, url, name)
            blob = bytearray()
            async for chunk in response.aiter_stream():
                blob += chunk
                budget.left -= len(chunk)
                if len(blob) > self._max_picture_bytes or budget.left < 0:
                    raise self._too_large(name)
            return bytes(blob)

    def _check_head(self, response: httpcore.Response, url: httpx.URL, name: str) -> None:
        headers = {key.lower(): value for key, value in response.headers}
        if 300 <= response.status < 400:
            raise PictureFetchFailed(name, f"{url.host} answered with a redirect. Give the picture's final address.")
        if response.status != 200:
            raise PictureFetchFailed(name, f"{url.host} answered {response.status} in place of the picture.")
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise PictureFetchFailed(name, f"{url.host} sent the picture compressed though it was asked not to.")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self._max_picture_bytes):
            raise self._too_large(name)

    def _too_large(self, name: str) -> RequestTooLarge:
        error = RequestTooLarge(
            f"{name}: the picture has more than {self._max_picture_bytes / 2**20:.1f} MiB, or all five more than "
            f"{self._max_total_bytes / 2**20:.1f} MiB. Send smaller pictures."
        )
        error.picture = name
        return error
