"""Fetches the pictures that a request gives as URLs, from hosts that the operator allows.

A caller must not be able to reach private systems through the service (server-side request forgery). Therefore the host
must be on the operator's list, and every address that its name resolves to must be public or allowed. The service
resolves the name once and connects to one of these addresses, so that a later DNS answer has no effect. TLS and the
Host header still use the name. The service follows no redirects and uses no proxies from the environment.
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
"""Maximum length of a URL in characters."""


class AddressRefused(Exception):
    """The host has an address that the service may not connect to."""


async def resolve(host: str, port: int) -> list[str]:
    """Resolve a host name to all its addresses with the system's resolver."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await in_daemon_thread(look_up, name="resolve")
    return [str(entry[4][0]) for entry in found]


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that passed the check, never to a host name."""

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
    """Number of bytes that the pictures of one request may still use together."""

    left: int


class PictureFetch:
    """Fetches the pictures that requests give as URLs."""

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
            hosts: hosts from which pictures may be fetched.
            networks: private networks that are allowed nevertheless.
            seconds: time limit for one picture, from resolving the name to the last byte.
            max_picture_bytes: maximum size of one picture.
            max_total_bytes: maximum size of all pictures of a request.
        """
        self._hosts = hosts
        self._seconds = seconds
        self._max_picture_bytes = max_picture_bytes
        self._max_total_bytes = max_total_bytes
        self._network = GuardedNetwork(networks)

    async def blobs(self, pictures: Sequence[bytes | PictureUrl]) -> list[bytes]:
        """Return the bytes of all pictures. Those given as URLs are fetched concurrently.

        Raises:
            PictureUrlRefused: a URL may not be fetched.
            PictureFetchFailed: a picture could not be fetched.
            RequestTooLarge: one picture, or all pictures together, have too many bytes.
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
        """Parse a URL and check that its host is on the operator's list.

        Raises:
            PictureUrlRefused: the host is not on the list, or the form of the URL is not accepted.
        """
        if not self._hosts:
            raise PictureUrlRefused(
                name,
                "pictures by URL are disabled. Send the bytes, or ask the operator to allow the picture's host.",
            )
        if len(text) > _MAX_URL:
            raise PictureUrlRefused(name, f"the URL has more than {_MAX_URL} characters, which is the limit.")
        try:
            url = httpx.URL(text.strip())
            host = url.raw_host.decode("ascii")
            _ = url.host  # messages use the decoded name, and decoding fails for some
        except (httpx.InvalidURL, ValueError):
            raise PictureUrlRefused(name, "the URL is not valid.") from None
        if url.userinfo:
            raise PictureUrlRefused(name, "the URL contains a user name or password. Remove them.")
        if any(entry.allows(url.scheme, host, url.port) for entry in self._hosts):
            return url
        if url.scheme not in ("https", "http"):
            raise PictureUrlRefused(
                name, f"the URL has the scheme {url.scheme[:20]!a}. Send a URL that begins with https://."
            )
        raise PictureUrlRefused(
            name, f"{url.scheme}://{url.netloc.decode('ascii')[:200]} is not one of the hosts that the operator allows."
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
            raise PictureFetchFailed(
                name, f"{picture.host} did not send the picture within {self._seconds:g} s."
            ) from None
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
            raise PictureFetchFailed(name, f"{url.host} answered with a redirect. Send the picture's final URL.")
        if response.status != 200:
            raise PictureFetchFailed(name, f"{url.host} answered {response.status} instead of the picture.")
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise PictureFetchFailed(name, f"{url.host} compressed the response although it was asked not to.")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self._max_picture_bytes):
            raise self._too_large(name)

    def _too_large(self, name: str) -> RequestTooLarge:
        error = RequestTooLarge(
            f"{name}: the picture is larger than {self._max_picture_bytes / 2**20:.1f} MiB, or the five pictures "
            f"together are larger than {self._max_total_bytes / 2**20:.1f} MiB. Send smaller pictures."
        )
        error.picture = name
        return error
