"""Access to the HTTP response of the service, for callers who need its headers or exact bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from screening_client import wire
from screening_client.request import RequestArguments
from screening_client.result import Screening

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from screening_client.async_client import AsyncClient
    from screening_client.client import Client


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response with status 200. An error status raises an error, as in `Client.screen`."""

    status: int
    headers: httpx.Headers
    """The response headers. Their names are case-insensitive: `headers["idempotent-replayed"]`."""
    content: bytes = field(repr=False)
    """The body, which is the JSON of the answer."""
    http_response: httpx.Response = field(repr=False, compare=False)

    @property
    def request_id(self) -> str | None:
        """The `X-Request-Id` of the request."""
        return wire.id_of(self.http_response)

    def parse(self) -> Screening:
        """Return the result that `Client.screen` would return.

        Raises:
            UnexpectedAnswer: the body is not a screening.
        """
        return wire.read_screening(self.http_response)


class ScreenArguments(RequestArguments, total=False):
    """The arguments of `Client.screen`, for type annotations."""

    extra_headers: Mapping[str, str] | None


class RawClient:
    """The client that `Client.with_raw_response` returns."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def screen(self, **arguments: Unpack[ScreenArguments]) -> RawResponse:
        """Do the same as `Client.screen`, but return the response instead of the result."""
        return self._client._call(read_raw, **arguments)


class AsyncRawClient:
    """The client that `AsyncClient.with_raw_response` returns."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def screen(self, **arguments: Unpack[ScreenArguments]) -> RawResponse:
        """Do the same as `AsyncClient.screen`, but return the response instead of the result."""
        return await self._client._call(read_raw, **arguments)


def read_raw(response: httpx.Response) -> RawResponse:
    return RawResponse(response.status_code, response.headers, response.content, response)
